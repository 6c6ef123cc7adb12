//! Measures how soon users are served again after a kill -9, and how soon a watch tells of a change.

use std::{
    io::{Write as _, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Parser;
use ztka_benches::{
    machine::Machine,
    recovery::{Plan, Table, run},
};

/// How soon users are served again after a kill -9 of the agent, of one of two proxies and of the controller, and how
/// soon a watch tells of a change
#[derive(Parser)]
struct Arguments {
    /// Rounds, each of which kills each server once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Changes in each round that watches are to tell of
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    changes: u32,
    /// Seconds after which no further round is begun
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Put the table into the section of this Markdown file that is marked for it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Exit with 1 if something that is asked for is not reached
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { rounds, changes, seconds, write, check } = Arguments::parse();
    let machine = Machine::look();
    let mut notes: Vec<String> = machine.busy().into_iter().collect();
    notes.iter().for_each(|note| say(note));
    let figures = run(Plan { rounds, changes, time: Duration::from_secs(seconds) }, say).await?;
    ensure!(figures.rounds > 0, "no round was made");
    if figures.rounds < rounds {
        notes.push(format!("{} of {rounds} rounds were made, then the time was over.", figures.rounds));
    }
    let table = Table::new(&figures, &machine, &notes);
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
