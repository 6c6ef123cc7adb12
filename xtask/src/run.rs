//! Running a command with its output streamed line by line to ours, and looked at on the way.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, IsTerminal as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{tally::Tally, workspace};

/// No command of a suite takes that long on two cores, a cold build included.
const LONGEST: Duration = Duration::from_secs(35 * 60);

/// cargo in the workspace's folder, without standard input, in colour when we are on a terminal.
///
/// It does not see what cargo has told us of our own package: build scripts that ask to be run again when it changes
/// (that of ring does) would be, and everything above them built again, each time that one follows a cargo of the
/// user's own.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace::root()).stdin(Stdio::null());
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // Errors tell what happened; the stack that a test was on when it saw one buries it. Panics keep theirs.
        command.env("RUST_LIB_BACKTRACE", "0");
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_our_package(name)) {
        command.env_remove(name);
    }
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

fn is_of_our_package(variable: &OsStr) -> bool {
    let name = variable.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

/// Whether continuous integration runs us: nobody looks on, and what cannot run is a failure.
pub(crate) fn unattended() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Runs a command to its end; both of its outputs go to ours, and the results of tests in them are summed.
pub(crate) fn streamed(mut command: Command) -> Result<(ExitStatus, Tally)> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // With nobody there to press Ctrl-C, what hangs has to end by itself, with all it has started.
    let alone = unattended();
    if alone {
        command.process_group(0);
    }
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let _bound = alone.then(|| Bound::on(child.id()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (stdout.context("no standard output")?, stderr.context("no standard error")?);
    let tally = thread::scope(|scope| {
        let errors = scope.spawn(|| forward(stderr, io::stderr()));
        let mut tally = forward(stdout, io::stdout());
        tally += errors.join().unwrap_or_default();
        tally
    });
    Ok((child.wait()?, tally))
}

/// Kills a process group that does not end in time, unless dropped before.
struct Bound(#[expect(dead_code, reason = "its end is the message")] mpsc::Sender<()>);

impl Bound {
    fn on(group: u32) -> Self {
        let (ended, wait) = mpsc::channel::<()>();
        thread::spawn(move || {
            if wait.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
                say(&format!("!!! it has not ended within {} min and is killed", LONGEST.as_secs() / 60));
                let _ = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
            }
        });
        Self(ended)
    }
}

fn forward(from: impl io::Read, mut to: impl io::Write) -> Tally {
    let (mut tally, mut line, mut from) = (Tally::default(), Vec::new(), BufReader::new(from));
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // Our own output may be closed before the command ends; it is still to run to its end.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    tally
}

/// Whether a program can be run with these arguments.
pub(crate) fn answers(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Prints one line of ours among the output of commands.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_runs_as_if_the_user_had_called_it() {
        // cargo has told this test of its package.
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some() && std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let command = cargo(&["--version"]);
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION", "CARGO_MANIFEST_DIR"] {
            assert!(removed.iter().any(|removed| *removed == name), "{name} is passed on");
        }
    }
}
