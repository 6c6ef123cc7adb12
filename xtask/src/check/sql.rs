//! SQL is in one crate: no other one has a database driver, not even for its tests.

use crate::workspace::Member;

/// Where it is.
const STORE: &str = "ztka-store";
/// What talks to databases.
const DRIVERS: [&str; 7] = ["sqlx", "rusqlite", "libsqlite3-sys", "tokio-postgres", "postgres", "diesel", "sea-orm"];

pub(crate) fn check(members: &[Member]) -> Vec<String> {
    let others = members.iter().filter(|member| member.folder != STORE);
    let broken = |member: &Member, driver| format!("{} must not use {driver}: that is {STORE}'s", member.folder);
    others.flat_map(|member| drivers(member).map(move |driver| broken(member, driver))).collect()
}

/// The drivers that a member depends on. Cargo has read its manifest: there are many ways to write one, and other names.
fn drivers(member: &Member) -> impl Iterator<Item = &'static str> {
    DRIVERS.into_iter().filter(|driver| member.uses.iter().any(|name| name == driver))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace::stranger;

    #[test]
    fn a_driver_is_found_however_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        fs::write(folder.path().join("src/lib.rs"), "").unwrap();
        let manifest = folder.path().join("Cargo.toml");
        let found = |more: &str| {
            let package = "[workspace]\n[package]\nname = \"shop\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
            fs::write(&manifest, format!("{package}{more}\n")).unwrap();
            check(&[stranger(&manifest).unwrap()]).len()
        };
        for bad in [
            "[dependencies]\nsqlx = \"1\"",
            "[dependencies]\nsqlx={ version = \"1\" }",
            "[dependencies.sqlx]\nversion = \"1\"",
            "[dependencies]\n\"sqlx\" = \"1\"",
            "[dependencies]\ndb = { package = \"sqlx\", version = \"1\" }",
            "[dependencies]\nsqlx.version = \"1\"",
            "[dev-dependencies]\nsqlx = \"1\"",
            "[build-dependencies]\nsqlx = \"1\"",
            "[target.'cfg(unix)'.dependencies]\nsqlx = \"1\"",
            "[workspace.dependencies]\ndb = { package = \"sqlx\", version = \"1\" }\n[dependencies]\ndb.workspace = true",
        ] {
            assert_eq!(found(bad), 1, "{bad}");
        }
        for good in ["", "# sqlx is not used here", "[dependencies]\nsqlx-like = \"1\"", "[features]\nsqlx = []"] {
            assert_eq!(found(good), 0, "{good}");
        }
    }
}
