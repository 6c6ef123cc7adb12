//! What cargo knows of the workspace: members, their folders and their dependencies on each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::run;

/// A member of the workspace.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Relative to the workspace, such as `bins/proxy`.
    pub(crate) folder: String,
    /// Names of members it depends on other than for its tests.
    pub(crate) dependencies: Vec<String>,
    /// Names of all packages that it depends on, also for its tests, by whatever name it calls them.
    pub(crate) uses: Vec<String>,
}

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

fn metadata() -> Result<Value> {
    metadata_of(&root().join("Cargo.toml"))
}

/// What cargo makes of a manifest.
fn metadata_of(manifest: &Path) -> Result<Value> {
    let mut cargo = run::cargo(&["metadata", "--no-deps", "--format-version=1", "--manifest-path"]);
    let output = cargo.arg(manifest).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where cargo builds.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let target = metadata.get("target_directory").and_then(Value::as_str);
    Ok(target.context("cargo metadata names no target directory")?.into())
}

/// All members, by name.
pub(crate) fn members() -> Result<Vec<Member>> {
    let metadata = metadata()?;
    let packages = list(&metadata, "packages");
    let names: Vec<&str> = packages.iter().filter_map(|package| package.get("name")?.as_str()).collect();
    let mut members = packages.iter().map(|package| member(package, &names)).collect::<Result<Vec<_>>>()?;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

fn member(package: &Value, names: &[&str]) -> Result<Member> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let manifest = PathBuf::from(text(package, "manifest_path"));
    let folder = manifest.parent().context("a manifest without a folder")?;
    let all = list(package, "dependencies");
    let uses = all.iter().map(|dependency| text(dependency, "name")).collect();
    let dependencies = all
        .iter()
        .filter(|dependency| text(dependency, "kind") != "dev")
        .map(|dependency| text(dependency, "name"))
        .filter(|name| names.contains(&name.as_str()))
        .collect();
    let folder = folder.strip_prefix(root()).unwrap_or(folder).display().to_string();
    Ok(Member { name: text(package, "name"), folder, dependencies, uses })
}

/// The package of a manifest that is not of this workspace.
#[cfg(test)]
pub(crate) fn stranger(manifest: &Path) -> Result<Member> {
    member(list(&metadata_of(manifest)?, "packages").first().context("no package")?, &[])
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Every Rust file under `folder`, relative to the workspace, sorted; build output is left out.
pub(crate) fn rust_files(folder: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let (path, name) = { entry.map(|entry| (entry.path(), entry.file_name())) }?;
        if path.is_dir() {
            if name != "target" {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.strip_prefix(root()).unwrap_or(&path).display().to_string());
        }
    }
    Ok(())
}
