//! `ztka role`

use clap::Subcommand;
use ztka_api::{CreateRole, Rule};
use ztka_core::RoleName;

use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Make a role with one rule, as kubectl create role does
    Create {
        /// The name, unique in the organisation
        name: RoleName,
        /// What may be done: get,list,watch,create,update,patch,delete,deletecollection or *
        #[arg(long = "verb", value_delimiter = ',', required = true)]
        verbs: Vec<String>,
        /// To what: RESOURCE[/SUBRESOURCE][.GROUP], such as pods/log or deployments.apps
        #[arg(long = "resource", value_delimiter = ',')]
        resources: Vec<String>,
        /// Only objects of this name; may be repeated
        #[arg(long = "resource-name")]
        resource_names: Vec<String>,
        /// To which paths that are no resources; * only at the end
        #[arg(long = "non-resource-url", value_delimiter = ',')]
        non_resource_urls: Vec<String>,
        /// Only to these ports, as 8080 or 9000-9100, of the one resource pods/portforward
        #[arg(long = "port", value_delimiter = ',')]
        ports: Vec<String>,
        /// It looks at things only, whatever its rules say
        #[arg(long)]
        read_only: bool,
    },
    /// List the roles, the built-in ones first
    List,
    /// Delete a role that no binding gives
    Delete {
        /// The name
        name: RoleName,
    },
}

/// One rule per API group, in the order of their first resource.
fn rules(verbs: &[String], resources: Vec<String>, names: &[String], urls: Vec<String>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for resource in resources {
        let (kind, subresource) = match resource.split_once('/') {
            Some((kind, subresource)) => (kind.to_owned(), Some(subresource.to_owned())),
            None => (resource, None),
        };
        // The group follows the first dot, wherever the subresource stands: deployments.apps/scale, deployments/scale.apps.
        let dotted = subresource.clone().filter(|text| text.contains('.')).unwrap_or_else(|| kind.clone());
        let group = dotted.split_once('.').map_or("", |(_, group)| group).to_owned();
        let bare = |text: String| text.split_once('.').map_or(text.clone(), |(bare, _)| bare.to_owned());
        let kind = bare(kind);
        let resource = subresource.map_or(kind.clone(), |subresource| format!("{kind}/{}", bare(subresource)));
        let group = if resource == "*" && group.is_empty() { "*".to_owned() } else { group };
        match rules.iter_mut().find(|rule| rule.api_groups == [group.clone()]) {
            Some(rule) => rule.resources.push(resource),
            None => rules.push(Rule {
                api_groups: vec![group],
                resources: vec![resource],
                verbs: verbs.to_vec(),
                resource_names: names.to_vec(),
                ..Rule::default()
            }),
        }
    }
    if !urls.is_empty() {
        rules.push(Rule { verbs: verbs.to_vec(), non_resource_urls: urls, ..Rule::default() });
    }
    rules
}

impl Role {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Create { name, verbs, resources, resource_names, non_resource_urls, ports, read_only } => {
                let mut rules = rules(&verbs, resources, &resource_names, non_resource_urls);
                rules.iter_mut().for_each(|rule| rule.ports.clone_from(&ports));
                anyhow::ensure!(!rules.is_empty(), "a role without --resource or --non-resource-url allows nothing");
                let role = api.create_role(&org, &CreateRole { name, rules, read_only }).await?;
                session.output.one(&role, || format!("role {} created", role.name))
            }
            Self::List => {
                let roles = api.roles(&org).await?;
                session.output.list(&roles, ["NAME", "RULES", "BUILT-IN"], |role| {
                    [role.name.to_string(), role.rules.len().to_string(), role.built_in.to_string()]
                })
            }
            Self::Delete { name } => {
                api.delete_role(&org, &name).await?;
                session.output.one(&serde_json::json!({ "name": name }), || format!("role {name} deleted"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_as_kubectl_reads_them() {
        let resources = ["pods", "pods/log", "deployments.apps", "deployments.apps/scale"].map(String::from).to_vec();
        let rules = rules(&["get".into()], resources, &[], vec!["/metrics".into()]);
        let seen: Vec<_> = rules.iter().map(|rule| (rule.api_groups.join(","), rule.resources.join(","))).collect();
        let expected = [("", "pods,pods/log"), ("apps", "deployments,deployments/scale"), ("", "")];
        assert_eq!(seen, expected.map(|(group, resources)| (group.to_owned(), resources.to_owned())));
    }
}
