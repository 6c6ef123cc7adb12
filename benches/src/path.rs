//! The way of a request, measured: what is asked, over which ways, in rounds that take turns.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    Kind, Target, Upstream,
    haproxy::Settings,
    load::{self, Load, Outcome, Over, Work},
    procfs::{Usage, usage},
};

/// Connections that end go on costing for a moment, which is not to count for whoever is next.
const PAUSE: Duration = Duration::from_millis(100);
/// More than any way here does in a second, times any number of seconds; keeps memory bounded.
const MOST: u64 = 2_000_000;
/// Echoes of 1 KiB in an exec session.
pub(crate) const ECHOES: u32 = 10;
/// Long transfers at the same time.
pub(crate) const AT_ONCE: usize = 8;
/// Watches beside a GET, at the most.
pub(crate) const BESIDE: usize = 1_000;
/// Watches on one connection.
pub(crate) const TOGETHER: usize = 100;
/// Sessions at the same time.
pub(crate) const ABREAST: usize = 4;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Measure {
    /// GET of 2 KB over one connection.
    Get1,
    /// Over 16 connections.
    Get16,
    /// Over 128 connections.
    Get128,
    /// List of 1 MB over 4 connections.
    List,
    /// One long download.
    Download,
    /// One long upload.
    Upload,
    /// Eight downloads at once, as much together.
    Downloads,
    /// Eight uploads at once, as much together.
    Uploads,
    /// Exec sessions, one connection each.
    Exec,
    /// Memory under many quiet watches, one connection each.
    Watches,
    /// Memory under many quiet watches, 100 on each connection.
    SharedWatches,
    /// GET of 2 KB over one connection, with nothing else open.
    GetAlone,
    /// The same with 1,000 quiet watches open, 100 on each connection.
    GetBesideWatches,
}

impl Measure {
    /// All of them, in the order of the table. Watches that share connections come first: memory that was once in use
    /// would hide what they take.
    pub const ALL: [Self; 13] = [
        Self::SharedWatches,
        Self::GetAlone,
        Self::GetBesideWatches,
        Self::Get1,
        Self::Get16,
        Self::Get128,
        Self::List,
        Self::Download,
        Self::Upload,
        Self::Downloads,
        Self::Uploads,
        Self::Exec,
        Self::Watches,
    ];

    /// Bytes that one request of a long transfer carries, and how many are under way at once.
    fn transfer(self, whole: u64) -> Option<(u64, usize)> {
        match self {
            Self::Download | Self::Upload => Some((whole, 1)),
            Self::Downloads | Self::Uploads => Some((whole / AT_ONCE as u64, AT_ONCE)),
            _ => None,
        }
    }
}

/// Which demands the figures are held against.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Asked {
    /// Those of a request's way as users see it.
    Path,
    /// Those of the tunnel, beside HAProxy.
    Tunnel,
    /// Those of the tunnel about very many watches. By themselves, for HAProxy takes ten times the CPU for each request
    /// that comes after them.
    Watches,
}

impl Asked {
    /// What is measured for it.
    #[must_use]
    pub fn measures(self) -> &'static [Measure] {
        use Measure::{
            Download, Downloads, Exec, Get1, Get16, Get128, GetAlone, GetBesideWatches, List, SharedWatches, Upload,
            Uploads, Watches,
        };
        match self {
            Self::Path => &[Get1, Get16, Get128, List, Download, Exec, Watches],
            Self::Watches => &[SharedWatches, GetAlone, GetBesideWatches],
            Self::Tunnel => &[Get1, Get16, Get128, List, Download, Upload, Downloads, Uploads, Exec],
        }
    }
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What for.
    pub asked: Asked,
    /// Rounds over all ways.
    pub rounds: u32,
    /// For each measure of each way in each round.
    pub time: Duration,
    /// Bytes of the long download.
    pub download: u64,
    /// Quiet watches held open, one connection each.
    pub watches: usize,
    /// The same of those that share connections.
    pub shared_watches: usize,
    /// What is measured.
    pub measures: Vec<Measure>,
}

