//! `ztka cluster`

use std::{net::IpAddr, time::Duration};

use clap::{Args, Subcommand};
use ztka_api::{CreateCluster, CreateManifest, CreateToken, HostAlias};
use ztka_core::ClusterName;

use super::{duration, label, labels, seconds};
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
    /// Print a one-time token that an agent of the cluster enrols with
    Token {
        /// Name or id
        cluster: String,
        /// How long the token may be used; an hour by default, a week at most
        #[arg(long, value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// Print the YAML that starts the agent: ztka cluster manifest NAME | kubectl apply -f -
    Manifest(Manifest),
}

#[derive(Args, Debug)]
pub(crate) struct Manifest {
    /// Name or id
    cluster: String,
    /// Container image of the agent
    #[arg(long)]
    image: String,
    /// Where the agent finds the apiserver; by default as every pod does
    #[arg(long, value_name = "URL")]
    apiserver: Option<String>,
    /// A name that the pod resolves by itself, ADDRESS=NAME[,NAME]; may be repeated
    #[arg(long = "host-alias", value_parser = host_alias, value_name = "ADDRESS=NAMES")]
    host_aliases: Vec<HostAlias>,
    /// How long the token in it may be used; an hour by default, a week at most
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
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
                    let agents = cluster.instances.len().to_string();
                    [cluster.name.to_string(), cluster.id.to_string(), labels(&cluster.labels), agents]
                })
            }
            Self::Delete { cluster } => {
                let id = session.cluster(&org, &cluster).await?;
                api.delete_cluster(&org, &id).await?;
                session.output.one(&serde_json::json!({ "id": id }), || format!("cluster {cluster} deleted"))
            }
            Self::Token { cluster, ttl } => {
                let id = session.cluster(&org, &cluster).await?;
                let wanted = CreateToken { ttl_seconds: seconds(ttl)? };
                let token = api.create_enrolment_token(&org, &id, &wanted).await?;
                session.output.one(&token, || token.token.clone())
            }
            Self::Manifest(Manifest { cluster, image, apiserver, host_aliases, ttl }) => {
                let id = session.cluster(&org, &cluster).await?;
                let wanted = CreateManifest { image, apiserver, host_aliases, ttl_seconds: seconds(ttl)? };
                let yaml = api.create_manifest(&org, &id, &wanted).await?;
                session.output.one(&serde_json::json!({ "manifest": yaml }), || yaml.clone())
            }
        }
    }
}
