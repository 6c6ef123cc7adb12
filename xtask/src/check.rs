//! `cargo xtask check`: holds the tree to its rules, one module each.

use std::process::ExitCode;

use anyhow::Result;

use crate::{run::say, tally::Tally, workspace};

mod alone;
mod edges;
mod proofs;
mod source;
mod sql;
mod text;

pub(crate) fn run() -> Result<ExitCode> {
    Ok(if tally()?.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Applies every rule and says what breaks it; a rule counts as one test.
pub(crate) fn tally() -> Result<Tally> {
    let members = workspace::members()?;
    let rules: [(&str, Vec<String>); 7] = [
        ("members depend on each other only as the architecture says", edges::check(&members)),
        ("nobody but the store talks to a database", sql::check(&members)),
        ("no file has over 800 lines of code", text::sizes(&members)?),
        ("nothing panics outside tests", text::panics(&members)?),
        ("every proof has its one caller", proofs::check(&members)?),
        ("embeddable crates are lean by default", alone::lean(&members)?),
        ("every member builds alone", alone::builds(&members)?),
    ];
    let mut tally = Tally::default();
    for (rule, broken) in rules {
        if broken.is_empty() {
            say(&format!("ok      {rule}"));
            tally.passed += 1;
        } else {
            say(&format!("BROKEN  {rule}"));
            tally.failed += 1;
        }
        for line in broken {
            say(&format!("        {line}"));
        }
    }
    Ok(tally)
}
