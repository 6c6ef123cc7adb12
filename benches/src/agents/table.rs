//! Figures of the crowd as a table, beside what is asked for.

use std::{
    fmt::{self, Display},
    path::Path,
};

use anyhow::Result;

use super::Figures;
use crate::{
    machine::Machine,
    report::{aligned, number, write_section},
};

/// KiB of the proxy for a quiet agent.
const MEMORY: f64 = 40.0;
/// Percent of a core that the proxy takes while nothing happens.
const IDLE: f64 = 5.0;
/// Seconds after which all are back.
const BACK: f64 = 60.0;

/// Ready to be shown, on a terminal and in Markdown alike.
#[derive(Clone, Debug)]
pub struct Table {
    text: String,
    met: bool,
}

impl Table {
    /// Holds the figures against what is asked for.
    #[must_use]
    pub fn new(figures: &Figures, machine: &Machine) -> Self {
        let plan = figures.plan;
        #[expect(clippy::cast_precision_loss, reason = "rounded figures")]
        let each = {
            let grown = figures.after.resident.saturating_sub(figures.before.resident);
            grown as f64 / 1024.0 / plan.agents.max(1) as f64
        };
        let idle = 100.0 * figures.idle.as_secs_f64() / plan.quiet.as_secs_f64();
        let back = figures.back.as_secs_f64();
        let asked = |value: f64, most: f64, unit: &str| {
            [format!("≤ {most:.0} {unit}"), if value <= most { "yes" } else { "**no**" }.to_owned()]
        };
        let told = || [String::new(), String::new()];
        let row = |what: &str, figure: String, [asked, met]: [String; 2]| vec![what.to_owned(), figure, asked, met];
        let rows = vec![
            row("Memory of the proxy for each agent", format!("{} KiB", number(each)), asked(each, MEMORY, "KiB")),
            row(
                "Processor of the idle proxy",
                format!("{} % of a core", number(idle)),
                asked(idle, IDLE, "% of a core"),
            ),
            row(
                "Proxy killed and started again: all back after",
                format!("{} s", number(back)),
                asked(back, BACK, "s"),
            ),
            row("… connections and handshakes under way at once", figures.queue.to_string(), told()),
            row("… the slowest of them", format!("{} s", number(figures.slowest.as_secs_f64())), told()),
            row("… failed and tried again", figures.failed.to_string(), told()),
            row(
                "Clusters made and agents enrolled in",
                format!("{} s", number(figures.enrolled.as_secs_f64())),
                told(),
            ),
        ];
        let head = ["", "figure", "asked for", "met"].map(str::to_owned).to_vec();
        let text = format!(
            "{machine}. {} agents in {} organisations on one proxy, all on this machine; quiet for {} s.\n\n{}",
            plan.agents,
            plan.orgs,
            plan.quiet.as_secs(),
            aligned(head, rows)
        );
        Self { text, met: each <= MEMORY && idle <= IDLE && back <= BACK }
    }

    /// True if nothing that was asked for was missed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.met
    }

    /// Puts the table into a Markdown file, between `<!-- figures: agents -->` and the next `<!-- end -->`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or has no such section.
    pub fn write(&self, file: &Path) -> Result<()> {
        write_section(file, "agents", &self.text)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
