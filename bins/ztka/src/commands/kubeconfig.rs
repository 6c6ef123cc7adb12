//! `ztka kubeconfig`

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use ztka_api::Access;

use super::{duration, issue};
use crate::{files, session::Session};

#[derive(Args, Debug)]
pub(crate) struct Kubeconfig {
    /// Name or id of the user; you by default
    #[arg(long)]
    user: Option<String>,
    /// How long the certificate is to live
    #[arg(long, value_parser = duration)]
    life: Option<Duration>,
    /// Where to write it; standard output by default
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name clusters by path instead of TLS server name: every context has the same tls-server-name, kube.<domain>
    #[arg(long)]
    path: bool,
}

impl Kubeconfig {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (org, user) = issue::user(session, self.user.as_deref()).await?;
        let issue::Issued { answer, key } = issue::issue(session, &org, &user, self.life).await?;
        let text = render(&answer.access, &answer.chain, &key, self.path);
        let Some(file) = self.file else {
            print!("{text}");
            return Ok(());
        };
        files::write_private(&file, text.as_bytes())?;
        session.output.one(&answer.access, || {
            let (count, name) = (answer.access.clusters.len(), file.display());
            format!("{name} written for {}: {count} clusters, valid until {}", user.name, answer.credential.not_after)
        })
    }
}

/// A kubeconfig (`client.config.k8s.io/v1`, kind `Config`); every text is quoted as JSON does, which YAML reads alike.
fn render(access: &Access, chain: &str, key: &str, by_path: bool) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let user = quoted(&format!("{}@{}", access.user, access.org));
    let mut clusters = String::new();
    let mut contexts = String::new();
    for cluster in &access.clusters {
        let name = quoted(cluster.name.as_str());
        // The server's certificate is valid for kube.<domain> and the names one label below it, whatever the front is
        // called or numbered; so the server is verified by name in both forms.
        let (path, server_name) = match cluster.server_name.split_once('.') {
            Some((_, common)) if by_path => (format!("/clusters/{}", cluster.id), common),
            _ => (String::new(), cluster.server_name.as_str()),
        };
        let server_name = quoted(server_name);
        let server = quoted(&format!("https://{}{path}", access.front));
        let ca = encoded(&access.ca_bundle);
        // Writing to a string cannot fail.
        let _ = write!(
            clusters,
            "- name: {name}\n  cluster:\n    server: {server}\n    tls-server-name: {server_name}\n    \
             certificate-authority-data: {ca}\n"
        );
        let _ = write!(contexts, "- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n");
    }
    let current = access.clusters.first().map_or(String::new(), |cluster| cluster.name.to_string());
    let list = |items: String| if items.is_empty() { " []\n".into() } else { format!("\n{items}") };
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {}\nclusters:{}contexts:{}users:\n- name: {user}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        quoted(&current),
        list(clusters),
        list(contexts),
        encoded(chain),
        encoded(key),
    )
}

#[cfg(test)]
mod tests {
    use ztka_api::ReachableCluster;

    use super::*;

    #[test]
    fn kubeconfig_has_a_context_per_cluster() {
        let access = Access {
            org: "acme".parse().unwrap(),
            user: "alice".parse().unwrap(),
            front: "127.0.0.1:8443".into(),
            ca_bundle: "ca".into(),
            clusters: vec![ReachableCluster {
                id: "c1".parse().unwrap(),
                name: "prod".parse().unwrap(),
                server_name: "c1.kube.example.com".into(),
            }],
        };
        let text = render(&access, "chain", "key", false);
        assert_eq!(
            text,
            r#"apiVersion: v1
kind: Config
current-context: "prod"
clusters:
- name: "prod"
  cluster:
    server: "https://127.0.0.1:8443"
    tls-server-name: "c1.kube.example.com"
    certificate-authority-data: Y2E=
contexts:
- name: "prod"
  context:
    cluster: "prod"
    user: "alice@acme"
users:
- name: "alice@acme"
  user:
    client-certificate-data: Y2hhaW4=
    client-key-data: a2V5
"#
        );
        let by_path = render(&access, "chain", "key", true);
        assert!(by_path.contains(
            r#"
    server: "https://127.0.0.1:8443/clusters/c1"
    tls-server-name: "kube.example.com"
"#
        ));
    }
}