/// One of the ways that are compared.
#[derive(Clone, Debug)]
pub struct Way {
    /// What kind of way.
    pub is: Is,
    /// Where it begins.
    pub target: Target,
}

/// What is between load and upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Is {
    /// Nothing.
    Direct,
    /// Two hops of HAProxy.
    Haproxy(Settings),
    /// Two hops of the libraries that ZTKA is made of, with nothing of ZTKA in them.
    Bare,
    /// Proxy, tunnel and agent.
    Ztka,
}

impl Is {
    /// The bare hops carry no upgrades, and with the fast upstream take HTTP/1.1 only.
    fn measured_by(self, measure: Measure) -> bool {
        match measure {
            Measure::SharedWatches | Measure::GetAlone | Measure::GetBesideWatches => {
                matches!(self, Self::Haproxy(_) | Self::Ztka)
            }
            Measure::Exec => self != Self::Bare,
            _ => true,
        }
    }
}

/// What one measure of one way in one round gave.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What.
    pub measure: Measure,
    /// Index of the way.
    pub way: usize,
    /// What the load saw.
    pub outcome: Outcome,
    /// CPU time of each process of the way during the measure.
    pub cpu: Vec<Duration>,
    /// What the processes held at its beginning.
    pub before: Vec<Usage>,
    /// What the processes held at its end, before anything was closed.
    pub usage: Vec<Usage>,
}

/// All readings.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How much was measured.
    pub plan: Plan,
    /// What answered.
    pub kind: Kind,
    /// Who was compared.
    pub ways: Vec<Way>,
    /// By way: what its processes held before the first request.
    pub start: Vec<Vec<Usage>>,
    /// In the order they were taken.
    pub readings: Vec<Reading>,
}

impl Figures {
    /// The readings of one cell of the table.
    pub fn of(&self, measure: Measure, way: usize) -> impl Iterator<Item = &Reading> {
        self.readings.iter().filter(move |reading| reading.measure == measure && reading.way == way)
    }
}

/// Measures all `ways` to `upstream`, telling `progress` what is done.
///
/// A way that fails is an error in its readings, not of the run.
///
/// # Errors
/// When a process of a way does not exist (any more).
pub fn run(plan: &Plan, upstream: &Upstream, ways: Vec<Way>, mut progress: impl FnMut(&str)) -> Result<Figures> {
    let held = |way: &Way| look(&way.target);
    let start = ways.iter().map(held).collect::<Result<_>>()?;
    let mut readings = Vec::new();
    for round in 1..=plan.rounds {
        for measure in Measure::ALL.into_iter().filter(|measure| plan.measures.contains(measure)) {
            for (number, way) in in_turn(&ways, round).filter(|(_, way)| way.is.measured_by(measure)) {
                let Some(reading) = measure.read(plan, upstream, number, &way.target)? else {
                    continue;
                };
                let failed = reading.outcome.first_error.as_deref();
                let failed = failed.map(|why| format!(": {} errors, first: {why}", reading.outcome.errors));
                let name = &way.target.name;
                progress(&format!("round {round}/{}, {measure:?}, {name}{}", plan.rounds, failed.unwrap_or_default()));
                readings.push(reading);
                sleep(PAUSE);
            }
        }
    }
    Ok(Figures { plan: plan.clone(), kind: upstream.kind, ways, start, readings })
}

/// All of them with their numbers; another one is the first in each round, so that none is always the one that finds what
/// its neighbour has left.
fn in_turn<T>(ways: &[T], round: u32) -> impl Iterator<Item = (usize, &T)> {
    let first = (round as usize).saturating_sub(1) % ways.len().max(1);
    ways.iter().enumerate().cycle().skip(first).take(ways.len())
}

