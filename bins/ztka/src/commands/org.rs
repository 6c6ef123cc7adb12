//! `ztka org`

use clap::Subcommand;
use ztka_api::CreateOrg;
use ztka_core::OrgName;

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
}

impl Org {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Create { name } => {
                let org = session.api.create_org(&CreateOrg { name }).await?;
                session.output.one(&org, || format!("organisation {} created ({})", org.name, org.id))
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
