//! The rows of the table: one measure seen from several sides.

use std::time::Duration;

use crate::{
    path::{ABREAST, AT_ONCE, BESIDE, ECHOES, Figures, Measure, Reading, TOGETHER, Way},
    procfs::Usage,
    stats::median,
};

/// One row, with a cell for each way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) cells: Vec<String>,
}

const NOTHING: &str = "–";
const MIB: f64 = 1024.0 * 1024.0;

/// The median over the rounds that gave anything.
pub(crate) fn over_rounds(
    figures: &Figures,
    measure: Measure,
    way: usize,
    value: impl Fn(&Reading) -> Option<f64>,
) -> Option<f64> {
    median(figures.of(measure, way).filter_map(value))
}

/// Median CPU per request of one process of a way, in microseconds.
fn cpu(figures: &Figures, measure: Measure, way: usize, process: usize) -> Option<f64> {
    over_rounds(figures, measure, way, |reading| {
        per(reading.cpu.get(process)?.as_secs_f64() * 1e6, reading.outcome.latencies.len())
    })
}

/// Median CPU per request of all processes of a way together, in microseconds; `None` of a way without processes.
pub(crate) fn cpu_together(figures: &Figures, measure: Measure, way: usize) -> Option<f64> {
    over_rounds(figures, measure, way, |reading| {
        let sum = reading.cpu.iter().sum::<Duration>().as_secs_f64();
        (!reading.cpu.is_empty()).then_some(())?;
        per(sum * 1e6, reading.outcome.latencies.len())
    })
}

pub(crate) fn p50(reading: &Reading) -> Option<f64> {
    micros(reading, 0.5)
}

/// Bytes per second.
pub(crate) fn speed(reading: &Reading) -> Option<f64> {
    let seconds = reading.outcome.elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
    (reading.outcome.bytes > 0 && seconds > 0.0).then(|| reading.outcome.bytes as f64 / seconds)
}

pub(crate) fn p99(reading: &Reading) -> Option<f64> {
    micros(reading, 0.99)
}

fn micros(reading: &Reading, share: f64) -> Option<f64> {
    let some = !reading.outcome.latencies.is_empty();
    some.then(|| reading.outcome.percentile(share).as_secs_f64() * 1e6)
}

fn rate(reading: &Reading) -> Option<f64> {
    let seconds = reading.outcome.elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
    (seconds > 0.0).then(|| reading.outcome.latencies.len() as f64 / seconds)
}

fn per(sum: f64, count: usize) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
    (count > 0).then(|| sum / count as f64)
}

/// KiB that a process of a way grew by for each of the watches that share connections.
pub(crate) fn per_watch(figures: &Figures, way: usize, process: usize) -> Option<f64> {
    over_rounds(figures, Measure::SharedWatches, way, |reading| {
        let grown = reading.usage.get(process)?.resident.saturating_sub(reading.before.get(process)?.resident);
        #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
        (reading.outcome.errors == 0).then(|| grown as f64 / 1024.0)
    })
    .and_then(|grown| per(grown, figures.plan.shared_watches))
}

/// The rows of everything that was measured.
pub(crate) fn rows(figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    let measured = |measure| figures.readings.iter().any(|reading| reading.measure == measure);
    for measure in Measure::ALL.into_iter().filter(|measure| measured(*measure)) {
        let mut table = Table { figures, measure, rows: &mut rows };
        match measure {
            Measure::Get1 => table.small("GET of 2 KB, 1 connection"),
            Measure::Get16 => table.small("GET of 2 KB, 16 connections"),
            Measure::Get128 => table.small("GET of 2 KB, 128 connections"),
            Measure::List => {
                table.median("List of 1 MB, 4 connections: throughput", "MB/s", 1e-6, speed);
                table.median("… p50", "ms", 1e-3, p50);
                table.cpu("… CPU per list", "µs", 1.0);
            }
            Measure::Download => table.transfer("Download of", 1),
            Measure::Upload => table.transfer("Upload of", 1),
            Measure::Downloads => table.transfer("Downloads, together", AT_ONCE),
            Measure::Uploads => table.transfer("Uploads, together", AT_ONCE),
            Measure::Exec => {
                let label = format!("Exec session ({ECHOES} echoes of 1 KiB, {ABREAST} abreast): p50");
                table.median(&label, "ms", 1e-3, p50);
                table.median("… sessions", "/s", 1.0, rate);
                table.cpu("… CPU per session", "µs", 1.0);
            }
            Measure::Watches => table.memory(),
            Measure::SharedWatches => table.shared_watches(),
            Measure::GetAlone => table.median("GET of 2 KB, 1 connection, nothing else open: p50", "µs", 1.0, p50),
            Measure::GetBesideWatches => {
                let watches = figures.plan.shared_watches.min(BESIDE);
                table.median(&format!("… with {watches} watches open: p50"), "µs", 1.0, p50);
            }
        }
        table.errors();
    }
    rows.push(whole("Memory before the first request", figures, |way, number| {
        let at_start = figures.start.get(number)?;
        parts(way, |process| Some(mib(at_start.get(process)?.resident)))
    }));
    rows.push(whole("… at most", figures, |way, number| {
        let last = figures.readings.iter().rev().find(|reading| reading.way == number)?;
        parts(way, |process| Some(mib(last.usage.get(process)?.peak)))
    }));
    rows
}

