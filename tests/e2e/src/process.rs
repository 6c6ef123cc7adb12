//! Child processes that never outlive the test, whatever ends it.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// Waits for the end of its standard input, which is the end of the test, and then kills the program.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ cat <&3 >/dev/null; kill -KILL $child; } 2>/dev/null & watch=$!
exec 3<&-
trap 'kill -TERM $child' TERM
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
kill $watch 2>/dev/null
exit $code
"#;

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `arguments`; both outputs go to `log`.
    pub fn start<I, S>(program: &Path, arguments: I, log: &Path) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::start_with(program, arguments, log, |_| {})
    }

    /// The same, with a say in environment and directory.
    pub fn start_with<I, S>(
        program: &Path,
        arguments: I,
        log: &Path,
        configure: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCHDOG).arg("sh").arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        configure(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// The process that watches over the program; the program is its child.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True while the program runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The program's own process.
    pub fn program(&self) -> anyhow::Result<u32> {
        let watched = self.child.id();
        let children = fs::read_to_string(format!("/proc/{watched}/task/{watched}/children"))?;
        let is_it = |pid: &str| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.file_name().is_some_and(|file| file.to_string_lossy() == self.name)
        };
        let found = children.split_whitespace().find(|pid| is_it(pid));
        Ok(found.with_context(|| format!("{} does not run\n{}", self.name, self.tail()))?.parse()?)
    }

    /// Fails until the program runs and has said what it does on SIGTERM: before, that would just end it.
    pub fn heeds_signals(&self) -> anyhow::Result<()> {
        const TERM: u32 = 15;
        let status = fs::read_to_string(format!("/proc/{}/status", self.program()?))?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("no SigCgt")?;
        let caught = u64::from_str_radix(caught.trim(), 16)?;
        anyhow::ensure!(caught >> (TERM - 1) & 1 == 1, "{} does not heed SIGTERM yet", self.name);
        Ok(())
    }

    /// Sends a signal, such as `TERM`, `STOP` or `CONT`, to the program itself.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let program = self.program()?.to_string();
        let status = Command::new("kill").args(["-s", name, &program]).status()?;
        anyhow::ensure!(status.success(), "{} takes no SIG{name}\n{}", self.name, self.tail());
        Ok(())
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks the program to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status()?;
        anyhow::ensure!(status.success(), "{} has ended already\n{}", self.name, self.tail());
        // Waiting closes the pipe, at whose end the program is killed, and does not close what is held here.
        let held = self.child.stdin.take();
        let ended = self.child.wait();
        self.child.stdin = held;
        Ok(ended?)
    }

    /// Ends the program without asking (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    /// The last lines of what it wrote.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = lines.len().saturating_sub(30);
        format!("--- last lines of {}:\n{}", self.name, lines[last..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback port that is free now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
