//! Figures as a table: median and worst of all rounds, beside what is asked for.

use std::{
    fmt::{self, Display},
    path::Path,
    time::Duration,
};

use anyhow::Result;

use super::{Figures, Meanwhile, Recovery};
use crate::{
    machine::Machine,
    report::{aligned, number, write_section},
    stats::median,
};

/// Of the issue that asks for them: a watch tells of a change, and users are served again.
const WATCH: Duration = Duration::from_secs(1);
const AGENT: Duration = Duration::from_secs(5);
const PROXY: Duration = Duration::from_secs(2);

/// Ready to be shown, on a terminal and in Markdown alike.
#[derive(Clone, Debug)]
pub struct Table {
    text: String,
    met: bool,
}

struct Row {
    label: String,
    median: String,
    max: String,
    asked: String,
    met: Option<bool>,
}

impl Table {
    /// Computes medians and judges the worst.
    #[must_use]
    pub fn new(figures: &Figures, machine: &Machine, notes: &[String]) -> Self {
        let rows = rows(figures);
        let cells = |row: &Row| {
            let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
            let cells: [&str; 5] = [&row.label, &row.median, &row.max, &row.asked, met];
            cells.map(str::to_owned).to_vec()
        };
        let head = ["", "median", "worst", "asked for", "met"].map(str::to_owned).to_vec();
        let mut text = format!(
            "{machine}. Everything on this machine, a real kube-apiserver at the end, two proxies; {} rounds, each of \
             which kills each server once.\n\n{}",
            figures.rounds,
            aligned(head, rows.iter().map(cells).collect())
        );
        for note in notes.iter().cloned().chain(failures(figures)) {
            text.push_str(&format!("\n{note}\n"));
        }
        Self { text, met: rows.iter().all(|row| row.met != Some(false)) }
    }

    /// True if nothing that was asked for was missed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.met
    }

    /// Puts the table into a Markdown file, between `<!-- figures: recovery -->` and the next `<!-- end -->`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or has no such section.
    pub fn write(&self, file: &Path) -> Result<()> {
        write_section(file, "recovery", &self.text)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn rows(figures: &Figures) -> Vec<Row> {
    let changes = figures.watch_through.len();
    let mut rows = vec![
        times(format!("Watch event after a change ({changes} changes): direct"), &figures.watch_direct, None),
        times("… through".into(), &figures.watch_through, Some(WATCH)),
    ];
    let mut recovery = |label: &str, recovery: &Recovery, asked| {
        rows.push(times(format!("{label}: GET answered after"), &recovery.get, Some(asked)));
        rows.push(times("… kubectl succeeds after".into(), &recovery.kubectl, Some(asked)));
    };
    recovery("Agent killed and started again", &figures.agent, AGENT);
    recovery("One of two proxies killed and started again, its own users", &figures.proxy, PROXY);
    recovery("One of two proxies killed and left away, users of both", &figures.proxy_away, PROXY);

    let requests: u64 = figures.controller.iter().map(|meanwhile| meanwhile.requests).sum();
    let label = format!("Controller killed, away for 2 s, started again: failed of {requests} requests");
    rows.push(failed(label, &figures.controller));
    let of = |time: fn(&Meanwhile) -> Duration| figures.controller.iter().map(time).collect::<Vec<_>>();
    rows.push(times("… the slowest GET of a round".into(), &of(|meanwhile| meanwhile.slowest), None));
    rows.push(times("… the controller itself answers after its start".into(), &of(|meanwhile| meanwhile.back), None));
    rows
}

fn times(label: String, values: &[Duration], asked: Option<Duration>) -> Row {
    let cell = |seconds: Option<f64>| seconds.map_or_else(|| "–".into(), |s| format!("{} ms", number(s * 1e3)));
    let max = values.iter().max().copied();
    Row {
        label,
        median: cell(median(values.iter().map(Duration::as_secs_f64))),
        max: cell(max.map(|max| max.as_secs_f64())),
        asked: asked.map_or_else(String::new, |asked| format!("≤ {} s", asked.as_secs_f64())),
        met: asked.zip(max).map(|(asked, max)| max <= asked),
    }
}

fn failed(label: String, rounds: &[Meanwhile]) -> Row {
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let middle = median(rounds.iter().map(|meanwhile| meanwhile.failed as f64));
    let max = rounds.iter().map(|meanwhile| meanwhile.failed).max();
    let cell = |value: Option<String>| value.unwrap_or_else(|| "–".into());
    Row {
        label,
        median: cell(middle.map(|middle| format!("{middle}"))),
        max: cell(max.map(|max| max.to_string())),
        asked: "none".into(),
        met: max.map(|max| max == 0),
    }
}

fn failures(figures: &Figures) -> Option<String> {
    let first = figures.controller.iter().find_map(|meanwhile| meanwhile.first_error.as_ref())?;
    Some(format!("The first request that failed around the controller's absence: {first}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let ms = |values: &[u64]| values.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let recovery = |values: &[u64]| Recovery { get: ms(values), kubectl: ms(values) };
        Figures {
            rounds: 3,
            watch_direct: ms(&[1, 2, 3]),
            watch_through: ms(&[2, 4, 999]),
            agent: recovery(&[900, 4000, 1000]),
            proxy: recovery(&[10, 2001, 20]),
            proxy_away: recovery(&[5, 6, 7]),
            controller: vec![Meanwhile { requests: 70, ..Meanwhile::default() }; 3],
        }
    }

    #[test]
    fn the_worst_is_what_is_judged() {
        let table = Table::new(&figures(), &Machine::default(), &[]);
        let squeezed: Vec<String> =
            table.text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "| Watch event after a change (3 changes): direct | 2.00 ms | 3.00 ms | | |",
            "| … through | 4.00 ms | 999 ms | ≤ 1 s | yes |",
            "| Agent killed and started again: GET answered after | 1,000 ms | 4,000 ms | ≤ 5 s | yes |",
            "| One of two proxies killed and started again, its own users: GET answered after | 20.0 ms | 2,001 ms | ≤ 2 s | **no** |",
            "| Controller killed, away for 2 s, started again: failed of 210 requests | 0 | 0 | none | yes |",
        ] {
            assert!(squeezed.iter().any(|have| have == line), "{line}\n{table}");
        }
        assert!(!table.is_met());
    }

    #[test]
    fn one_failed_request_is_one_too_many_and_is_told() {
        let mut figures = figures();
        figures.proxy = figures.proxy_away.clone();
        assert!(Table::new(&figures, &Machine::default(), &[]).is_met());
        let failed = figures.controller.last_mut().unwrap();
        (failed.failed, failed.first_error) = (1, Some("503 Service Unavailable".into()));
        let table = Table::new(&figures, &Machine::default(), &[]);
        assert!(!table.is_met() && table.text.contains("503 Service Unavailable"), "{table}");
    }

    #[test]
    fn what_was_not_measured_is_not_met_either_way() {
        let table = Table::new(&Figures::default(), &Machine::default(), &["No round was made.".into()]);
        assert!(table.is_met() && table.text.contains("No round was made."), "{table}");
        assert!(!table.text.contains("yes") && !table.text.contains("**no**"), "{table}");
    }
}
