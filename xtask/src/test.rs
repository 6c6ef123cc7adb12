//! `cargo xtask test`: runs the suites, tells the time of each, and closes with one line of totals.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    run::{say, unattended},
    suite::{Outcome, SUITES, Suite},
    tally::Tally,
};

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(after_help = suites_help())]
pub(crate) struct Args {
    /// Runs also what takes longer than a coffee.
    #[arg(long)]
    long: bool,
    /// Runs this suite alone (repeatable).
    #[arg(long, value_name = "SUITE", value_parser = names())]
    only: Vec<String>,
}

fn names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(SUITES.iter().map(|suite| suite.name))
}

fn suites_help() -> String {
    SUITES.iter().fold("Suites:\n".to_owned(), |help, suite| help + &format!("  {:<10}{}\n", suite.name, suite.about))
}

struct Line {
    name: &'static str,
    tally: Tally,
    note: String,
    time: Duration,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let strict = unattended();
    let chosen = SUITES.iter().filter(|suite| args.only.is_empty() || args.only.iter().any(|name| name == suite.name));
    let lines: Vec<Line> = chosen.map(|suite| one(suite, args.long, strict)).collect();

    say("\nsuite        passed  failed skipped     time");
    let (mut total, mut time) = (Tally::default(), Duration::ZERO);
    for line in &lines {
        let Tally { passed, failed, skipped, .. } = line.tally;
        say(&format!("{:<12} {passed:>6} {failed:>7} {skipped:>7} {:>8}  {}", line.name, clock(line.time), line.note));
        total += line.tally;
        time += line.time;
    }
    say(&format!("{:<12} {:>6} {:>7} {:>7} {:>8}\n", "all", total.passed, total.failed, total.skipped, clock(time)));
    say(&format!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped));
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(suite: &Suite, long: bool, strict: bool) -> Line {
    say(&format!("\n=== {}: {}", suite.name, suite.about));
    let start = Instant::now();
    let failure = Tally { failed: 1, ..Tally::default() };
    let (tally, note) = match suite.run(long) {
        Ok(Outcome::Ran(tally)) => (tally, String::new()),
        Ok(Outcome::Skipped(why)) if strict => (failure, format!("could not run: {why}")),
        Ok(Outcome::Skipped(why)) => (Tally { skipped: 1, ..Tally::default() }, format!("SKIPPED: {why}")),
        Err(error) => (failure, format!("could not run: {error:#}")),
    };
    if !note.is_empty() {
        say(&format!("!!! {}: {note}", suite.name));
    }
    // One line in the table; the rest was told above.
    let note = note.lines().next().unwrap_or_default().to_owned();
    Line { name: suite.name, tally, note, time: start.elapsed() }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds >= 60 {
        format!("{} m {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1} s", time.as_secs_f32())
    }
}
