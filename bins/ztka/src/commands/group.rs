//! `ztka group`

use clap::Subcommand;
use ztka_api::CreateGroup;
use ztka_core::GroupName;

use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Make an empty group
    Create {
        /// The name, unique in the organisation
        name: GroupName,
    },
    /// List groups and their members
    List,
    /// Make a user a member
    Add {
        /// The group
        group: GroupName,
        /// Name or id of the user
        user: String,
    },
    /// End a membership
    Remove {
        /// The group
        group: GroupName,
        /// Name or id of the user
        user: String,
    },
}

impl Group {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Create { name } => {
                let group = api.create_group(&org, &CreateGroup { name }).await?;
                session.output.one(&group, || format!("group {} created", group.name))
            }
            Self::List => {
                let groups = api.groups(&org).await?;
                session.output.list(&groups, ["NAME", "MEMBERS"], |group| {
                    let members: Vec<_> = group.members.iter().map(|member| member.name.as_str()).collect();
                    [group.name.to_string(), if members.is_empty() { "-".into() } else { members.join(",") }]
                })
            }
            Self::Add { group, user } => {
                let user = session.user(&org, &user).await?;
                api.add_member(&org, &group, &user.id).await?;
                let done = serde_json::json!({ "group": group, "user": user.id });
                session.output.one(&done, || format!("{} is a member of {group}", user.name))
            }
            Self::Remove { group, user } => {
                let user = session.user(&org, &user).await?;
                api.remove_member(&org, &group, &user.id).await?;
                let done = serde_json::json!({ "group": group, "user": user.id });
                session.output.one(&done, || format!("{} is no member of {group} any more", user.name))
            }
        }
    }
}
