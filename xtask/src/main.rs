//! `cargo xtask <command>`: the workspace's own commands, one module each.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod demo;
mod deny;
mod fuzz;
mod run;
mod suite;
mod tally;
mod test;
mod workspace;

/// The commands of this workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a throwaway real Kubernetes behind ZTKA and prints the kubectl lines to try.
    Demo(demo::Args),
    /// Runs every suite; prints the time of each and closes with one line of totals.
    Test(test::Args),
    /// Takes figures.
    Bench(bench::Args),
    /// Holds the tree to its rules: dependencies, sizes of files, panics, proofs, crates that build alone.
    Check,
    /// Fuzzes every target for a while (or one of them).
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Check => check::run(),
        Command::Fuzz(args) => fuzz::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
