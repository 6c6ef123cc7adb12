//! The credential of a kubeconfig as files, for programs that take it so.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use ztka_test_cluster::Kubectl;

/// Where a kubeconfig leads, and the files of its credential.
#[derive(Clone, Debug)]
pub struct Pem {
    /// `host:port` of the server.
    pub address: String,
    /// The server's name, by TLS.
    pub server_name: String,
    /// CA of the server's certificate.
    pub ca: PathBuf,
    /// The user's certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Pem {
    /// Writes the credential that a kubectl uses into files `<name>-….pem` of `folder`.
    pub async fn of(kubectl: &Kubectl, folder: &Path, name: &str) -> Result<Self> {
        let text = kubectl.ok(["config", "view", "--raw", "--flatten", "--minify", "-o", "json"]).await?;
        let config: Value = serde_json::from_str(&text)?;
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).context(pointer.to_owned());
        let write = |what: &str, pointer: &str| {
            let path = folder.join(format!("{name}-{what}.pem"));
            fs::write(&path, BASE64_STANDARD.decode(text(pointer)?)?)?;
            anyhow::Ok(path)
        };
        Ok(Self {
            address: text("/clusters/0/cluster/server")?.trim_start_matches("https://").to_owned(),
            server_name: text("/clusters/0/cluster/tls-server-name")?.to_owned(),
            ca: write("ca", "/clusters/0/cluster/certificate-authority-data")?,
            certificate: write("certificate", "/users/0/user/client-certificate-data")?,
            key: write("key", "/users/0/user/client-key-data")?,
        })
    }
}
