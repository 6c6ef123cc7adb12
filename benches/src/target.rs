//! Where load goes to, and what answers there; written as JSON by whoever has started it.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One way to the upstream.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What the table calls it.
    pub name: String,
    /// Where it listens; an address of this machine.
    pub address: SocketAddr,
    /// The TLS server name, and the host that requests name.
    pub server_name: String,
    /// PEM file with the anchors of the server's certificate.
    pub ca: PathBuf,
    /// PEM file with the client's certificate and what chains it to its anchor.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
    /// Goes before every path, such as `/clusters/<id>`; empty if the server name says which cluster.
    #[serde(default)]
    pub path_prefix: String,
    /// The processes whose CPU time and memory are accounted to this way; children count with their parents.
    #[serde(default)]
    pub processes: Vec<Process>,
}

/// A process on the way.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its part, such as `proxy`.
    pub name: String,
    /// Its id.
    pub pid: u32,
}

/// What answers at the end of every way.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Decides which figures are asked for.
    pub kind: Kind,
    /// The direct way; its certificate is also the one that HAProxy's last hop presents.
    pub target: Target,
    /// What is asked for.
    #[serde(default)]
    pub paths: Paths,
}

/// What kind of upstream it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The fast one of this crate: what is measured is the way.
    Fast,
    /// A real kube-apiserver: what is measured is what users see.
    Apiserver,
}

/// Paths of the upstream; what is `null` is not measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// An object of about 2 KB.
    pub get: String,
    /// A list of about 1 MB.
    pub list: Option<String>,
    /// A log of a pod, to which `?limitBytes=` is added.
    pub download: Option<String>,
    /// Takes a PUT of any size, and answers with the number of bytes that came.
    #[serde(default)]
    pub upload: Option<String>,
    /// A watch that sends at least one event, then stays open.
    pub watch: Option<String>,
    /// Exec into a pod of a command that gives back its standard input.
    pub exec: Option<String>,
}

impl Default for Paths {
    /// Those of the fast upstream.
    fn default() -> Self {
        let text = |path: &str| Some(path.to_owned());
        Self {
            get: "/api/v1/namespaces/default/configmaps/small".into(),
            list: text("/api/v1/namespaces/default/configmaps"),
            download: text("/api/v1/namespaces/default/pods/big/log"),
            upload: text("/api/v1/namespaces/default/pods/sink/proxy/file"),
            watch: text("/api/v1/namespaces/default/configmaps?watch=true&allowWatchBookmarks=true"),
            exec: text("/api/v1/namespaces/default/pods/echo/exec?command=cat&container=main&stdin=true&stdout=true"),
        }
    }
}

impl Target {
    /// Reads a target from a JSON file; relative paths in it are relative to the file's folder.
    ///
    /// # Errors
    /// When the file is not such a target, or the target is not on this machine.
    pub fn read(file: &Path) -> Result<Self> {
        let mut target: Self = json(file)?;
        target.settle(file)?;
        Ok(target)
    }

    /// `Host` of every request.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.server_name
    }

    /// The path that is asked for here to get `path` of the upstream.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path_prefix)
    }

    fn settle(&mut self, file: &Path) -> Result<()> {
        let address = self.address;
        // What is sent to an address of this machine's own does not leave it either.
        let stays = address.ip().is_loopback() || UdpSocket::bind((address.ip(), 0)).is_ok();
        ensure!(stays, "{address} is not an address of this machine, such as loopback; load stays on this machine");
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in [&mut self.ca, &mut self.certificate, &mut self.key] {
            *path = folder.join(&path);
        }
        Ok(())
    }
}

impl Upstream {
    /// Reads an upstream from a JSON file, as [`Target::read`] does.
    ///
    /// # Errors
    /// The same.
    pub fn read(file: &Path) -> Result<Self> {
        let mut upstream: Self = json(file)?;
        upstream.target.settle(file)?;
        Ok(upstream)
    }

    /// Writes it to a JSON file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, file).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not of the form that is documented", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str) -> Target {
        Target {
            name: "x".into(),
            address: address.parse().unwrap(),
            server_name: "localhost".into(),
            ca: "ca.crt".into(),
            certificate: "/keys/a.crt".into(),
            key: "a.key".into(),
            path_prefix: "/clusters/c1".into(),
            processes: Vec::new(),
        }
    }

    #[test]
    fn paths_are_relative_to_the_file_and_prefixed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("upstream.json");
        let written = Upstream { kind: Kind::Fast, target: target("127.0.0.1:1"), paths: Paths::default() };
        written.write(&file).unwrap();
        let read = Upstream::read(&file).unwrap();
        assert_eq!(read.target.ca, folder.path().join("ca.crt"));
        assert_eq!(read.target.certificate, Path::new("/keys/a.crt"));
        assert_eq!(read.target.path("/version"), "/clusters/c1/version");
    }

    #[test]
    fn load_stays_on_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ztka.json");
        fs::write(&file, serde_json::to_vec(&target("192.0.2.1:443")).unwrap()).unwrap();
        assert!(Target::read(&file).unwrap_err().to_string().contains("loopback"));
    }
}
