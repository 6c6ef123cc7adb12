//! `ztka cluster`

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ztka_api::{AccountMode, AgentMode, CreateCluster, CreateManifest, CreateToken, HostAlias};
use ztka_controller::AgentAccess;
use ztka_core::{ClusterName, RoleName};

use super::{
    label, labels,
    token::{TokenArgs, Wanted},
};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make a cluster
    Create {
        /// Its name, unique in the organisation
        name: ClusterName,
        /// What bindings may select it by, KEY=VALUE; may be repeated
        #[arg(long = "label", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// List the clusters that you may see
    List,
    /// Delete a cluster; its agents are refused from then on
    Delete {
        /// Name or id
        cluster: String,
    },
    /// One-time tokens that an agent of the cluster enrols with; prints a new one unless told otherwise
    Token(TokenArgs),
    /// Print the YAML that starts the agent: ztka cluster manifest NAME | kubectl apply -f -
    Manifest(Manifest),
}

#[derive(Args, Debug)]
pub(crate) struct Manifest {
    /// Name or id
    cluster: String,
    /// Container image of the agent
    #[arg(long, required_unless_present = "explain")]
    image: Option<String>,
    /// What the agent may do in its cluster: write any role, or bind the ClusterRoles of a ceiling
    #[arg(long, value_parser = mode, value_name = "dynamic|ceiling", default_value = "dynamic")]
    mode: AgentMode,
    /// A role of policy that may do anything under a ceiling, within the ClusterRole ztka:ceiling:ROLE; may be repeated
    #[arg(long, value_name = "ROLE")]
    ceiling: Vec<RoleName>,
    /// How users come to the apiserver: by a ServiceAccount each, or in their own names with the cluster's own RBAC
    #[arg(long, value_parser = accounts, value_name = "service-account|impersonate", default_value = "service-account")]
    accounts: AccountMode,
    /// Print what the agent may do in this mode, and why, in place of the YAML
    #[arg(long)]
    explain: bool,
    /// Where the agent finds the apiserver; by default as every pod does
    #[arg(long, value_name = "URL")]
    apiserver: Option<String>,
    /// A name that the pod resolves by itself, ADDRESS=NAME[,NAME]; may be repeated
    #[arg(long = "host-alias", value_parser = host_alias, value_name = "ADDRESS=NAMES")]
    host_aliases: Vec<HostAlias>,
    #[command(flatten)]
    token: Wanted,
}

fn mode(text: &str) -> Result<AgentMode, String> {
    match text {
        "dynamic" => Ok(AgentMode::Dynamic),
        "ceiling" => Ok(AgentMode::Ceiling),
        _ => Err("write dynamic or ceiling".into()),
    }
}

fn accounts(text: &str) -> Result<AccountMode, String> {
    match text {
        "service-account" => Ok(AccountMode::ServiceAccount),
        "impersonate" => Ok(AccountMode::Impersonate),
        _ => Err("write service-account or impersonate".into()),
    }
}

fn host_alias(text: &str) -> Result<HostAlias, String> {
    let (ip, names) = text.split_once('=').ok_or("write it as ADDRESS=NAME,NAME")?;
    let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is not an IP address"))?;
    Ok(HostAlias { ip, hostnames: names.split(',').map(String::from).collect() })
}

impl Cluster {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Create { name, labels } => {
                let labels = labels.into_iter().collect();
                let cluster = api.create_cluster(&org, &CreateCluster { name, labels }).await?;
                session.output.one(&cluster, || format!("cluster {} created ({})", cluster.name, cluster.id))
            }
            Self::List => {
                let clusters = api.clusters(&org).await?;
                session.output.list(&clusters, ["NAME", "ID", "LABELS", "AGENTS"], |cluster| {
                    let overdue = cluster.instances.iter().filter(|instance| instance.overdue).count();
                    let agents = match overdue {
                        0 => cluster.instances.len().to_string(),
                        _ => format!("{}, {overdue} not renewed", cluster.instances.len()),
                    };
                    [cluster.name.to_string(), cluster.id.to_string(), labels(&cluster.labels), agents]
                })
            }
            Self::Delete { cluster } => {
                let id = session.cluster(&org, &cluster).await?;
                api.delete_cluster(&org, &id).await?;
                session.output.one(&serde_json::json!({ "id": id }), || format!("cluster {cluster} deleted"))
            }
            Self::Token(command) => command.run(session, &org).await,
            Self::Manifest(Manifest { explain: true, mode, accounts, ceiling, .. }) => {
                let ceiling = ceiling.iter().map(|role| (role.to_string(), Vec::new())).collect();
                let text = AgentAccess { mode, accounts, ceiling }.explain();
                session.output.one(&serde_json::json!({ "explanation": text }), || text.clone())
            }
            Self::Manifest(Manifest {
                cluster,
                image,
                apiserver,
                host_aliases,
                token,
                mode,
                accounts,
                ceiling,
                ..
            }) => {
                let (id, image) = (session.cluster(&org, &cluster).await?, image.unwrap_or_default());
                let CreateToken { ttl_seconds, sources, approval } = token.token()?;
                let wanted = CreateManifest {
                    image,
                    apiserver,
                    host_aliases,
                    ttl_seconds,
                    sources,
                    approval,
                    mode,
                    accounts,
                    ceiling,
                };
                let yaml = api.create_manifest(&org, &id, &wanted).await?;
                session.output.one(&serde_json::json!({ "manifest": yaml }), || yaml.clone())
            }
        }
    }
}
