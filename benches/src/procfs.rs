//! CPU time and memory of processes, from the kernel's own accounting (proc(5)).

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// Clock ticks per second in `/proc`, the same on every architecture that we run on (`USER_HZ`).
const TICKS: u64 = 100;

/// One process and all that it has started, at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// User and system time so far, ended children included; to 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// The most that was ever resident, in bytes.
    pub peak: u64,
}

/// Looks at `pid` and its living descendants.
///
/// # Errors
/// When there is no such process.
pub fn usage(pid: u32) -> Result<Usage> {
    let own = stat(pid).with_context(|| format!("there is no process {pid}"))?;
    let mut usage = Usage { cpu: own.cpu, ..memory(pid) };
    let mut left: Vec<(u32, Stat)> =
        pids().filter_map(|pid| Some((pid, stat(pid)?))).filter(|(other, _)| *other != pid).collect();
    let mut family = vec![pid];
    // A child may have a lower id than its parent, so until nothing is found any more.
    loop {
        let (found, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, stat)| family.contains(&stat.parent));
        if found.is_empty() {
            return Ok(usage);
        }
        for (child, stat) in &found {
            family.push(*child);
            let memory = memory(*child);
            usage.cpu += stat.cpu;
            usage.resident += memory.resident;
            usage.peak += memory.peak;
        }
        left = rest;
    }
}

#[derive(Debug, Eq, PartialEq)]
struct Stat {
    parent: u32,
    cpu: Duration,
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state ppid … utime stime cutime cstime …`; the name may contain anything.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let ticks = fields.skip(9).take(4).map(|field| field.parse::<u64>().unwrap_or_default()).sum::<u64>();
    Some(Stat { parent, cpu: Duration::from_millis(ticks * (1000 / TICKS)) })
}

fn memory(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let resident = bytes("VmRSS:").unwrap_or_default();
    Usage { cpu: Duration::ZERO, resident, peak: bytes("VmHWM:").unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        process::{Command, Stdio},
        time::Instant,
    };

    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_confuses_nobody() {
        let line = "17 (a) S 9 (b c) R 42 17 17 0 -1 4194560 1 2 3 4 150 30 2 1 20 0 1 0 99 1000 10";
        assert_eq!(parse_stat(line), Some(Stat { parent: 42, cpu: Duration::from_millis(1830) }));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("17 (x) S"), None);
    }

    #[test]
    fn time_spent_shows() {
        let before = usage(std::process::id()).unwrap();
        let start = Instant::now();
        let mut number = 0_u64;
        while usage(std::process::id()).unwrap().cpu < before.cpu + Duration::from_millis(50) {
            assert!(start.elapsed() < Duration::from_secs(30));
            number = black_box(number.wrapping_mul(31) + 7);
        }
        assert!(before.resident > 100_000 && before.peak >= before.resident / 2);
    }

    #[test]
    fn children_count_with_their_parents() {
        let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; read -r end";
        let mut parent = Command::new("sh")
            .args(["-c", &format!("sh -c '{script}' <&0 & wait")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let alone = memory(parent.id()).resident;
        while usage(parent.id()).unwrap().cpu.is_zero() || usage(parent.id()).unwrap().resident <= alone {
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", usage(parent.id()));
        }
        drop(parent.stdin.take());
        parent.wait().unwrap();
        assert!(usage(parent.id()).is_err());
    }
}
