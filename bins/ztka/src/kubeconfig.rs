//! What is read of a kubeconfig, whoever has written it: JSON, or YAML in block style, as kubectl and all that use its
//! libraries write it.
//!
//! Nothing is written from here: values are replaced in the text as it stands.

use std::fmt;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// The lists of a kubeconfig.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Contents {
    pub(crate) clusters: Vec<ClusterEntry>,
    pub(crate) contexts: Vec<ContextEntry>,
    pub(crate) users: Vec<UserEntry>,
}

#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct ClusterEntry {
    pub(crate) name: String,
    pub(crate) server: Option<String>,
    pub(crate) tls_server_name: Option<String>,
    /// In base64.
    pub(crate) authority: Option<String>,
}

#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct ContextEntry {
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) user: String,
}

#[derive(Default, Eq, PartialEq)]
pub(crate) struct UserEntry {
    pub(crate) name: String,
    /// In base64.
    pub(crate) certificate: Option<String>,
    /// In base64: a secret.
    pub(crate) key: Option<Secret>,
}

pub(crate) type Secret = zeroize::Zeroizing<String>;

impl fmt::Debug for UserEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The same as JSON has it.
#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default, alias = "context", alias = "user")]
    cluster: Fields,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Fields {
    server: Option<String>,
    tls_server_name: Option<String>,
    certificate_authority_data: Option<String>,
    cluster: Option<String>,
    user: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Contents {
    /// Reads either form.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let read = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).context("it is not a kubeconfig in JSON")?,
            false => yaml(text)?,
        };
        let cluster = |Named { name, cluster: fields }| ClusterEntry {
            name,
            server: fields.server,
            tls_server_name: fields.tls_server_name,
            authority: fields.certificate_authority_data,
        };
        let context = |Named { name, cluster: fields }| ContextEntry {
            name,
            cluster: fields.cluster.unwrap_or_default(),
            user: fields.user.unwrap_or_default(),
        };
        let user = |Named { name, cluster: fields }| UserEntry {
            name,
            certificate: fields.client_certificate_data,
            key: fields.client_key_data.map(Secret::new),
        };
        Ok(Self {
            clusters: read.clusters.into_iter().map(cluster).collect(),
            contexts: read.contexts.into_iter().map(context).collect(),
            users: read.users.into_iter().map(user).collect(),
        })
    }
}

/// A line that says something: how far it is indented, whether it begins an entry of a list, and what it says.
struct Line<'a> {
    indent: usize,
    begins: bool,
    key: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    /// None for lines that have no key: blank ones, comments, and what other lists hold.
    fn read(line: &'a str) -> anyhow::Result<Option<Self>> {
        let text = line.trim_start_matches(' ');
        ensure!(!text.starts_with('\t'), "it is indented by tabs, which YAML does not allow");
        let mut indent = line.len() - text.len();
        let stripped = text.strip_prefix("- ");
        let text = match stripped {
            Some(entry) => {
                let entry_text = entry.trim_start_matches(' ');
                indent += text.len() - entry_text.len();
                entry_text
            }
            None => text,
        };
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let found = text.split_once(": ").or_else(|| text.trim_end().strip_suffix(':').map(|key| (key, "")));
        let begins = stripped.is_some();
        Ok(found.map(|(key, value)| Self { indent, begins, key: plain(key), value }))
    }
}

/// A text without the quotes and the comment that may be around it.
fn plain(text: &str) -> &str {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some((inner, _)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inner;
        }
    }
    text.split_once(" #").map_or(text, |(text, _)| text.trim_end())
}

fn yaml(text: &str) -> anyhow::Result<Json> {
    let mut read = Json { clusters: Vec::new(), contexts: Vec::new(), users: Vec::new() };
    let mut list: Option<&str> = None;
    let mut entries: Option<usize> = None; // how far keys of the list's entries are indented
    let mut inside: Option<(&str, Option<usize>)> = None; // the mapping of the entry, and how far its keys are indented
    for line in text.lines() {
        let Some(line) = Line::read(line)? else { continue };
        if line.indent == 0 && !line.begins {
            ensure!(
                line.value.trim().is_empty()
                    || !["clusters", "contexts", "users"].contains(&line.key)
                    || line.value.trim() == "[]",
                "its list {:?} is not in block style; let kubectl write it: kubectl config view --raw",
                line.key
            );
            (list, entries, inside) = (Some(line.key), None, None);
            continue;
        }
        let Some(held) = list.and_then(|list| read.list(list)) else { continue };
        let is_entry = line.begins && entries.is_none_or(|indent| indent == line.indent);
        if is_entry {
            entries = Some(line.indent);
            held.push(Named { name: String::new(), cluster: Fields::default() });
        }
        let Some(entry) = held.last_mut() else { continue };
        if entries == Some(line.indent) {
            inside = matches!(line.key, "cluster" | "context" | "user").then_some((line.key, None));
            if line.key == "name" {
                entry.name = plain(line.value).into();
            }
            continue;
        }
        // Deeper than the entry's own keys: of its mapping only the first level is ours.
        if let Some((_, indent)) = &mut inside
            && *indent.get_or_insert(line.indent) == line.indent
            && !line.begins
        {
            entry.cluster.set(line.key, plain(line.value));
        }
    }
    Ok(read)
}

