//! One process of a cluster: its log, whether it still runs, and the end of its log for errors.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Writes its process id to the cluster's list before it becomes the program, so that the watchdog knows it.
const LAUNCH: &str = r#"echo $$ >>processes; exec "$@""#;

/// A running program of a cluster, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `program` in the cluster's `folder`, logging to `<name>.log` there.
    pub(crate) fn start<I, A>(folder: &Path, name: &str, program: &Path, args: I) -> Result<Self>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<std::ffi::OsStr>,
    {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = Command::new("sh")
            .args(["-c", LAUNCH, "launch"])
            .arg(program)
            .args(args)
            .current_dir(folder)
            .env("HOME", folder)
            .env_remove("KUBECONFIG")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name: name.to_owned(), log, child: Mutex::new(child) })
    }

    /// The name of the process, also that of its log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// When the process has ended; with the end of its log.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(status) = self.child().try_wait()? {
            bail!("{} ended with {status}; the end of its log:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Kills the process (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn kill(&self) -> Result<()> {
        let mut child = self.child();
        ensure!(child.try_wait()?.is_none(), "{} has ended before", self.name);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The end of the log, for errors.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log, 20)
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog has killed it before (see the order of fields in `Cluster`); this takes the zombie away.
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The last `lines` lines of a log file, or a note that it cannot be read.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    match fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
        }
        Err(error) => format!("({} cannot be read: {error})", log.display()),
    }
}
