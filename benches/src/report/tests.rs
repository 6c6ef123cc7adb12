use std::time::Duration;

use super::*;
use crate::{
    Process, Target,
    haproxy::Settings,
    load::Outcome,
    path::{Asked, Is, Measure, Plan, Reading, Way},
    procfs::Usage,
};

fn way(is: Is, name: &str, processes: &[&str]) -> Way {
    let target = Target {
        name: name.into(),
        address: "127.0.0.1:1".parse().unwrap(),
        server_name: "localhost".into(),
        ca: "ca".into(),
        certificate: "c".into(),
        key: "k".into(),
        path_prefix: String::new(),
        processes: processes.iter().map(|name| Process { name: (*name).into(), pid: 1 }).collect(),
    };
    Way { is, target }
}

/// 1,000 requests of so many microseconds each, with so much CPU for each process and so many bytes in a second.
fn reading(measure: Measure, way: usize, micros: u64, cpu: &[u64], bytes: u64) -> Reading {
    let latencies = vec![Duration::from_micros(micros); 1000];
    let outcome = Outcome { latencies, bytes, elapsed: Duration::from_secs(1), ..Outcome::default() };
    let cpu: Vec<_> = cpu.iter().map(|micros| Duration::from_micros(micros * 1000)).collect();
    let usage = cpu.iter().map(|_| Usage { resident: 10 << 20, peak: 1500 << 20, ..Usage::default() }).collect();
    let before = vec![Usage::default(); cpu.len()];
    Reading { measure, way, outcome, cpu, before, usage }
}

fn figures(kind: Kind) -> Figures {
    let ways = vec![
        way(Is::Direct, "direct", &[]),
        way(Is::Haproxy(Settings::Tuned), "HAProxy, tuned", &["edge", "inner"]),
        way(Is::Ztka, "ZTKA", &["proxy", "agent"]),
    ];
    let mut readings = Vec::new();
    for extra in [0, 5, 90] {
        readings.push(reading(Measure::Get1, 0, 100 + extra, &[], 0));
        readings.push(reading(Measure::Get1, 2, 120 + extra, &[50, 40], 0));
        readings.push(reading(Measure::Get16, 2, 300, &[60 + extra, 50], 0));
        readings.push(reading(Measure::Download, 1, 1, &[1, 1], 1_000_000_000));
        readings.push(reading(Measure::Download, 2, 1, &[1, 1], 790_000_000));
    }
    let mut failed = reading(Measure::Get128, 2, 900, &[40, 40], 0);
    failed.outcome.errors = 3;
    readings.push(failed);
    let plan = Plan {
        asked: Asked::Path,
        rounds: 3,
        time: Duration::from_millis(1500),
        download: 1 << 30,
        watches: 500,
        shared_watches: 1000,
        measures: Measure::ALL.to_vec(),
    };
    let start = vec![vec![], vec![Usage::default(); 2], vec![Usage { resident: 5 << 20, ..Usage::default() }; 2]];
    Figures { plan, kind, ways, start, readings }
}

#[test]
fn the_table_has_medians_and_says_where_nothing_is() {
    let report = Report::new(&figures(Kind::Fast), &Machine::default(), &["HAProxy is old.".into()]).to_string();
    let squeezed: Vec<String> =
        report.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "| GET of 2 KB, 1 connection: p50 | 105 µs | – | 125 µs |",
        "| … CPU per request | – | – | 90.0 µs (proxy 50.0, agent 40.0) |",
        "| … CPU per request | – | – | 115 µs (proxy 65.0, agent 50.0) |",
        "| … requests | – | – | 1,000 /s |",
        "| Download of 1024 MiB: throughput | – | 1,000 MB/s | 790 MB/s |",
        "| … **errors** | 0 | 0 | 3 |",
        "| Memory before the first request | – | edge 0.00 MiB, inner 0.00 MiB | proxy 5.00 MiB, agent 5.00 MiB |",
        "| … at most | – | edge 1,500 MiB, inner 1,500 MiB | proxy 1,500 MiB, agent 1,500 MiB |",
        "HAProxy is old.",
    ] {
        assert!(squeezed.iter().any(|have| have == line), "{line}\n{report}");
    }
    assert!(report.contains("medians of 3 rounds of 1.5 s each"), "{report}");
    let widths: Vec<usize> =
        report.lines().skip_while(|line| !line.starts_with('|')).take(5).map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| Some(width) == widths.first()), "{report}");
}

#[test]
fn what_is_asked_is_judged_by_medians() {
    let met = |figures: &Figures| bars(figures).into_iter().map(|bar| bar.met).collect::<Vec<_>>();
    let fast = figures(Kind::Fast);
    assert_eq!(met(&fast), [Some(false), None, Some(true), Some(false)]);
    assert!(!Report::new(&fast, &Machine::default(), &[]).is_met());
    let apiserver = figures(Kind::Apiserver);
    assert_eq!(met(&apiserver), [Some(false), Some(true)]);
    let without = Figures { ways: fast.ways[..2].to_vec(), ..fast };
    assert_eq!(bars(&without), []);
    assert!(Report::new(&without, &Machine::default(), &[]).is_met());
}

#[test]
fn only_the_section_of_a_file_changes() {
    let text = "# A\n<!-- figures: other -->\nold\n<!-- end -->\n<!-- figures: path -->\nold\n<!-- end -->\nrest\n";
    let changed = replaced(text, "path", "new\n\n").unwrap();
    assert_eq!(
        changed,
        "# A\n<!-- figures: other -->\nold\n<!-- end -->\n<!-- figures: path -->\nnew\n<!-- end -->\nrest\n"
    );
    assert_eq!(replaced(&changed, "path", "new"), Some(changed.clone()));
    assert_eq!(replaced(text, "absent", "new"), None);
}

#[test]
fn numbers_have_the_digits_that_count() {
    for (value, text) in
        [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234"), (1_234_567.0, "1,234,567")]
    {
        assert_eq!(rows::number(value), text);
    }
}
