//! Files with secrets in them: written whole or not at all, readable by their owner alone.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, ensure};

/// Writes `bytes` to `path` atomically, with mode 0600; makes its folder if need be.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Temporary files are made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Refuses a file that others than its owner may read.
pub(crate) fn require_private(path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    let mode = fs::metadata(path).with_context(|| format!("cannot read {name}"))?.permissions().mode();
    ensure!(mode & 0o077 == 0, "{name} holds a private key and others may read it; run: chmod 600 {name}");
    Ok(())
}
