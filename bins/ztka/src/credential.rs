//! The file that says who the caller is to the controller.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use zeroize::Zeroizing;
use ztka_api::CredentialFile;

use crate::files;

/// Opens `file`, or the one at the default place.
pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<CredentialFile> {
    let path = path(file)?;
    let name = path.display();
    let text = std::fs::read_to_string(&path).map(Zeroizing::new).with_context(|| {
        format!("cannot read the credential file {name}; name yours by --credential or ZTKA_CREDENTIAL")
    })?;
    files::require_private(&path)?;
    toml::from_str(&text).with_context(|| format!("{name} is not a credential file"))
}

/// `file`, or the default place.
pub(crate) fn path(file: Option<&Path>) -> anyhow::Result<PathBuf> {
    file.map_or_else(default_path, |file| Ok(file.to_owned()))
}

/// Writes the file, readable by its owner alone.
pub(crate) fn write(credential: &CredentialFile, path: &Path) -> anyhow::Result<()> {
    let text = toml::to_string(credential).context("the credential cannot be written as TOML")?;
    let text = Zeroizing::new(text);
    files::write_private(path, text.as_bytes())
}

/// `$XDG_CONFIG_HOME/ztka/credential.toml`, or the same below `~/.config`.
fn default_path() -> anyhow::Result<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let config = config.context("neither XDG_CONFIG_HOME nor HOME is set; name the credential file by --credential")?;
    Ok(config.join("ztka").join("credential.toml"))
}
