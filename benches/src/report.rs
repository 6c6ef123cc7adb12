//! Readings as a table: medians, machine, method, and what was asked for beside what was reached.

mod bars;
mod rows;
mod tunnel;

use std::{
    fmt::{self, Display},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

pub use self::bars::{Bar, bars};
pub(crate) use self::rows::number;
use self::rows::{Row, rows};
use crate::{
    Kind,
    machine::Machine,
    path::{Asked, Figures},
};

/// Figures ready to be shown, on a terminal and in Markdown alike.
#[derive(Clone, Debug)]
pub struct Report {
    text: String,
    kind: Kind,
    asked: Asked,
    bars: Vec<Bar>,
}

impl Report {
    /// Computes the medians. `notes` are said below the tables, such as what could not be measured.
    #[must_use]
    pub fn new(figures: &Figures, machine: &Machine, notes: &[String]) -> Self {
        let bars = match figures.plan.asked {
            Asked::Path => bars(figures),
            Asked::Tunnel | Asked::Watches => tunnel::bars(figures),
        };
        let table: Vec<Vec<String>> =
            rows(figures).into_iter().map(|Row { label, cells }| [vec![label], cells].concat()).collect();
        let head = [String::new()].into_iter().chain(figures.ways.iter().map(|way| way.target.name.clone())).collect();
        let mut text = format!("{}\n\n{}", Method { figures, machine }, aligned(head, table));
        if !bars.is_empty() {
            let line = |bar: &Bar| {
                let met = bar.met.map_or("", |met| if met { "yes" } else { "**no**" });
                vec![bar.asked.clone(), bar.reached.clone(), met.to_owned()]
            };
            let head = ["asked for", "reached", "met"].map(str::to_owned).to_vec();
            text.push('\n');
            text.push_str(&aligned(head, bars.iter().map(line).collect()));
        }
        for note in notes {
            text.push_str(&format!("\n{note}\n"));
        }
        Self { text, kind: figures.kind, asked: figures.plan.asked, bars }
    }

    /// True if nothing that was asked for was missed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.bars.iter().all(|bar| bar.met != Some(false))
    }

    /// Puts the report into a Markdown file, between `<!-- figures: path -->` (of a real apiserver `<!-- figures:
    /// path-apiserver -->`; of the tunnel's demands `tunnel` in the place of `path`, or `watches`) and the next `<!-- end -->`.
    ///
    /// # Errors
    /// When the file cannot be read or written, or has no such section.
    pub fn write(&self, file: &Path) -> Result<()> {
        let name = match (self.asked, self.kind) {
            (Asked::Path, Kind::Fast) => "path",
            (Asked::Path, Kind::Apiserver) => "path-apiserver",
            (Asked::Tunnel, Kind::Fast) => "tunnel",
            (Asked::Tunnel, Kind::Apiserver) => "tunnel-apiserver",
            (Asked::Watches, _) => "watches",
        };
        write_section(file, name, &self.text)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Replaces what is between `<!-- figures: <name> -->` and the next `<!-- end -->`.
pub(crate) fn write_section(file: &Path, name: &str, new: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let changed = replaced(&text, name, new)
        .with_context(|| format!("{} has no <!-- figures: {name} --> … <!-- end -->", file.display()))?;
    fs::write(file, changed).with_context(|| format!("cannot write {}", file.display()))
}

fn replaced(text: &str, section: &str, new: &str) -> Option<String> {
    let marker = format!("<!-- figures: {section} -->");
    let (before, rest) = text.split_once(&marker)?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}{marker}\n{}\n<!-- end -->{after}", new.trim_end()))
}

struct Method<'a> {
    figures: &'a Figures,
    machine: &'a Machine,
}

impl Display for Method<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Machine { haproxy, .. }, plan) = (self.machine, &self.figures.plan);
        write!(f, "{}", self.machine)?;
        if !haproxy.is_empty() {
            write!(f, ", HAProxy {haproxy}")?;
        }
        let upstream = match self.figures.kind {
            Kind::Fast => "the fast upstream of `benches`",
            Kind::Apiserver => "a real kube-apiserver",
        };
        write!(
            f,
            ". Everything on this machine, {upstream} at the end; the ways take turns, medians of {} rounds of {} s \
             each. CPU is user and system time of the way's own processes.",
            plan.rounds,
            plan.time.as_secs_f64()
        )
    }
}

/// A Markdown table whose columns line up.
pub(crate) fn aligned(head: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let all: Vec<Vec<String>> = [vec![head], rows].concat();
    let columns = all.iter().map(Vec::len).max().unwrap_or_default();
    let length = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> =
        (0..columns).map(|column| all.iter().map(|row| length(row, column)).max().unwrap_or_default().max(3)).collect();
    let mut text = String::new();
    for (number, row) in all.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            text.push_str(&format!("| {cell:width$} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                text.push_str(&format!("|{}", "-".repeat(width + 2)));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests;
