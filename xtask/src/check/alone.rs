//! Each member builds alone, and the crates that others embed first bring no server with their defaults.

use anyhow::{Context as _, Result};

use crate::{
    run::{self, cargo},
    workspace::Member,
};

const EMBEDDABLE: &[&str] = &["ztka-core", "ztka-pki", "ztka-tunnel", "ztka-authz", "ztka-audit"];

/// What an embedder must not get by default.
const HEAVY: &[&str] = &["sqlx", "axum", "kube", "cedar-policy", "openidconnect", "aws-lc-sys"];

fn present(members: &[Member]) -> impl Iterator<Item = &'static str> {
    EMBEDDABLE.iter().copied().filter(|name| members.iter().any(|member| member.name == *name))
}

/// Heavy dependencies in default features.
pub(crate) fn lean(members: &[Member]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for name in present(members) {
        let args = ["tree", "--package", name, "--edges=normal,build", "--prefix=none", "--format={p}"];
        let output = cargo(&args).output().context("cannot run cargo")?;
        if !output.status.success() {
            broken.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            continue;
        }
        let tree = String::from_utf8_lossy(&output.stdout);
        let found = |heavy: &&&str| tree.lines().any(|line| line.split(' ').next() == Some(**heavy));
        broken.extend(HEAVY.iter().filter(found).map(|heavy| format!("{name} pulls {heavy} by default")));
    }
    Ok(broken)
}

/// Members that build only as long as another one turns on a feature for them.
pub(crate) fn builds(members: &[Member]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for Member { name, .. } in members {
        let (status, _) = run::streamed(cargo(&["check", "--quiet", "--package", name]))?;
        if !status.success() {
            broken.push(format!("{name} does not build alone"));
        }
    }
    Ok(broken)
}
