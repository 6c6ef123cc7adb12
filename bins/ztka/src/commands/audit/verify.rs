//! `ztka audit verify`

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use ztka_audit::log::{
    SignedHead, TreeHead,
    export::{NotAnExport, Report, verify},
};

use super::trust::Trust;
use crate::output::{No, Output, Unjudged};

/// Ends with 0 if all is as it was logged, with 1 if it is not, and with 2 if nothing can be said.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// What `ztka audit export` has written; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// A head, or several, one to a line, that were seen before and have to be continued; may be repeated
    #[arg(long, value_name = "FILE")]
    previous_head: Vec<PathBuf>,
    /// Leaves that are not in the file, before its first and behind its last, are a finding as well
    #[arg(long)]
    whole: bool,
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct Verified<'a> {
    sound: bool,
    head: &'a TreeHead,
    first_leaf: u64,
    leaves: u64,
    events: u64,
    gone_and_covered: u64,
    earlier_heads_continued: usize,
    findings: Vec<Finding>,
    findings_in_all: u64,
}

#[derive(Debug, Serialize)]
struct Finding {
    kind: &'static str,
    message: String,
}

impl Verify {
    pub(crate) fn run(self, credential: Option<&Path>, output: Output) -> anyhow::Result<()> {
        let report = self.judge(credential).context(Unjudged)?;
        let left_out = report.leaves.start > 0 || report.leaves.end < report.head.size;
        print(&report, output)?;
        if left_out && output == Output::Table {
            let (from, to, size) = (report.leaves.start, report.leaves.end, report.head.size);
            println!("not in this file: leaves before {from} and from {to} on, of {size}");
        }
        if report.is_sound() && !(self.whole && left_out) { Ok(()) } else { Err(No.into()) }
    }

    fn judge(&self, credential: Option<&Path>) -> anyhow::Result<Report> {
        let anchors = self.trust.anchors(credential)?;
        let mut earlier = Vec::new();
        for path in &self.previous_head {
            let name = path.display();
            let file = File::open(path).with_context(|| format!("{name} cannot be read"))?;
            for line in BufReader::new(file).lines() {
                let line = line.with_context(|| format!("{name} cannot be read"))?;
                if !line.trim().is_empty() {
                    let head: SignedHead = serde_json::from_str(&line)
                        .with_context(|| format!("{name} is not a list of tree heads, one to a line"))?;
                    earlier.push(head);
                }
            }
        }
        Ok(self.read(|input| verify(input, |head| anchors.believe(head), &earlier))?)
    }

    fn read(
        &self,
        verify: impl FnOnce(&mut dyn BufRead) -> Result<Report, NotAnExport>,
    ) -> Result<Report, NotAnExport> {
        if self.file.as_os_str() == "-" {
            return verify(&mut std::io::stdin().lock());
        }
        let file = File::open(&self.file).map_err(NotAnExport::Read)?;
        verify(&mut BufReader::with_capacity(1 << 20, file))
    }
}

fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    let Report { head, leaves, events, covered, earlier, faults, found, .. } = report;
    if output == Output::Json {
        let findings = faults.iter().map(|fault| Finding { kind: fault.kind(), message: fault.to_string() });
        let answer = Verified {
            sound: report.is_sound(),
            head,
            first_leaf: leaves.start,
            leaves: leaves.end - leaves.start,
            events: *events,
            gone_and_covered: *covered,
            earlier_heads_continued: *earlier,
            findings: findings.collect(),
            findings_in_all: *found,
        };
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!("head: {} leaves, signed {}, root {}", head.size, head.time, head.root);
    println!("{events} events are as they were logged, {covered} more are gone by retention or shredding");
    if *earlier > 0 {
        println!("{earlier} earlier heads are continued");
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    if *found > faults.len() as u64 {
        println!("and {} more", found - faults.len() as u64);
    }
    Ok(())
}
