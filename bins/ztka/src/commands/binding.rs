//! `ztka binding`

use clap::{Args, Subcommand};
use ztka_api::{ClusterSelector, CreateBinding, Scope, Subject};
use ztka_core::{BindingName, ClusterName, GroupName, RoleName, UserName};

use super::{label, labels};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Binding {
    /// Give users and groups a role on clusters
    Create(Create),
    /// List the bindings
    List,
    /// Delete a binding; what it allowed ends, at once
    Delete {
        /// The name
        name: BindingName,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The name, unique in the organisation
    name: BindingName,
    /// The role
    #[arg(long)]
    role: RoleName,
    /// Who gets it; may be repeated
    #[arg(long = "user")]
    users: Vec<UserName>,
    /// The group whose members get it; may be repeated
    #[arg(long = "group")]
    groups: Vec<GroupName>,
    /// On this cluster; may be repeated
    #[arg(long = "cluster")]
    clusters: Vec<ClusterName>,
    /// On clusters that carry all of these labels, KEY=VALUE; may be repeated
    #[arg(long = "cluster-label", value_parser = label)]
    cluster_labels: Vec<(String, String)>,
    /// On every cluster of the organisation, those to come included
    #[arg(long)]
    all_clusters: bool,
    /// In this namespace; may be repeated; in the whole cluster if there is none
    #[arg(long = "namespace", short)]
    namespaces: Vec<String>,
}

impl Create {
    fn wanted(self) -> anyhow::Result<CreateBinding> {
        let users = self.users.into_iter().map(Subject::User);
        let subjects: Vec<_> = users.chain(self.groups.into_iter().map(Subject::Group)).collect();
        anyhow::ensure!(!subjects.is_empty(), "say who gets the role, by --user or --group");
        let clusters = ClusterSelector {
            all: self.all_clusters,
            ids: Vec::new(),
            names: self.clusters,
            match_labels: Some(self.cluster_labels.into_iter().collect())
                .filter(|labels: &std::collections::BTreeMap<_, _>| !labels.is_empty()),
        };
        let some = clusters.all || !clusters.names.is_empty() || clusters.match_labels.is_some();
        anyhow::ensure!(some, "say on which clusters, by --cluster, --cluster-label or --all-clusters");
        let scope = match self.namespaces.is_empty() {
            true => Scope::Cluster,
            false => Scope::Namespaces(self.namespaces),
        };
        Ok(CreateBinding { name: self.name, role: self.role, subjects, clusters, scope })
    }
}

impl Binding {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Create(create) => {
                let binding = api.create_binding(&org, &create.wanted()?).await?;
                session.output.one(&binding, || format!("binding {} created", binding.name))
            }
            Self::List => {
                let bindings = api.bindings(&org).await?;
                session.output.list(&bindings, ["NAME", "ROLE", "SUBJECTS", "CLUSTERS", "NAMESPACES"], |binding| {
                    let subjects: Vec<_> = binding.subjects.iter().map(subject).collect();
                    let scope = match &binding.scope {
                        Scope::Cluster => "all".into(),
                        Scope::Namespaces(namespaces) => namespaces.join(","),
                    };
                    let (name, role) = (binding.name.to_string(), binding.role.to_string());
                    [name, role, subjects.join(","), clusters(&binding.clusters), scope]
                })
            }
            Self::Delete { name } => {
                api.delete_binding(&org, &name).await?;
                session.output.one(&serde_json::json!({ "name": name }), || format!("binding {name} deleted"))
            }
        }
    }
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::User(user) => format!("user:{user}"),
        Subject::Group(group) => format!("group:{group}"),
    }
}

fn clusters(selector: &ClusterSelector) -> String {
    let mut parts: Vec<String> = Vec::new();
    if selector.all {
        parts.push("all".into());
    }
    parts.extend(selector.names.iter().map(ToString::to_string));
    parts.extend(selector.ids.iter().map(ToString::to_string));
    parts.extend(selector.match_labels.as_ref().map(labels));
    parts.join(",")
}
