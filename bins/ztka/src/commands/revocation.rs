//! `ztka revocation`

use anyhow::ensure;
use clap::{Args, Subcommand};
use ztka_api::Revoke;
use ztka_core::{InstanceId, ProxyId};

use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Revocation {
    /// List what is revoked by name in the organisation; credentials: ztka credential list
    List {
        /// Of the installation: proxies, servers, whole organisations
        #[arg(long)]
        installation: bool,
    },
    /// Revoke one certificate, an agent, a proxy, or all of the organisation: at once, with everything that is open
    Add(What),
    /// Take the revocation of the whole organisation back
    Restore,
}

/// What is revoked: one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct What {
    /// Serial number of one certificate, in hexadecimal, of the organisation
    #[arg(long)]
    serial: Option<String>,
    /// The same of a server, a proxy or a controller
    #[arg(long, value_name = "SERIAL")]
    installation_serial: Option<String>,
    /// Id of an agent, as `ztka cluster list -o json` shows it
    #[arg(long)]
    instance: Option<InstanceId>,
    /// Id of a proxy
    #[arg(long)]
    proxy: Option<ProxyId>,
    /// The organisation itself: its agents, its users, and the authorities that have issued to them
    #[arg(long)]
    whole_org: bool,
}

/// As openssl and others print it, with colons, capitals and zeros in front; whole bytes.
fn serial(text: &str) -> String {
    let digits: String = text.chars().filter(|char| *char != ':').collect();
    let digits = digits.to_ascii_lowercase();
    let digits = digits.trim_start_matches("0x").trim_start_matches('0');
    if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") }
}

impl Revocation {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let api = &session.api;
        match self {
            Self::List { installation } => {
                let revoked = match installation {
                    true => api.installation_revocations().await?,
                    false => api.revocations(&session.org().await?).await?,
                };
                session.output.list(&revoked, ["KIND", "NAME", "SINCE", "UNTIL"], |revoked| {
                    let until = revoked.ends.map_or("taken back".into(), |ends| ends.to_string());
                    [revoked.kind.clone(), revoked.name.clone(), revoked.since.to_string(), until]
                })
            }
            Self::Add(what) => {
                let revoke = |kind: &str, name: String| Revoke { kind: kind.into(), name };
                let in_org = match (&what.serial, &what.instance) {
                    (Some(text), _) => Some(revoke("serial", serial(text))),
                    (None, Some(instance)) => Some(revoke("instance", instance.to_string())),
                    (None, None) => None,
                };
                let revoked = match in_org {
                    Some(wanted) => api.revoke(&session.org().await?, &wanted).await?,
                    None => {
                        let wanted = match (&what.installation_serial, &what.proxy) {
                            (Some(text), _) => revoke("serial", serial(text)),
                            (None, Some(proxy)) => revoke("proxy", proxy.to_string()),
                            (None, None) => {
                                ensure!(what.whole_org, "say what to revoke");
                                revoke("org", session.org().await?.to_string())
                            }
                        };
                        api.revoke_in_installation(&wanted).await?
                    }
                };
                session.output.one(&revoked, || format!("{} {} revoked", revoked.kind, revoked.name))
            }
            Self::Restore => {
                let org = session.org().await?;
                api.restore_org(&org).await?;
                session.output.one(&serde_json::json!({ "id": org }), || format!("organisation {org} restored"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_taken_as_others_print_them() {
        for text in ["0A:1b:FF", "0a1bff", "A1BFF", "0x0a1bff", "00:0A:1B:FF"] {
            assert_eq!(serial(text), "0a1bff");
        }
        assert_eq!(serial("FF:00"), "ff00");
    }
}
