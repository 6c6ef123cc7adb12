//! A process that ends with us: killed by its id when dropped, and by the kernel should we be killed ourselves.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a process may take until it is ready.
const BOUND: Duration = Duration::from_secs(20);

/// A running process with its log.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `program`; what it prints goes to `log`. The calling thread is to outlive it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> Result<Self> {
        let program = program.as_ref();
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        // util-linux: the kernel kills the process when the thread that started it is gone.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn();
        let child = child.with_context(|| format!("cannot start {} by setpriv (util-linux)", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` gives something, up to 20 s.
    ///
    /// # Errors
    /// When the process ends before, or the time is over; with the end of its log.
    pub fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > BOUND {
                let why = ended.map_or("is not there in time".into(), |status| format!("ended with {status}"));
                bail!("{what} {why}; the end of its log:\n{}", ztka_test_cluster::tail(&self.log, 20));
            }
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that is free just now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}

/// True if something listens there.
#[must_use]
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Running::start("sh", ["-c", "echo no such key; exit 3"], &folder.path().join("log")).unwrap();
        let error = running.wait_for("the server", || None::<()>).unwrap_err().to_string();
        assert!(error.contains("the server") && error.contains('3') && error.contains("no such key"), "{error}");
    }

    #[test]
    fn gone_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start("sleep", ["1000"], &folder.path().join("log")).unwrap();
        let pid = running.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
