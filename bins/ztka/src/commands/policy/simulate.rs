//! `ztka policy simulate`

use std::{
    fs::File,
    io::{BufRead, BufReader, stdin},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use ztka_authz::tools::{Difference, Simulation, recorded};

use super::file::PolicyFile;
use crate::output::{Output, columns};

#[derive(Args, Debug)]
#[command(after_help = "Events come from `ztka audit tail -n 10000 -o json`, or from a proxy's audit file: one to a \
                        line. Each request is decided again at its own time, from its own address.")]
pub(crate) struct Simulate {
    #[command(flatten)]
    policy: PolicyFile,
    /// Recorded requests, one audit event to a line; - for standard input
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
}

impl Simulate {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let policy = self.policy.read()?;
        let name = self.events.display();
        let lines: Box<dyn BufRead> = match self.events == Path::new("-") {
            true => Box::new(stdin().lock()),
            false => Box::new(BufReader::new(File::open(&self.events).with_context(|| format!("cannot read {name}"))?)),
        };
        let events = recorded(lines).with_context(|| name.to_string())?;
        let simulation = policy.simulate(&events);
        output.one(&simulation, || told(&simulation))
    }
}

fn told(simulation: &Simulation) -> String {
    let Simulation { same, newly_denied, newly_allowed, unreadable } = simulation;
    let mut text = String::new();
    for (title, list) in [("newly denied", newly_denied), ("newly allowed", newly_allowed)] {
        if !list.is_empty() {
            let heads = ["USER", "CLUSTER", "WHAT", "TIMES", "WHY"].map(String::from).to_vec();
            let rows: Vec<_> = std::iter::once(heads).chain(list.iter().map(row)).collect();
            text.push_str(&format!("{title}:\n{}\n", columns(&rows)));
        }
    }
    let sum = |list: &[Difference]| list.iter().map(|difference| difference.times).sum::<u64>();
    let (denied, allowed) = (sum(newly_denied), sum(newly_allowed));
    text.push_str(&format!("{same} requests decided as before, {denied} newly denied, {allowed} newly allowed"));
    if *unreadable > 0 {
        text.push_str(&format!(", {unreadable} that cannot be asked about"));
    }
    text
}

fn row(difference: &Difference) -> Vec<String> {
    let Difference { user, cluster, what, times, why } = difference.clone();
    vec![user, cluster, what, times.to_string(), why]
}
