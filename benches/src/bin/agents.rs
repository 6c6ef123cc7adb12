//! Measures what ten thousand quiet agents cost a proxy, and how soon they are back after it was killed.

use std::{
    io::{Write as _, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use ztka_benches::{
    agents::{Plan, Table, run},
    machine::Machine,
};

/// What quiet agents cost a proxy, and how soon all of them are back after it was killed
#[derive(Parser)]
struct Arguments {
    /// Agents, each of a cluster of its own
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    agents: u16,
    /// Organisations that they belong to
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    orgs: u16,
    /// Seconds for which the quiet proxy is looked at
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    quiet: u64,
    /// Put the table into the section of this Markdown file that is marked for it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Exit with 1 if something that is asked for is not reached
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { agents, orgs, quiet, write, check } = Arguments::parse();
    let machine = Machine::look();
    let plan = Plan { agents: agents.into(), orgs: orgs.into(), quiet: Duration::from_secs(quiet) };
    let table = Table::new(&run(plan, say).await?, &machine);
    writeln!(stdout(), "{table}")?;
    if let Some(file) = &write {
        table.write(file)?;
    }
    Ok(if check && !table.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Progress, which is not part of the result.
fn say(what: &str) {
    let _ = writeln!(stderr(), "{what}");
}