impl Json {
    fn list(&mut self, name: &str) -> Option<&mut Vec<Named>> {
        match name {
            "clusters" => Some(&mut self.clusters),
            "contexts" => Some(&mut self.contexts),
            "users" => Some(&mut self.users),
            _ => None,
        }
    }
}

impl Fields {
    fn set(&mut self, key: &str, value: &str) {
        let field = match key {
            "server" => &mut self.server,
            "tls-server-name" => &mut self.tls_server_name,
            "certificate-authority-data" => &mut self.certificate_authority_data,
            "cluster" => &mut self.cluster,
            "user" => &mut self.user,
            "client-certificate-data" => &mut self.client_certificate_data,
            "client-key-data" => &mut self.client_key_data,
            _ => return,
        };
        *field = Some(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubectl writes it, with what others leave in such files.
    const YAML: &str = r#"# of mine
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Y2E=
    extensions:
    - extension:
        server: https://wrong.example.com
      name: cluster_info
    server: https://kube.example.com:443
    tls-server-name: c1.kube.example.com
  name: prod
- cluster:
    server: https://127.0.0.1:6443 # near
  name: 'kind: here'
contexts:
- context:
    cluster: prod
    namespace: shop
    user: alice@acme
  name: "prod"
current-context: prod
kind: Config
preferences: {}
users:
- name: alice@acme
  user:
    client-certificate-data: "Y2hhaW4="
    client-key-data: a2V5
- name: other
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - client-key-data: wrong
      - get-token
      command: tool
"#;

    fn expected() -> Contents {
        let some = |text: &str| Some(text.to_owned());
        Contents {
            clusters: vec![
                ClusterEntry {
                    name: "prod".into(),
                    server: some("https://kube.example.com:443"),
                    tls_server_name: some("c1.kube.example.com"),
                    authority: some("Y2E="),
                },
                ClusterEntry {
                    name: "kind: here".into(),
                    server: some("https://127.0.0.1:6443"),
                    ..ClusterEntry::default()
                },
            ],
            contexts: vec![ContextEntry { name: "prod".into(), cluster: "prod".into(), user: "alice@acme".into() }],
            users: vec![
                UserEntry {
                    name: "alice@acme".into(),
                    certificate: some("Y2hhaW4="),
                    key: Some(Secret::new("a2V5".into())),
                },
                UserEntry { name: "other".into(), ..UserEntry::default() },
            ],
        }
    }

    #[test]
    fn yaml_of_kubectl_and_of_ours_is_read() {
        assert_eq!(Contents::read(YAML).unwrap(), expected());
        let indented: String = YAML
            .lines()
            .map(|line| if line.starts_with([' ', '-']) { format!("  {line}\n") } else { format!("{line}\n") })
            .collect();
        assert_eq!(Contents::read(&indented).unwrap(), expected());
    }

    #[test]
    fn json_is_read_and_other_forms_are_refused_with_what_to_do() {
        let json = serde_json::json!({
            "clusters": [{"name": "prod", "cluster": {"server": "https://kube.example.com:443",
                "tls-server-name": "c1.kube.example.com", "certificate-authority-data": "Y2E="}}],
            "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "alice@acme"}}],
            "users": [{"name": "alice@acme", "user": {"client-certificate-data": "Y2hhaW4=", "client-key-data": "a2V5"}}],
        });
        let mut one = expected();
        one.clusters.truncate(1);
        one.users.truncate(1);
        assert_eq!(Contents::read(&json.to_string()).unwrap(), one);
        let flow = format!("{:#}", Contents::read("users: [{name: a}]\n").unwrap_err());
        assert!(flow.contains("kubectl config view --raw"), "{flow}");
        assert!(Contents::read("users:\n\t- name: a\n").is_err());
        assert_eq!(Contents::read("users: []\nclusters:\n").unwrap(), Contents::default());
    }
}
