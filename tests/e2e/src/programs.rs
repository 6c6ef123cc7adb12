//! Where the programs under test are.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

/// One of our own programs: in `ZTKA_BIN_DIR`, else beside the test's own binary, where cargo puts both.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("ZTKA_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let test = std::env::current_exe()?;
            let profile = test.ancestors().find(|path| path.join("deps").is_dir());
            profile.context("the test does not run from a target folder; set ZTKA_BIN_DIR")?.to_owned()
        }
    };
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is not built; run: cargo build --workspace --bins", path.display());
    Ok(path)
}