impl Measure {
    fn read(self, plan: &Plan, upstream: &Upstream, way: usize, target: &Target) -> Result<Option<Reading>> {
        let paths = &upstream.paths;
        let quiet = match self {
            Self::Watches => Some((plan.watches, Over::Own)),
            Self::SharedWatches => Some((plan.shared_watches, Over::Shared(TOGETHER))),
            _ => None,
        };
        if let Some((count, over)) = quiet {
            let read = |path: &String| watches(self, count, over, path, way, target);
            return paths.watch.as_ref().map(read).transpose();
        }
        let get = |connections, threads| {
            let work = Work::Get(paths.get.clone());
            Load { work, warm_up: paths.get.clone(), connections, threads, time: plan.time, most: MOST }
        };
        let load = match self {
            Self::Get1 | Self::GetAlone => Some(get(1, 1)),
            Self::GetBesideWatches => paths.watch.as_ref().map(|_| get(1, 1)),
            Self::Get16 => Some(get(16, 1)),
            Self::Get128 => Some(get(128, 1)),
            Self::List => {
                let of = |path: &String| Load { work: Work::Get(path.clone()), ..get(4, 2) };
                paths.list.as_ref().map(of)
            }
            Self::Download | Self::Upload | Self::Downloads | Self::Uploads => {
                let (bytes, connections) = self.transfer(plan.download).unwrap_or_default();
                let work = match self {
                    Self::Download | Self::Downloads => {
                        paths.download.as_ref().map(|path| Work::Get(format!("{path}?limitBytes={bytes}")))
                    }
                    _ => paths.upload.as_ref().map(|path| Work::Put(path.clone(), bytes)),
                };
                let most = connections as u64;
                let of =
                    |work| Load { work, time: Duration::from_secs(120), most, ..get(connections, connections.min(2)) };
                work.map(of)
            }
            Self::Exec => {
                let of = |path: &String| Load { work: Work::Exec(path.clone(), ECHOES), ..get(ABREAST, 1) };
                paths.exec.as_ref().map(of)
            }
            Self::Watches | Self::SharedWatches => None,
        };
        let Some(load) = load else {
            return Ok(None);
        };
        let count = plan.shared_watches.min(BESIDE);
        let beside = match &paths.watch {
            Some(path) if self == Self::GetBesideWatches => {
                Some(load::open(target, path, count, Over::Shared(TOGETHER))?)
            }
            _ => None,
        };
        let prepared = load::prepare(target, &load);
        let before = look(target)?;
        let mut outcome = match prepared {
            Ok(prepared) => prepared.go(),
            Err(error) => Outcome { errors: 1, first_error: Some(format!("{error:#}")), ..Outcome::default() },
        };
        let usage = look(target)?;
        if let Some(quiet) = &beside {
            outcome.errors += quiet.errors;
            outcome.first_error = outcome.first_error.or_else(|| quiet.first_error.clone());
        }
        if let Some((each, count)) = self.transfer(plan.download) {
            let asked = each * count as u64;
            if outcome.errors == 0 && outcome.bytes != asked {
                outcome.errors = 1;
                outcome.first_error = Some(format!("{} bytes came instead of {asked}", outcome.bytes));
            }
        }
        Ok(Some(Reading { measure: self, way, outcome, cpu: spent(&before, &usage), before, usage }))
    }
}

fn watches(measure: Measure, count: usize, over: Over, path: &str, way: usize, target: &Target) -> Result<Reading> {
    let before = look(target)?;
    let open = load::open(target, path, count, over)?;
    let usage = look(target)?;
    let outcome = Outcome { errors: open.errors, first_error: open.first_error.clone(), ..Outcome::default() };
    Ok(Reading { measure, way, outcome, cpu: spent(&before, &usage), before, usage })
}

fn look(target: &Target) -> Result<Vec<Usage>> {
    let look = |process: &crate::Process| {
        usage(process.pid).with_context(|| format!("{} of {} is to be looked at", process.name, target.name))
    };
    target.processes.iter().map(look).collect()
}

fn spent(before: &[Usage], after: &[Usage]) -> Vec<Duration> {
    before.iter().zip(after).map(|(before, after)| after.cpu.saturating_sub(before.cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_first_in_its_turn_and_all_are_in_each_round() {
        let round = |round| in_turn(&["a", "b", "c"], round).map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!([round(1), round(2), round(3), round(4)], [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        assert_eq!(in_turn::<u8>(&[], 2).count(), 0);
    }
}
