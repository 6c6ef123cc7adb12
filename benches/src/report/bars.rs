//! What is asked of ZTKA, and what was reached.

use super::rows::{cpu_together, number, over_rounds, p50, speed};
use crate::{
    Kind,
    path::{Figures, Is, Measure},
};

/// Against a real apiserver, at one connection.
const SLOWER: f64 = 1.3;
/// Microseconds of CPU per small GET at 16 connections, proxy and agent together.
const CPU: f64 = 120.0;
/// Of the same download through HAProxy.
const DOWNLOAD: f64 = 0.8;

/// One demand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bar {
    /// What is asked for.
    pub asked: String,
    /// What was measured.
    pub reached: String,
    /// Whether that is enough; `None` where nothing is asked or it was not measured.
    pub met: Option<bool>,
}

/// Compares ZTKA with what is asked of it; nothing if it was not measured.
#[must_use]
pub fn bars(figures: &Figures) -> Vec<Bar> {
    let ways = || figures.ways.iter().enumerate();
    let mut bars = Vec::new();
    for (way, ztka) in ways().filter(|(_, way)| way.is == Is::Ztka) {
        let name = &ztka.target.name;
        let mut bar = |asked: String, reached: Option<String>, met: Option<bool>| {
            let reached = reached.unwrap_or_else(|| "not measured".into());
            bars.push(Bar { asked: format!("{name}: {asked}"), reached, met });
        };

        let mut at_128 = figures.of(Measure::Get128, way).peekable();
        if at_128.peek().is_some() {
            let errors: u64 = at_128.map(|reading| reading.outcome.errors).sum();
            bar("no error at 128 connections".into(), Some(format!("{errors} errors")), Some(errors == 0));
        }

        let of = |way| over_rounds(figures, Measure::Get1, way, p50);
        let direct = ways().find(|(_, way)| way.is == Is::Direct).and_then(|(direct, _)| of(direct));
        let ratio = of(way).zip(direct).map(|(through, direct)| through / direct);
        let reached = ratio.map(|ratio| format!("{} × direct", number(ratio)));
        match figures.kind {
            Kind::Apiserver => {
                let asked = format!("p50 at 1 connection at most {SLOWER} × direct");
                bar(asked, reached, ratio.map(|ratio| ratio <= SLOWER));
                continue;
            }
            Kind::Fast => bar("p50 at 1 connection".into(), reached, None),
        }

        let cpu = cpu_together(figures, Measure::Get16, way);
        bar(
            format!("at most {CPU} µs of CPU per GET of 2 KB at 16 connections"),
            cpu.map(|cpu| format!("{} µs", number(cpu))),
            cpu.map(|cpu| cpu <= CPU),
        );

        let of = |way| over_rounds(figures, Measure::Download, way, speed);
        let haproxy = ways().filter(|(_, way)| matches!(way.is, Is::Haproxy(_))).filter_map(|(haproxy, _)| of(haproxy));
        let share = of(way).zip(haproxy.reduce(f64::max)).map(|(ours, theirs)| ours / theirs);
        bar(
            format!("the download at {:.0} % of HAProxy's speed or more (the faster of both)", DOWNLOAD * 100.0),
            share.map(|share| format!("{:.0} %", share * 100.0)),
            share.map(|share| share >= DOWNLOAD),
        );
    }
    bars
}
