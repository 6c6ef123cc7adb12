//! What is asked of the tunnel: the way through it beside two TLS hops of HAProxy as it is tuned best.

use super::{
    Bar,
    rows::{cpu_together, number, over_rounds, p50, p99, per_watch, speed},
};
use crate::{
    haproxy::Settings,
    path::{Figures, Is, Measure, Reading},
};

/// KiB of each process for a quiet watch that shares its connection with others.
const WATCH: f64 = 20.0;
/// Microseconds of CPU for an exec session, both handshakes counted.
const EXEC: f64 = 2_000.0;
/// A GET beside 1,000 watches takes so many times as long as alone.
const BESIDE_WATCHES: f64 = 2.0;
/// Lists go faster than through HAProxy by so much.
const LISTS: f64 = 1.1;

/// Compares ZTKA with tuned HAProxy; nothing if either was not there.
pub(super) fn bars(figures: &Figures) -> Vec<Bar> {
    let way = |is: Is| figures.ways.iter().position(|way| way.is == is);
    let (Some(ztka), Some(haproxy)) = (way(Is::Ztka), way(Is::Haproxy(Settings::Tuned))) else {
        return Vec::new();
    };
    let compared = Compared { figures, ztka, haproxy, direct: way(Is::Direct) };
    let mut bars = Vec::new();
    for (measure, connections) in [(Measure::Get1, 1), (Measure::Get16, 16), (Measure::Get128, 128)] {
        let cpu = |way| cpu_together(figures, measure, way);
        let at = format!("GET of 2 KB at {connections} connections");
        bars.extend(compared.at_most(&format!("{at}: CPU"), 1.0, cpu));
        if measure == Measure::Get1 {
            bars.extend(compared.at_most(&format!("{at}: p50 beyond the direct way"), 1.0, |way| compared.added(way)));
        }
        bars.extend(compared.told(&format!("{at}: p99"), |way| over_rounds(figures, measure, way, p99)));
    }
    let transfers = [
        (Measure::List, "lists of 1 MB", LISTS),
        (Measure::Download, "the download", 1.0),
        (Measure::Upload, "the upload", 1.0),
        (Measure::Downloads, "downloads at once", 1.0),
        (Measure::Uploads, "uploads at once", 1.0),
    ];
    for (measure, what, factor) in transfers {
        bars.extend(compared.at_least(&format!("{what}: speed"), factor, measure, speed));
    }
    bars.extend(cpu_together(figures, Measure::Exec, ztka).map(|cpu| Bar {
        asked: format!("an exec session: at most {} µs of CPU", number(EXEC)),
        reached: format!("{} µs", number(cpu)),
        met: Some(cpu <= EXEC),
    }));
    let median = |measure| over_rounds(figures, measure, ztka, p50);
    let beside = median(Measure::GetBesideWatches).zip(median(Measure::GetAlone));
    bars.extend(beside.map(|(beside, alone)| Bar {
        asked: format!("a GET beside 1,000 watches: p50 at most {BESIDE_WATCHES:.1} × that of one alone"),
        reached: format!("{} ×", number(beside / alone)),
        met: Some(beside <= BESIDE_WATCHES * alone),
    }));
    for (process, name) in ["proxy", "agent"].into_iter().enumerate() {
        bars.extend(per_watch(figures, ztka, process).map(|kib| Bar {
            asked: format!("a quiet watch: at most {WATCH} KiB in the {name}"),
            reached: format!("{} KiB", number(kib)),
            met: Some(kib <= WATCH),
        }));
    }
    bars
}

struct Compared<'a> {
    figures: &'a Figures,
    ztka: usize,
    haproxy: usize,
    direct: Option<usize>,
}

impl Compared<'_> {
    fn ratio(&self, value: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        Some(value(self.ztka)? / value(self.haproxy)?)
    }

    /// p50 at one connection beyond that of the direct way.
    fn added(&self, way: usize) -> Option<f64> {
        let p50 = |way| over_rounds(self.figures, Measure::Get1, way, p50);
        Some(p50(way)? - p50(self.direct?)?)
    }

    fn at_most(&self, what: &str, factor: f64, value: impl Fn(usize) -> Option<f64>) -> Option<Bar> {
        let ratio = self.ratio(value)?;
        let asked = format!("{what}: at most {factor:.1} × tuned HAProxy");
        Some(Bar { asked, reached: format!("{} ×", number(ratio)), met: Some(ratio <= factor) })
    }

    fn at_least(
        &self,
        what: &str,
        factor: f64,
        measure: Measure,
        value: impl Fn(&Reading) -> Option<f64>,
    ) -> Option<Bar> {
        let ratio = self.ratio(|way| over_rounds(self.figures, measure, way, &value))?;
        let asked = format!("{what}: at least {factor:.1} × tuned HAProxy");
        Some(Bar { asked, reached: format!("{} ×", number(ratio)), met: Some(ratio >= factor) })
    }

    fn told(&self, what: &str, value: impl Fn(usize) -> Option<f64>) -> Option<Bar> {
        let ratio = self.ratio(value)?;
        Some(Bar {
            asked: format!("{what}, beside tuned HAProxy"), reached: format!("{} ×", number(ratio)), met: None
        })
    }
}
