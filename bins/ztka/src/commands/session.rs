//! `ztka session`

use anyhow::ensure;
use clap::Subcommand;
use ztka_api::{Credential, User};
use ztka_core::{CredentialId, OrgId};

use super::issue;
use crate::session;

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// List a user's sessions, one per credential, with their ends
    List {
        /// Name or id of the user; you by default
        #[arg(long)]
        user: Option<String>,
    },
    /// End one session for good, at once, with every stream that is open in it; the user's others go on
    End {
        /// Id of the session's credential, as listed
        // Not named `credential`: that is the global option's.
        #[arg(value_name = "CREDENTIAL")]
        id: CredentialId,
        /// Name or id of the user; you by default
        #[arg(long)]
        user: Option<String>,
    },
}

impl Session {
    pub(crate) async fn run(self, session: &session::Session) -> anyhow::Result<()> {
        let api = &session.api;
        match self {
            Self::List { user } => {
                let (org, user) = issue::user(session, user.as_deref()).await?;
                let (own, credentials) = (api.whoami().await?.credential, api.credentials(&org, &user.id).await?);
                let now = jiff::Timestamp::now();
                session.output.list(&credentials, ["CREDENTIAL", "BEGAN", "ENDS", "STATE"], |credential| {
                    let Credential { id, created, not_after, .. } = credential;
                    [id.to_string(), created.to_string(), not_after.to_string(), state(credential, &own, now)]
                })
            }
            Self::End { id: credential, user } => {
                let (org, user) = issue::user(session, user.as_deref()).await?;
                let there = known(session, &org, &user, &credential).await?.is_some();
                ensure!(there, "{} has no session {credential}; see: ztka session list --user {0}", user.name);
                api.revoke_credential(&org, &user.id, &credential).await?;
                // Whoever has ended their own session cannot ask any more.
                let ended = known(session, &org, &user, &credential).await.unwrap_or_default();
                session.output.one(&ended, || format!("session {credential} of {} ended", user.name))
            }
        }
    }
}

/// A user's credential of this id.
pub(super) async fn known(
    session: &session::Session,
    org: &OrgId,
    user: &User,
    id: &CredentialId,
) -> anyhow::Result<Option<Credential>> {
    let known = session.api.credentials(org, &user.id).await?;
    Ok(known.into_iter().find(|known| known.id == *id))
}

pub(super) fn state(credential: &Credential, own: &CredentialId, now: jiff::Timestamp) -> String {
    match credential.revoked {
        Some(since) => format!("ended {since}"),
        None if credential.not_after <= now => "expired".into(),
        None if credential.id == *own => "active, this one".into(),
        None => "active".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_active_until_its_end() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let (own, other) = ("k1".parse().unwrap(), "k2".parse().unwrap());
        let credential = |revoked| Credential {
            id: "k1".parse().unwrap(),
            user: "u1".parse().unwrap(),
            created: at(0),
            not_after: at(100),
            renewed: None,
            last_used: None,
            revoked,
        };
        assert_eq!(state(&credential(None), &own, at(99)), "active, this one");
        assert_eq!(state(&credential(None), &other, at(99)), "active");
        assert_eq!(state(&credential(None), &own, at(100)), "expired");
        assert_eq!(state(&credential(Some(at(5))), &own, at(6)), "ended 1970-01-01T00:00:05Z");
    }
}
