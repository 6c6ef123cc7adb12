//! The file that says who the caller is to the controller.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::files;

/// A caller's certificate and key, and where the controller's API is. TOML, mode 0600.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialFile {
    /// `host:port` to dial.
    pub(crate) address: String,
    /// The name in the API's certificate: `api.<domain>`.
    pub(crate) server_name: String,
    /// What the API's certificate is verified by (PEM).
    pub(crate) ca_bundle: String,
    /// The caller's certificate and its intermediates (PEM, leaf first).
    pub(crate) chain: String,
    /// The caller's private key (PKCS #8, PEM).
    pub(crate) key: String,
}

impl CredentialFile {
    /// Opens `file`, or the one at the default place.
    pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let path = match file {
            Some(file) => file.to_owned(),
            None => default_path()?,
        };
        let name = path.display();
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read the credential file {name}; name yours by --credential or ZTKA_CREDENTIAL")
        })?;
        files::require_private(&path)?;
        toml::from_str(&text).with_context(|| format!("{name} is not a credential file"))
    }

    /// Writes the file, readable by its owner alone.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("the credential cannot be written as TOML")?;
        files::write_private(path, text.as_bytes())
    }
}

/// `$XDG_CONFIG_HOME/ztka/credential.toml`, or the same below `~/.config`.
fn default_path() -> anyhow::Result<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let config = config.context("neither XDG_CONFIG_HOME nor HOME is set; name the credential file by --credential")?;
    Ok(config.join("ztka").join("credential.toml"))
}
