//! Servers that sinks are held against: real ones, gone with the test, however it ends.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use ztka_audit::{Event, TlsFiles};
use ztka_test_cluster::Authority;

const BOUND: Duration = Duration::from_secs(60);

/// Ends the program when the standard input ends.
const WATCH: &str = r#""$@" </dev/null >>log 2>&1 & read -r _; kill -KILL $!; wait"#;

/// A folder with a certificate authority, and servers in it.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "ca").unwrap();
        Self { folder, authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the spool of a test is.
    pub(crate) fn spool(&self) -> PathBuf {
        self.path("spool")
    }

    pub(crate) fn tls(&self) -> TlsFiles {
        TlsFiles::new(Arc::new(rustls::crypto::ring::default_provider())).ca(self.authority.path())
    }
}

/// A running program.
pub(crate) struct Program {
    watch: Child,
    folder: PathBuf,
}

impl Program {
    /// Runs it in `folder`, where its log is as well, until dropped.
    pub(crate) fn start(folder: &Path, program: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(program.as_ref()).args(arguments).current_dir(folder);
        watch.env("HOME", folder).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { watch: watch.spawn().unwrap(), folder: folder.to_owned() }
    }

    /// Waits until it listens on `address`.
    pub(crate) fn listens(&self, address: SocketAddr) {
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < BOUND, "it does not listen:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The events of a file with one on each line.
pub(crate) fn events(text: &[u8]) -> Vec<Event> {
    text.split(|byte| *byte == b'\n').filter_map(|line| Event::from_json(line).ok()).collect()
}

/// True, with a line that `cargo xtask test` counts, if `program` is not installed.
pub(crate) fn is_missing(program: &str, package: &str) -> bool {
    if Path::new(program).exists() {
        return false;
    }
    let text = format!("{program} is missing; run apt-get install {package}");
    assert!(std::env::var("CI").map_or(true, |ci| ci != "true"), "{text}");
    let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED a test of a sink: {text}");
    true
}