struct Table<'a> {
    figures: &'a Figures,
    measure: Measure,
    rows: &'a mut Vec<Row>,
}

impl Table<'_> {
    fn small(&mut self, label: &str) {
        self.median(&format!("{label}: p50"), "µs", 1.0, p50);
        self.median("… p99", "µs", 1.0, p99);
        self.median("… requests", "/s", 1.0, rate);
        self.cpu("… CPU per request", "µs", 1.0);
    }

    fn median(&mut self, label: &str, unit: &str, factor: f64, value: impl Fn(&Reading) -> Option<f64>) {
        let (figures, measure) = (self.figures, self.measure);
        self.rows.push(whole(label, figures, |_, way| {
            let median = over_rounds(figures, measure, way, &value)?;
            Some(format!("{} {unit}", number(median * factor)))
        }));
    }

    fn cpu(&mut self, label: &str, unit: &str, factor: f64) {
        let (figures, measure) = (self.figures, self.measure);
        self.rows.push(whole(label, figures, |way, index| {
            let sum = number(cpu_together(figures, measure, index)? * factor);
            let each = parts(way, |process| Some(number(cpu(figures, measure, index, process)? * factor)))?;
            Some(format!("{sum} {unit} ({each})"))
        }));
    }

    fn transfer(&mut self, what: &str, at_once: usize) {
        let mib = self.figures.plan.download >> 20;
        let label =
            if at_once == 1 { format!("{what} {mib} MiB") } else { format!("{what} {mib} MiB, {at_once} at once") };
        self.median(&format!("{label}: throughput"), "MB/s", 1e-6, speed);
        self.cpu("… CPU", "ms", 1e-3);
    }

    fn shared_watches(&mut self) {
        let (figures, count) = (self.figures, self.figures.plan.shared_watches);
        let label = format!("{count} quiet watches, {TOGETHER} per connection: memory of each");
        self.rows.push(whole(&label, figures, |way, index| {
            parts(way, |process| Some(format!("{} KiB", number(per_watch(figures, index, process)?))))
        }));
    }

    fn memory(&mut self) {
        let (figures, count) = (self.figures, self.figures.plan.watches);
        let resident = |way: usize, process: usize| {
            #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
            let bytes = |usage: &Usage| usage.resident as f64;
            over_rounds(figures, Measure::Watches, way, |reading| reading.usage.get(process).map(bytes))
        };
        self.rows.push(whole(&format!("Memory with {count} quiet watches"), figures, |way, index| {
            parts(way, |process| Some(format!("{} MiB", number(resident(index, process)? / MIB))))
        }));
    }

    /// Only where there are any: a table full of zeros hides the one that is not.
    fn errors(&mut self) {
        let (figures, measure) = (self.figures, self.measure);
        let errors = |way| figures.of(measure, way).map(|reading| reading.outcome.errors).sum::<u64>();
        if (0..figures.ways.len()).any(|way| errors(way) > 0) {
            self.rows.push(whole("… **errors**", figures, |_, way| Some(errors(way).to_string())));
        }
    }
}

fn whole(label: &str, figures: &Figures, cell: impl Fn(&Way, usize) -> Option<String>) -> Row {
    let cells = figures.ways.iter().enumerate().map(|(number, way)| cell(way, number));
    Row { label: label.to_owned(), cells: cells.map(|cell| cell.unwrap_or_else(|| NOTHING.into())).collect() }
}

/// `proxy 40, agent 38`; `None` of a way without processes.
fn parts(way: &Way, part: impl Fn(usize) -> Option<String>) -> Option<String> {
    let processes = way.target.processes.iter().enumerate();
    let parts: Vec<_> = processes
        .map(|(number, process)| Some(format!("{} {}", process.name, part(number)?)))
        .collect::<Option<_>>()?;
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rounded figure")]
    let bytes = bytes as f64;
    format!("{} MiB", number(bytes / MIB))
}

/// Three digits that count; whole above that.
pub(crate) fn number(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => {
            let whole = format!("{value:.0}");
            let digits = whole.len();
            let group = |(index, digit): (usize, char)| {
                let comma = index > 0 && (digits - index).is_multiple_of(3);
                comma.then_some(',').into_iter().chain([digit])
            };
            whole.chars().enumerate().flat_map(group).collect()
        }
    }
}
