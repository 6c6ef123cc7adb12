//! `ztka org`

use std::{
    io::{BufRead as _, IsTerminal as _},
    time::Duration,
};

use anyhow::{bail, ensure};
use clap::Subcommand;
use ztka_api::{CreateOrg, Progress, UpdateOrg};
use ztka_core::OrgName;

use super::{duration, seconds};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Org {
    /// Make an organisation
    Create {
        /// Its name, unique in the installation
        name: OrgName,
    },
    /// List the organisations that you may see
    List,
    /// Delete the organisation --org with all it has: its users and agents are cut off at once, for good
    Delete {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Return at once instead of when everything is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// List the organisations that were deleted, and how far their removal is
    Deletions,
    /// Replace the data key of the organisation: what is written from now on is sealed under a new one, the rest follows
    RotateKey {
        /// Return at once instead of when everything is sealed under the new key
        #[arg(long)]
        no_wait: bool,
    },
    /// List the data keys of the organisation, newest first, and how far sealing is
    Keys,
    /// Limit how long credentials of the organisation may last, renewals included; those that there are keep their end
    Limit {
        /// 30 s to 366 days, which is the limit if none is given
        #[arg(long, value_parser = duration)]
        credentials: Option<Duration>,
    },
}

impl Org {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Create { name } => {
                let org = session.api.create_org(&CreateOrg { name }).await?;
                session.output.one(&org, || format!("organisation {} created ({})", org.name, org.id))
            }
            Self::Limit { credentials } => {
                let org = session.org().await?;
                let update = UpdateOrg { longest_credential_seconds: seconds(credentials)? };
                let org = session.api.update_org(&org, &update).await?;
                session.output.one(&org, || match org.longest_credential_seconds {
                    Some(seconds) => format!("credentials of {} last {seconds} s at most", org.name),
                    None => format!("credentials of {} last 366 days at most", org.name),
                })
            }
            Self::RotateKey { no_wait } => {
                let org = session.org().await?;
                let mut keys = session.api.rotate_data_key(&org).await?;
                while !no_wait && keys.sealing.is_some() {
                    tokio::time::sleep(LOOK).await;
                    keys = session.api.data_keys(&org).await?;
                }
                session.output.one(&keys, || match &keys.sealing {
                    Some(_) => "a new data key seals from now on; see: ztka org keys".into(),
                    None => "everything is sealed under a new data key; the one before goes by itself".into(),
                })
            }
            Self::Keys => {
                let keys = session.api.data_keys(&session.org().await?).await?;
                let sealing = |newest: bool| match &keys.sealing {
                    _ if newest => "seals".to_owned(),
                    Some(Progress { failed: Some(failed), .. }) => format!("put off: {failed}"),
                    Some(progress) => format!("being replaced, {} values so far", progress.done),
                    None => "goes by itself".into(),
                };
                session.output.rows(
                    &keys,
                    ["CREATED", "MASTER KEY", "STATE"],
                    keys.keys
                        .iter()
                        .enumerate()
                        .map(|(place, key)| [key.created.to_string(), key.master.clone(), sealing(place == 0)]),
                )
            }
            Self::Delete { yes, no_wait } => delete(session, yes, no_wait).await,
            Self::Deletions => {
                let deletions = session.api.deletions().await?;
                session.output.list(&deletions, ["ID", "SINCE", "REMOVED", "STATE"], |deletion| {
                    let state = match (&deletion.finished, &deletion.failed) {
                        (Some(finished), _) => format!("gone since {finished}"),
                        (None, Some(failed)) => format!("put off: {failed}"),
                        (None, None) => "being removed".into(),
                    };
                    [deletion.org.to_string(), deletion.since.to_string(), deletion.removed.to_string(), state]
                })
            }
            Self::List => {
                let orgs = session.api.orgs().await?;
                session.output.list(&orgs, ["NAME", "ID", "CREATED"], |org| {
                    [org.name.to_string(), org.id.to_string(), org.created.to_string()]
                })
            }
        }
    }
}

/// While it is waited for, it is looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// Deletes the organisation that is named, and never one's own by default.
async fn delete(session: &Session, yes: bool, no_wait: bool) -> anyhow::Result<()> {
    ensure!(session.names_org(), "say which organisation: ztka --org NAME org delete");
    let id = session.org().await?;
    let orgs = session.api.orgs().await?;
    let name = orgs.iter().find(|org| org.id == id).map_or_else(|| id.to_string(), |org| org.name.to_string());
    if !yes {
        ensure!(std::io::stdin().is_terminal(), "nobody is there to ask; add --yes to delete {name} for good");
        eprint!("Everything of {name} goes, for good: users, clusters, policy, records. Its name, to go on: ");
        let mut typed = String::new();
        std::io::stdin().lock().read_line(&mut typed)?;
        if typed.trim() != name {
            bail!("nothing was deleted: that is not the name");
        }
    }
    session.api.delete_org(&id).await?;
    loop {
        let deletions = session.api.deletions().await?;
        let found = deletions.into_iter().find(|deletion| deletion.org == id);
        match found {
            Some(deletion) if no_wait || deletion.finished.is_some() => {
                return session.output.one(&deletion, || match deletion.finished {
                    Some(_) => format!("organisation {name} deleted, {} rows removed", deletion.removed),
                    None => format!("organisation {name} is cut off and being removed; see: ztka org deletions"),
                });
            }
            Some(_) => tokio::time::sleep(LOOK).await,
            None => bail!("the organisation is not among those deleted; see: ztka org deletions"),
        }
    }
}
