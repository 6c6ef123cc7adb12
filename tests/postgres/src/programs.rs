//! Finding PostgreSQL's programs, and a user who may run them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// Debian's package with the server.
pub const PACKAGE: &str = "postgresql";

/// Where Debian puts each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Says why a server cannot be started here, or `None` when it can.
#[must_use]
pub fn missing() -> Option<String> {
    folder().is_none().then(|| format!("missing: PostgreSQL's server; run apt-get install {PACKAGE}"))
}

/// The folder with `initdb`, `postgres` and `psql`: what `pg_config` says, else the newest of Debian's.
pub(crate) fn folder() -> Option<PathBuf> {
    let told = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success());
    let told = told.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut debian: Vec<PathBuf> =
        fs::read_dir(DEBIAN).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    debian.sort_by_key(|path| std::cmp::Reverse(number(path)));
    let debian = debian.into_iter().map(|path| path.join("bin"));
    told.into_iter().chain(debian).find(|bin| ["initdb", "postgres", "psql"].iter().all(|name| bin.join(name).exists()))
}

/// PostgreSQL refuses to run as root: a user for it, if this is root.
pub(crate) fn user(folder: &Path) -> Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt as _;
    if fs::metadata(folder)?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let find = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = find("postgres").or_else(|| find("nobody"));
    found.map(Some).context("this is root, as whom PostgreSQL does not run, and there is no user postgres or nobody")
}
