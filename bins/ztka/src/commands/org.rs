//! `ztka org`

use std::time::Duration;

use clap::Subcommand;
use ztka_api::{CreateOrg, UpdateOrg};
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
            Self::List => {
                let orgs = session.api.orgs().await?;
                session.output.list(&orgs, ["NAME", "ID", "CREATED"], |org| {
                    [org.name.to_string(), org.id.to_string(), org.created.to_string()]
                })
            }
        }
    }
}
