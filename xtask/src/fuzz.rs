//! `cargo xtask fuzz`: every fuzz target for a while, with cargo-fuzz, on the stable compiler.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{
    run::{self, cargo, say},
    workspace,
};

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This target alone.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let targets = targets()?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| args.target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    ensure!(!chosen.is_empty(), "there is no such target; there are: {}", targets.join(", "));
    if !run::answers("cargo", &["fuzz", "--version"]) {
        say("installing cargo-fuzz (once)");
        let (status, _) = run::streamed(cargo(&["install", "--locked", "cargo-fuzz"]))?;
        ensure!(status.success(), "cargo-fuzz cannot be installed");
    }
    for target in chosen {
        say(&format!("\n=== {target}, {} s", args.seconds));
        // The first corpus takes what is found; the one in the repository is made by hand.
        let (found, seeds) = (format!("fuzz/target/corpus/{target}"), format!("fuzz/corpus/{target}"));
        fs::create_dir_all(workspace::root().join(&found)).with_context(|| format!("cannot make {found}"))?;
        let seconds = format!("-max_total_time={}", args.seconds);
        let mut command = cargo(&["fuzz", "run", target, &found, &seeds, "--", &seconds]);
        // The sanitizer's flags are of the nightly compiler; the stable one takes them with this.
        command.env("RUSTC_BOOTSTRAP", "1");
        let (status, _) = run::streamed(command)?;
        ensure!(status.success(), "{target} found something; the input is under fuzz/artifacts/{target}");
    }
    Ok(ExitCode::SUCCESS)
}

fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}
