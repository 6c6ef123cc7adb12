//! The kubeconfig of a user: made by the command line, or by the controller for a download.

use std::fmt::{self, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{Access, ReachableCluster, SecretPem};

/// A kubeconfig (`client.config.k8s.io/v1`, kind `Config`), with a private key in it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kubeconfig {
    api_version: &'static str,
    kind: &'static str,
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: [NamedUser; 1],
}

#[derive(Serialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: String,
    certificate_authority_data: String,
}

#[derive(Serialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Serialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Serialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: SecretPem,
}

impl fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubeconfig").field("current_context", &self.current_context).finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// A context for each cluster in `access`, all with one certificate and key; clusters are named by TLS server name, or
    /// `by_path`, so that every context has the same one.
    pub fn new(access: &Access, chain: &str, key: &SecretPem, by_path: bool) -> Self {
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        let user = format!("{}@{}", access.user, access.org);
        let cluster = |cluster: &ReachableCluster| {
            // The server's certificate is valid for kube.<domain> and the names one label below it, whatever the front
            // is called or numbered; so the server is verified by name in both forms.
            let (path, server_name) = match cluster.server_name.split_once('.') {
                Some((_, common)) if by_path => (format!("/clusters/{}", cluster.id), common),
                _ => (String::new(), cluster.server_name.as_str()),
            };
            let details = Cluster {
                server: format!("https://{}{path}", access.front),
                tls_server_name: server_name.into(),
                certificate_authority_data: encoded(&access.ca_bundle),
            };
            NamedCluster { name: cluster.name.to_string(), cluster: details }
        };
        let context = |cluster: &ReachableCluster| {
            let name = cluster.name.to_string();
            NamedContext { context: Context { cluster: name.clone(), user: user.clone() }, name }
        };
        Self {
            api_version: "v1",
            kind: "Config",
            current_context: access.clusters.first().map_or(String::new(), |cluster| cluster.name.to_string()),
            clusters: access.clusters.iter().map(cluster).collect(),
            contexts: access.clusters.iter().map(context).collect(),
            users: [NamedUser {
                user: User {
                    client_certificate_data: encoded(chain),
                    client_key_data: Zeroizing::new(encoded(key.expose())).into(),
                },
                name: user,
            }],
        }
    }

    /// Room for the whole, so that the key is not left behind where the text has grown out of.
    fn room(&self) -> usize {
        let length = |cluster: &NamedCluster| cluster.cluster.certificate_authority_data.len() + 2048;
        let [NamedUser { user, .. }] = &self.users;
        let user = user.client_certificate_data.len() + user.client_key_data.expose().len();
        self.clusters.iter().map(length).sum::<usize>() + user + 4096
    }

    /// As JSON, which kubectl reads as well.
    ///
    /// # Errors
    /// None that texts cause.
    pub fn json(&self) -> serde_json::Result<Zeroizing<String>> {
        let mut json = Zeroizing::new(Vec::with_capacity(self.room()));
        serde_json::to_writer_pretty(&mut *json, self)?;
        json.push(b'\n');
        // JSON is UTF-8.
        String::from_utf8(std::mem::take(&mut *json)).map(Zeroizing::new).map_err(serde::ser::Error::custom)
    }

    /// As YAML: every text is quoted as JSON does, which YAML reads alike.
    pub fn yaml(&self) -> Zeroizing<String> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut yaml = Zeroizing::new(String::with_capacity(self.room()));
        // Writing to a string cannot fail.
        let _ = write!(yaml, "apiVersion: v1\nkind: Config\ncurrent-context: {}\n", quoted(&self.current_context));
        yaml.push_str(if self.clusters.is_empty() { "clusters: []\n" } else { "clusters:\n" });
        for NamedCluster { name, cluster } in &self.clusters {
            let Cluster { server, tls_server_name, certificate_authority_data } = cluster;
            let (name, server, tls_server_name) = (quoted(name), quoted(server), quoted(tls_server_name));
            let _ = write!(
                yaml,
                "- name: {name}\n  cluster:\n    server: {server}\n    tls-server-name: {tls_server_name}\n    \
                 certificate-authority-data: {certificate_authority_data}\n"
            );
        }
        yaml.push_str(if self.contexts.is_empty() { "contexts: []\n" } else { "contexts:\n" });
        for NamedContext { name, context: Context { cluster, user } } in &self.contexts {
            let (name, cluster, user) = (quoted(name), quoted(cluster), quoted(user));
            let _ = write!(yaml, "- name: {name}\n  context:\n    cluster: {cluster}\n    user: {user}\n");
        }
        let [NamedUser { name, user }] = &self.users;
        let _ = write!(
            yaml,
            "users:\n- name: {}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            quoted(name),
            user.client_certificate_data,
            user.client_key_data.expose(),
        );
        yaml
    }
}

#[cfg(test)]
mod tests {
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
        let key = Zeroizing::new("key".to_owned()).into();
        let config = Kubeconfig::new(&access, "chain", &key, false);
        assert_eq!(
            *config.yaml(),
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
        let by_path = Kubeconfig::new(&access, "chain", &key, true).yaml();
        assert!(by_path.contains(
            r#"
    server: "https://127.0.0.1:8443/clusters/c1"
    tls-server-name: "kube.example.com"
"#
        ));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&config.json().unwrap()).unwrap(),
            serde_json::json!({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "prod",
                "clusters": [{"name": "prod", "cluster": {
                    "server": "https://127.0.0.1:8443",
                    "tls-server-name": "c1.kube.example.com",
                    "certificate-authority-data": "Y2E=",
                }}],
                "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "alice@acme"}}],
                "users": [{"name": "alice@acme", "user": {
                    "client-certificate-data": "Y2hhaW4=",
                    "client-key-data": "a2V5",
                }}],
            })
        );
        let nothing = Kubeconfig::new(&Access { clusters: Vec::new(), ..access }, "chain", &key, false);
        assert!(nothing.yaml().contains("current-context: \"\"\nclusters: []\ncontexts: []\nusers:\n"));
    }

    #[test]
    fn a_kubeconfig_fits_into_the_room_that_is_made_for_it() {
        let long = "x".repeat(63);
        let cluster = ReachableCluster {
            id: long.parse().unwrap(),
            name: long.parse().unwrap(),
            server_name: format!("{long}.kube.{long}.{long}.{long}"),
        };
        let access = Access {
            org: long.parse().unwrap(),
            user: long.parse().unwrap(),
            front: format!("{long}.{long}.{long}:8443"),
            ca_bundle: "x".repeat(2000),
            clusters: vec![cluster; 50],
        };
        let key = Zeroizing::new("y".repeat(300)).into();
        for by_path in [false, true] {
            let config = Kubeconfig::new(&access, &"z".repeat(4000), &key, by_path);
            assert!(config.yaml().len() <= config.room());
            assert!(config.json().unwrap().len() <= config.room());
        }
    }
}
