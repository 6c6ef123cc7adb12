//! SQL is in one crate: no other one has a database driver, not even for its tests.

use std::fs;

use anyhow::{Context as _, Result};

use crate::workspace::{Member, root};

/// Where it is.
const STORE: &str = "ztka-store";
/// What talks to databases.
const DRIVERS: [&str; 7] = ["sqlx", "rusqlite", "libsqlite3-sys", "tokio-postgres", "postgres", "diesel", "sea-orm"];

pub(crate) fn check(members: &[Member]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for member in members.iter().filter(|member| member.folder != STORE) {
        let manifest = root().join(&member.folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        broken
            .extend(drivers(&text).map(|driver| format!("{} must not use {driver}: that is {STORE}'s", member.folder)));
    }
    Ok(broken)
}

/// The drivers among the dependencies of a manifest.
fn drivers(manifest: &str) -> impl Iterator<Item = &'static str> {
    let names = manifest.lines().filter_map(|line| line.split(['=', '.', ' ']).next()).map(str::trim);
    let names: Vec<&str> = names.collect();
    DRIVERS.into_iter().filter(move |driver| names.contains(driver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_found_however_it_is_named() {
        for line in ["sqlx.workspace = true", "sqlx = { version = \"1\" }", "sqlx=\"1\""] {
            assert_eq!(drivers(&format!("[dependencies]\n{line}\n")).collect::<Vec<_>>(), ["sqlx"], "{line}");
        }
        assert_eq!(drivers("[dependencies]\nztka-test-postgres.workspace = true\n").count(), 0);
        assert_eq!(drivers("# sqlx is not used here\n").count(), 0);
    }
}
