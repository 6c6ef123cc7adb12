//! Where cargo-deny comes from: the machine, else the cache, else (where it has to run) built into the cache.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use ztka_test_cluster::binaries;

use crate::run::{self, cargo, say};

const VERSION: &str = "0.20.2";

/// The command `cargo deny`, without arguments; none where it is not installed and not to be built.
///
/// The build takes a minute or two on two cores, without optimisation: the check itself is a matter of seconds.
pub(crate) fn command(build: bool) -> Result<Option<Command>> {
    if run::answers("cargo", &["deny", "--version"]) {
        return Ok(Some(cargo(&["deny"])));
    }
    let folder = binaries::cache()?.join(format!("cargo-deny-{VERSION}"));
    let program = folder.join("bin").join("cargo-deny");
    if !program.is_file() {
        if !build {
            return Ok(None);
        }
        install(&folder, &program)?;
    }
    let mut command = cargo(&[]);
    // What cargo would call it with, found where nobody else looks for it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.join("bin")].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?).arg("deny");
    Ok(Some(command))
}

fn install(folder: &Path, program: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = File::create(folder.join(".lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
    if program.is_file() {
        return Ok(());
    }
    say(&format!("cargo-deny {VERSION}: building from source (once; a minute or two on a small machine)"));
    let target = folder.join("target");
    let mut command = cargo(&["install", "--locked", "--debug", "--quiet", "--version", VERSION, "--root"]);
    command.arg(folder).arg("cargo-deny");
    command.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    let (status, _) = run::streamed(command)?;
    // Only the program is wanted; what it was built from is ten times as large.
    let _ = fs::remove_dir_all(&target);
    ensure!(status.success(), "cargo-deny cannot be built; is the registry reachable?");
    Ok(())
}
