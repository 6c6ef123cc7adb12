//! Measures how soon a hundred proxies enforce a change.

use std::{
    io::{Write as _, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser;
use ztka_benches::{
    change::{Plan, Table, run},
    machine::Machine,
};

/// From a change by the API until every proxy refuses what it takes away, and has ended what is open
#[derive(Parser)]
struct Arguments {
    /// Proxies that follow the controller
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    proxies: u16,
    /// Changes of each kind
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    changes: u16,
    /// Bindings of others in the policy
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    bindings: u16,
    /// Put the table into the section of this Markdown file that is marked for it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Exit with 1 if something that is asked for is not reached
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { proxies, changes, bindings, write, check } = Arguments::parse();
    let machine = Machine::look();
    let plan = Plan { proxies: proxies.into(), changes: changes.into(), bindings: bindings.into() };
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
