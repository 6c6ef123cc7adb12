//! Rules that are read off the text of files: their size, and that they do not panic.

use std::fs;

use anyhow::{Context as _, Result};

use super::source;
use crate::workspace::{self, Member};

const MAX_LINES: usize = 800;

/// Ways to end a process that a server must not have.
const PANICS: &[&str] = &[
    ".unwrap()",
    ".unwrap_err()",
    ".expect(",
    ".expect_err(",
    "panic!(",
    "todo!(",
    "unimplemented!(",
    "unreachable!(",
];

/// Files with too many lines of code; blank lines and comments do not count.
pub(crate) fn sizes(members: &[Member]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for member in members {
        for file in workspace::rust_files(&member.folder)? {
            let lines = source::code(&read(&file)?).lines().filter(|line| !line.trim().is_empty()).count();
            if lines > MAX_LINES {
                broken.push(format!("{file} has {lines} lines of code: split it"));
            }
        }
    }
    Ok(broken)
}

/// Places in crates and servers where production code may panic by a call of ours.
pub(crate) fn panics(members: &[Member]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for file in shipped(members)? {
        for (number, line) in source::production(&read(&file)?).lines().enumerate() {
            if let Some(call) = PANICS.iter().find(|call| line.contains(*call)) {
                broken.push(format!("{file}:{}: {call} outside tests", number + 1));
            }
        }
    }
    Ok(broken)
}

/// A conformance suite: panics are its verdicts, so it has to be behind a feature that nobody gets unasked.
const GATED_SUITE: &str = "#[cfg(feature = \"conformance\")]\npub mod conformance;";

/// The files of what is shipped: sources of crates and servers, without files of tests.
pub(crate) fn shipped(members: &[Member]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for Member { folder, .. } in members.iter().filter(|member| is_shipped(member)) {
        let suite = format!("{folder}/src/conformance");
        let root = format!("{folder}/src/lib.rs");
        let gated = workspace::root().join(&root).exists() && read(&root)?.contains(GATED_SUITE);
        let is_test =
            |file: &str| file.ends_with("/tests.rs") || file.contains("/tests/") || gated && file.starts_with(&suite);
        files.extend(workspace::rust_files(&format!("{folder}/src"))?.into_iter().filter(|file| !is_test(file)));
    }
    Ok(files)
}

fn is_shipped(member: &Member) -> bool {
    member.folder.starts_with("ztka-") || member.folder.starts_with("bins/")
}

pub(crate) fn read(file: &str) -> Result<String> {
    fs::read_to_string(workspace::root().join(file)).with_context(|| format!("cannot read {file}"))
}
