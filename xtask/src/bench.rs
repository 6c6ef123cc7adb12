//! `cargo xtask bench`: figures that anyone can take, ways of a request side by side in one run.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::run::{cargo, say};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What the way of a request costs: direct, two hops of HAProxy, ZTKA.
    Path {
        /// In front of a real kube-apiserver instead of a small fast upstream.
        #[arg(long)]
        apiserver: bool,
        /// For the measuring program: --rounds N, --seconds N, --only get1,get16,…, --write FILE; --help lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

/// The programs that are measured.
const PROGRAMS: [&str; 5] =
    ["ztka-controller-server", "ztka-proxy-server", "ztka-agent-server", "ztka-cli", "ztka-benches"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let What::Path { apiserver, rest } = &args.what;
    say("building with optimisations …");
    let mut build = cargo(&["build", "--release", "--bins"]);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    ensure!(build.status()?.success(), "the programs cannot be built");
    let mut chain = cargo(&["run", "--quiet", "--release", "--package", "ztka-benches", "--bin", "chain", "--"]);
    if *apiserver {
        chain.arg("--apiserver");
    }
    let status = chain.arg("--").args(rest).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
