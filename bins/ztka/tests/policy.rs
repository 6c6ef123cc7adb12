//! `ztka policy …` on files, as a session in a terminal: what is said, and with which exit code.
//!
//! `ZTKA_BLESS=1 cargo test -p ztka-cli --test policy` writes the session anew, to be reviewed line by line.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/policy")
}

/// What a terminal would show after `line`, a command without quotes; and its standard output alone.
fn run(line: &str, input: &str) -> (String, String) {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("ztka"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ztka"));
    command.args(words).current_dir(folder()).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let code = match output.status.code() {
        Some(0) => String::new(),
        code => format!("[exit code {}]\n", code.unwrap()),
    };
    (format!("{out}{err}{code}"), out)
}

#[test]
fn a_session_in_a_terminal() {
    let path = folder().join("session.txt");
    let written = fs::read_to_string(&path).unwrap();
    let mut session = String::new();
    for line in written.lines().filter(|line| line.starts_with("$ ") || line.starts_with("# ")) {
        let said = line.strip_prefix("$ ").map(|command| run(command, "").0).unwrap_or_default();
        session.push_str(&format!("{line}\n{said}"));
    }
    assert!(session.matches("\n$ ").count() > 20);
    if std::env::var_os("ZTKA_BLESS").is_some() {
        fs::write(&path, &session).unwrap();
    }
    for (number, (is, was)) in session.lines().zip(written.lines()).enumerate() {
        assert_eq!(is, was, "line {} of {}", number + 1, path.display());
    }
    assert_eq!(session, written);
}

#[test]
fn outcomes_are_written_as_junit() {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let line = format!("ztka policy test --policy policy.yaml tests.yaml failing.yaml --junit {}", junit.display());
    assert!(run(&line, "").0.ends_with("[exit code 1]\n"));
    let xml = fs::read_to_string(junit).unwrap();
    assert!(xml.contains("<testsuite name=\"tests.yaml\" tests=\"6\" failures=\"0\">"), "{xml}");
    assert!(xml.contains("<testsuite name=\"failing.yaml\" tests=\"2\" failures=\"1\">"), "{xml}");
    assert!(xml.contains("name=\"nobody deletes: cannot get pods -n shop\" line=\"6\"><failure"), "{xml}");
}

#[test]
fn machines_are_answered_in_json_and_files_come_by_standard_input() {
    let policy = fs::read_to_string(folder().join("policy.yaml")).unwrap();
    let json = |line: &str| -> serde_json::Value { serde_json::from_str(&run(line, &policy).1).unwrap() };
    let who = "--policy - --user bob --at 2026-01-05T12:00:00Z -o json";
    assert_eq!(json("ztka policy check - -o json")["bindings"], 3);
    let why = json(&format!("ztka policy can-i {who} delete pods -n shop"));
    assert_eq!(why["allowed"], false);
    assert_eq!(json(&format!("ztka policy can-i {who} --list"))[0]["what"], "pods/log");
    let why = json(&format!("ztka policy explain {who} get pods/log web -n shop"));
    assert_eq!(why["steps"].as_array().unwrap().len(), 2);
    let simulation = json("ztka policy simulate --policy - --events events.jsonl -o json");
    assert_eq!(simulation["newlyDenied"][0]["user"], "alice");
    assert_eq!(json("ztka policy diff policy.yaml - -o json"), serde_json::json!([]));
    let schema = json("ztka policy schema");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}
