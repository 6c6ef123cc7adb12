//! Figures of changes as a table, beside what is asked for.

use std::{
    fmt::{self, Display},
    path::Path,
    time::Duration,
};

use anyhow::Result;

use super::{Figures, Seen};
use crate::{
    machine::Machine,
    report::{aligned, number, write_section},
    stats::percentile,
};

/// Of 100 proxies and changes, 99 are done within this.
const ENFORCED: Duration = Duration::from_secs(1);

/// Ready to be shown, on a terminal and in Markdown alike.
#[derive(Clone, Debug)]
pub struct Table {
    text: String,
    met: bool,
}

fn is_met(seen: &Seen) -> bool {
    let [refused, ended] = [&seen.refused, &seen.ended].map(|times| percentile(times, 0.99));
    refused <= ENFORCED && ended <= ENFORCED && seen.ended.len() == seen.open
}

impl Table {
    /// Holds the figures against what is asked for.
    #[must_use]
    pub fn new(figures: &Figures, machine: &Machine) -> Self {
        let plan = figures.plan;
        let ms = |times: &[Duration], share| number(percentile(times, share).as_secs_f64() * 1000.0);
        let row = |seen: &Seen| {
            vec![
                seen.what.to_owned(),
                [0.5, 0.99, 1.0].map(|share| ms(&seen.refused, share)).join(" / "),
                ms(&seen.refused_since_call, 0.99),
                [0.5, 0.99, 1.0].map(|share| ms(&seen.ended, share)).join(" / "),
                format!("{} of {}", seen.ended.len(), seen.open),
                if is_met(seen) { "yes" } else { "**no**" }.to_owned(),
            ]
        };
        let head = [
            "change",
            "refused, ms: p50 / p99 / max",
            "p99 from the call",
            "watch ended, ms: p50 / p99 / max",
            "watches ended",
            "≤ 1 s",
        ];
        let text = format!(
            "{machine}. One controller over SQLite and {} proxies, all on this machine, {} changes of each kind in a policy of \
             {} other bindings. From the API's answer until a proxy refuses the next request, or has ended an open watch.\n\n{}",
            plan.proxies,
            plan.changes,
            plan.bindings,
            aligned(head.map(str::to_owned).to_vec(), figures.kinds.iter().map(row).collect())
        );
        Self { text, met: figures.kinds.iter().all(is_met) }
    }

    /// True if nothing that was asked for was missed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.met
    }

    /// Puts the table into a Markdown file, between `<!-- figures: change -->` and the next `<!-- end -->`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or has no such section.
    pub fn write(&self, file: &Path) -> Result<()> {
        write_section(file, "change", &self.text)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
