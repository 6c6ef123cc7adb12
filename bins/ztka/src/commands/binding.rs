//! `ztka binding`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ztka_api::{ClusterSelector, CreateBinding, Scope, Subject};
use ztka_core::{BindingName, ClusterName, GroupName, RoleName, UserName};

use super::{label, labels};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Binding {
    /// Give users and groups a role on clusters
    Create(Box<Create>),
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
    /// On the clusters of this project, those to come included; may be repeated
    #[arg(long = "project")]
    projects: Vec<String>,
    /// On every cluster of the organisation, those to come included
    #[arg(long)]
    all_clusters: bool,
    /// In this namespace; may be repeated; in the whole cluster if there is none
    #[arg(long = "namespace", short)]
    namespaces: Vec<String>,
    /// In every namespace, and nowhere outside of them
    #[arg(long, conflicts_with = "namespaces")]
    all_namespaces: bool,
    /// In namespaces that carry all of these labels, as policy has them, KEY=VALUE; may be repeated
    #[arg(long = "namespace-label", value_parser = label, conflicts_with_all = ["namespaces", "all_namespaces"])]
    namespace_labels: Vec<(String, String)>,
    /// Counts from then on
    #[arg(long, value_name = "TIME")]
    valid_from: Option<Timestamp>,
    /// Does not count any more then
    #[arg(long, value_name = "TIME")]
    valid_until: Option<Timestamp>,
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
            projects: self.projects,
            match_expressions: Vec::new(),
            match_labels: Some(self.cluster_labels.into_iter().collect())
                .filter(|labels: &std::collections::BTreeMap<_, _>| !labels.is_empty()),
        };
        let named = !clusters.names.is_empty() || !clusters.projects.is_empty();
        let some = clusters.all || named || clusters.match_labels.is_some();
        anyhow::ensure!(some, "say on which clusters, by --cluster, --cluster-label, --project or --all-clusters");
        let scope = match (self.all_namespaces, self.namespaces.is_empty(), self.namespace_labels.is_empty()) {
            (true, _, _) => Scope::AllNamespaces,
            (_, false, _) => Scope::Namespaces(self.namespaces),
            (_, _, false) => Scope::NamespaceLabels(self.namespace_labels.into_iter().collect()),
            _ => Scope::Cluster,
        };
        let (name, role, when, obligations) = (self.name, self.role, None, None);
        let (valid_from, valid_until) = (self.valid_from, self.valid_until);
        Ok(CreateBinding { name, role, subjects, clusters, scope, valid_from, valid_until, when, obligations })
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
                        Scope::AllNamespaces => "every".into(),
                        Scope::Namespaces(namespaces) => namespaces.join(","),
                        Scope::NamespaceLabels(wanted) => labels(wanted),
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
    parts.extend(selector.projects.iter().map(|project| format!("project:{project}")));
    parts.extend(selector.match_expressions.iter().map(ToString::to_string));
    parts.extend(selector.match_labels.as_ref().map(labels));
    parts.join(",")
}
