//! `ztka user`

use clap::{Subcommand, ValueEnum};
use ztka_api::{AdminRole, CreateUser, UpdateUser};
use ztka_core::UserName;

use super::{label, labels};
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
        /// What conditions of policy may go by, KEY=VALUE; may be repeated
        #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = label)]
        attributes: Vec<(String, String)>,
    },
    /// List the users of the organisation
    List,
    /// Show a user
    Show {
        /// Name or id
        user: String,
    },
    /// Change attributes of a user: in force at once, also on what is open
    Set {
        /// Name or id
        user: String,
        /// Give this attribute this value, KEY=VALUE; may be repeated
        #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = label, required_unless_present = "removed")]
        attributes: Vec<(String, String)>,
        /// Remove this attribute; may be repeated
        #[arg(long = "no-attribute", value_name = "KEY")]
        removed: Vec<String>,
    },
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

fn groups(user: &ztka_api::User) -> String {
    let groups: Vec<_> = user.groups.iter().map(|group| group.as_str()).collect();
    if groups.is_empty() { "-".into() } else { groups.join(",") }
}

fn state(user: &ztka_api::User) -> String {
    user.disabled.map_or("enabled".into(), |since| format!("disabled since {since}"))
}

fn update(attributes: Vec<(String, String)>, removed: Vec<String>) -> UpdateUser {
    let removed = removed.into_iter().map(|key| (key, None));
    UpdateUser { attributes: removed.chain(attributes.into_iter().map(|(key, value)| (key, Some(value)))).collect() }
}

impl User {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Create { name, admin, groups, attributes } => {
                let user = api.create_user(&org, &CreateUser { name, admin: admin.map(Into::into) }).await?;
                for group in &groups {
                    api.add_member(&org, group, &user.id).await?;
                }
                if !attributes.is_empty() {
                    api.update_user(&org, &user.id, &update(attributes, Vec::new())).await?;
                }
                let user = api.user(&org, &user.id).await?;
                session.output.one(&user, || format!("user {} created ({})", user.name, user.id))
            }
            Self::List => {
                let users = api.users(&org).await?;
                session.output.list(&users, ["NAME", "ID", "GROUPS", "ATTRIBUTES", "STATE"], |user| {
                    let (name, id) = (user.name.to_string(), user.id.to_string());
                    [name, id, groups(user), labels(&user.attributes), state(user)]
                })
            }
            Self::Show { user } => {
                let user = session.user(&org, &user).await?;
                session.output.one(&user, || {
                    let (name, id, attributes) = (&user.name, &user.id, labels(&user.attributes));
                    format!("{name} ({id}), {}\ngroups: {}\nattributes: {attributes}", state(&user), groups(&user))
                })
            }
            Self::Set { user, attributes, removed } => {
                let user = session.user(&org, &user).await?;
                let user = api.update_user(&org, &user.id, &update(attributes, removed)).await?;
                session.output.one(&user, || format!("user {}: attributes {}", user.name, labels(&user.attributes)))
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
