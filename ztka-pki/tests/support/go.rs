//! Go's crypto/x509, and so kubectl, as a judge (`tests/judge`).
#![allow(unreachable_pub, reason = "a test has no API")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// Its answers, in the order of the questions.
pub fn asked(questions: impl Iterator<Item = Value>) -> Vec<Value> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge");
    // Tests of one process may build it at the same time.
    let program = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = program.path().join("chain-judge");
    let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(sources).status().unwrap();
    assert!(built.success(), "go build failed; see above");
    let mut judge = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let questions: String = questions.map(|question| format!("{question}\n")).collect();
    let mut input = judge.stdin.take().unwrap();
    let asking = std::thread::spawn(move || input.write_all(questions.as_bytes()).unwrap());
    let output = judge.wait_with_output().unwrap();
    asking.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
