//! Generated requests, read by us and by Kubernetes' own code: no difference among those that we accept.
//!
//! 100,000 by default, a million with `cargo xtask test --long`. Needs Go, and its module proxy the first time; without
//! Go it is skipped and says so, and fails with `CI=true`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod readings;

use std::{
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use http::{Method, Uri};
use readings::{Reading, chance::Chance, seen};
use serde::Deserialize;
use ztka_core::RequestAttributes;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    error: bool,
    is_resource: bool,
    verb: String,
    path: String,
    group: String,
    version: String,
    namespace: String,
    resource: String,
    subresource: String,
    name: String,
}

impl From<Answer> for Option<Reading> {
    fn from(told: Answer) -> Self {
        let Answer { error, is_resource, verb, path, group, version, namespace, resource, subresource, name } = told;
        (!error).then_some(Reading { is_resource, verb, path, group, version, namespace, resource, subresource, name })
    }
}

/// Kubernetes' own code; `None` where there is no Go.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if Command::new("go").arg("version").output().is_err() {
            let missing = "Go is not installed; install it to have Kubernetes read the requests as well";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            // Past the capture of the test harness; `cargo xtask test` counts these lines.
            let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED the differential test: {missing}");
            return None;
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requestinfo");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("requestinfo");
        let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(sources).status();
        assert!(built.expect("Go is installed").success(), "go build failed; see above");
        Some(program)
    };
    PROGRAM.get_or_init(build).as_deref()
}

#[test]
fn kubernetes_reads_what_we_accept_as_we_do() {
    compare(100_000);
}

#[test]
#[ignore = "takes a minute; part of cargo xtask test --long"]
fn kubernetes_reads_a_million_as_we_do() {
    compare(1_000_000);
}

fn compare(requests: usize) {
    let Some(program) = program() else { return };
    let mut judge = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut questions = BufWriter::new(judge.stdin.take().unwrap());
    let answers = BufReader::new(judge.stdout.take().unwrap());
    let (expect, expected) = std::sync::mpsc::sync_channel(10_000);

    let asking = std::thread::spawn(move || {
        let mut chance = Chance(0x5eed);
        let mut accepted = 0_usize;
        for _ in 0..requests {
            let (method, target) = chance.request();
            let Ok(uri) = target.parse::<Uri>() else { continue };
            let Ok(ours) = RequestAttributes::parse(&method.parse::<Method>().unwrap(), &uri, None) else { continue };
            accepted += 1;
            // As received, and as sent.
            for target in [target.as_str(), ours.path_and_query().as_str()] {
                let question = format!("{method} {target}");
                writeln!(questions, "{question}").unwrap();
                expect.send((question, seen(&ours))).unwrap();
            }
        }
        questions.flush().unwrap();
        accepted
    });

    let mut differences = Vec::new();
    for ((question, ours), line) in expected.iter().zip(answers.lines()) {
        let told: Answer = serde_json::from_str(&line.unwrap()).unwrap();
        let theirs: Option<Reading> = told.into();
        if theirs.as_ref() != Some(&ours) && differences.len() < 20 {
            differences.push(format!("{question}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    let accepted = asking.join().unwrap();
    judge.wait().unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(accepted > requests / 20, "only {accepted} of {requests} were accepted");
    println!("{requests} requests, {accepted} accepted, no difference");
}
