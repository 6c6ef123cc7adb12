//! `ztka user`

use clap::{Subcommand, ValueEnum};
use ztka_api::{AdminRole, CreateUser};
use ztka_core::UserName;

use crate::session::Session;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Admin {
    /// The installation
    System,
    /// The organisation
    Org,
}

impl From<Admin> for AdminRole {
    fn from(admin: Admin) -> Self {
        match admin {
            Admin::System => Self::SystemAdmin,
            Admin::Org => Self::OrgAdmin,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Make a user
    Create {
        /// The name, unique in the organisation
        name: UserName,
        /// What the user may administer
        #[arg(long, value_enum)]
        admin: Option<Admin>,
        /// Make the user a member of this group; may be repeated
        #[arg(long = "group")]
        groups: Vec<ztka_core::GroupName>,
    },
    /// List the users of the organisation
    List,
    /// Disable a user: every session ends, at once
    Disable {
        /// Name or id
        user: String,
    },
    /// Enable a user again, who needs a new credential then
    Enable {
        /// Name or id
        user: String,
    },
}

impl User {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Create { name, admin, groups } => {
                let user = api.create_user(&org, &CreateUser { name, admin: admin.map(Into::into) }).await?;
                for group in &groups {
                    api.add_member(&org, group, &user.id).await?;
                }
                let user = api.user(&org, &user.id).await?;
                session.output.one(&user, || format!("user {} created ({})", user.name, user.id))
            }
            Self::List => {
                let users = api.users(&org).await?;
                session.output.list(&users, ["NAME", "ID", "GROUPS", "STATE"], |user| {
                    let groups: Vec<_> = user.groups.iter().map(|group| group.as_str()).collect();
                    let groups = if groups.is_empty() { "-".into() } else { groups.join(",") };
                    let state = user.disabled.map_or("enabled".into(), |since| format!("disabled since {since}"));
                    [user.name.to_string(), user.id.to_string(), groups, state]
                })
            }
            Self::Disable { user } => {
                let user = session.user(&org, &user).await?;
                api.disable_user(&org, &user.id).await?;
                let user = api.user(&org, &user.id).await?;
                session.output.one(&user, || format!("user {} disabled", user.name))
            }
            Self::Enable { user } => {
                let user = session.user(&org, &user).await?;
                api.enable_user(&org, &user.id).await?;
                let user = api.user(&org, &user.id).await?;
                session.output.one(&user, || format!("user {} enabled; a new credential is needed", user.name))
            }
        }
    }
}
