//! One server: started, asked, killed, gone.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::programs;

/// A server that does not answer after this long is broken.
const BOUND: Duration = Duration::from_secs(60);

/// Runs the server, and ends it when the standard input ends, however that comes about.
const WATCH: &str = r#""$@" </dev/null >>log 2>&1 & read -r _; kill -QUIT $!; wait; [ -e keep ] || rm -rf "$PWD""#;

/// A running server. Its data are gone when it is dropped.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    user: Option<(u32, u32)>,
    // Before the folder: it has to end first.
    watch: Mutex<Option<Child>>,
    folder: TempDir,
    databases: AtomicU32,
    /// The loopback port that it listens on as well, with TLS.
    port: OnceLock<u16>,
}

impl Server {
    fn prepare() -> Result<Self> {
        let programs = programs::folder().with_context(|| programs::missing().unwrap_or_default())?;
        let folder = tempfile::Builder::new().prefix("ztka-pg-").tempdir()?;
        let user = programs::user(folder.path())?;
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group))?;
        }
        let server = Self {
            programs,
            user,
            watch: Mutex::new(None),
            folder,
            databases: AtomicU32::new(0),
            port: OnceLock::new(),
        };
        Ok(server)
    }

    /// Starts a server with its defaults: durable, on a Unix socket that only this user can reach.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start; with its log.
    pub fn start() -> Result<Self> {
        let server = Self::prepare()?;
        let mut initdb = server.command("initdb");
        initdb.args([
            "--pgdata=data",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        let output = initdb.output().context("cannot run initdb")?;
        ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        server.run()?;
        Ok(server)
    }

    /// One server for all tests of a process.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
        let server = SHARED.get_or_init(|| Self::start().map_err(|error| format!("{error:#}")));
        server.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// [`Server::shared`], or `None` with a loud line on standard error where PostgreSQL is not installed.
    ///
    /// # Errors
    /// As [`Server::start`]; with `CI=true` also when PostgreSQL is not installed.
    pub fn shared_or_skip() -> Result<Option<&'static Self>> {
        if may_skip()? { Ok(None) } else { Self::shared().map(Some) }
    }

    /// [`Server::start`], for a test that needs a server of its own; else as [`Server::shared_or_skip`].
    ///
    /// # Errors
    /// As [`Server::shared_or_skip`].
    pub fn start_or_skip() -> Result<Option<Self>> {
        if may_skip()? { Ok(None) } else { Self::start().map(Some) }
    }

    /// A new, empty database; returns its URL.
    ///
    /// # Errors
    /// When the server cannot make it.
    pub fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name))
    }

    /// The URL of a database of this server.
    pub fn url(&self, name: &str) -> String {
        let port = self.port.get().map(|port| format!("&port={port}")).unwrap_or_default();
        format!("postgres:///{name}?host={}&user=postgres{port}", self.folder.path().display())
    }

    /// Lets `psql` carry out a statement in a database; returns what it prints, columns separated by `|`.
    ///
    /// # Errors
    /// When the statement fails, with what the server says.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--username=postgres"]);
        psql.args(["--host", &self.folder.path().display().to_string(), "--dbname", database, "--command", statement]);
        if let Some(port) = self.port.get() {
            psql.args(["--port", &port.to_string()]);
        }
        let output = psql.output().context("cannot run psql")?;
        ensure!(output.status.success(), "{statement:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What `pg_dump` says of a database, by its URL.
    ///
    /// # Errors
    /// When it cannot be dumped.
    pub fn dump(&self, url: &str) -> Result<Vec<u8>> {
        let mut dump = self.command("pg_dump");
        let output = dump.args(["--dbname", url]).output().context("cannot run pg_dump")?;
        ensure!(output.status.success(), "pg_dump failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(output.stdout)
    }

    /// Ends the server at once, as a crash does (SIGQUIT: no checkpoint, connections cut), and starts it again.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn crash(&self) -> Result<()> {
        self.stop()?;
        self.again()
    }

    /// Ends the server at once; its data stay.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn stop(&self) -> Result<()> {
        fs::write(self.folder.path().join("keep"), "")?;
        self.end();
        Ok(fs::remove_file(self.folder.path().join("keep"))?)
    }

    /// Stops everything that serves connections now where it is: nothing is answered and nothing is cut off, as by a
    /// network that loses everything. [`Self::thaw`] is the end of it.
    ///
    /// # Errors
    /// When its processes cannot be found.
    pub fn freeze(&self) -> Result<Vec<String>> {
        let clients =
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let mut pids: Vec<String> = self.sql("postgres", clients)?.lines().map(str::to_owned).collect();
        let main = fs::read_to_string(self.folder.path().join("data/postmaster.pid"))?;
        pids.extend(main.lines().next().map(str::to_owned));
        signal("-STOP", &pids)?;
        Ok(pids)
    }

    /// Lets what [`Self::freeze`] has stopped go on.
    ///
    /// # Errors
    /// When a process cannot be told.
    pub fn thaw(&self, frozen: &[String]) -> Result<()> {
        signal("-CONT", frozen)
    }

    /// Starts a server that was stopped.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn again(&self) -> Result<()> {
        self.run()
    }

    /// From now on it is also at a loopback port, for users with a password and only by TLS with this certificate (PEM).
    /// Returns the port.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn secure(&self, certificate: &str, key: &str) -> Result<u16> {
        use std::os::unix::fs::PermissionsExt as _;
        let data = self.folder.path().join("data");
        for (name, content) in [("server.crt", certificate), ("server.key", key)] {
            let path = data.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some((user, group)) = self.user {
                chown(&path, Some(user), Some(group))?;
            }
        }
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")?;
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let port = *self.port.get_or_init(|| free);
        self.crash()?;
        Ok(port)
    }

    /// A standby, which has everything that this server confirms: no commit is answered before it has it too.
    ///
    /// # Errors
    /// When it cannot be made, or does not start.
    pub fn standby(&self) -> Result<Self> {
        let standby = Self::prepare()?;
        let mut copy = standby.command("pg_basebackup");
        copy.args(["--pgdata=data", "--write-recovery-conf", "--checkpoint=fast", "--username=postgres", "--host"]);
        let output = copy.arg(self.folder.path()).output().context("cannot run pg_basebackup")?;
        ensure!(output.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr));
        standby.run()?;
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        Ok(standby)
    }

    /// Makes a standby the primary.
    ///
    /// # Errors
    /// When it is none.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.sql("postgres", "SELECT pg_promote()")?;
        ensure!(promoted == "t", "the standby was not promoted");
        Ok(())
    }

    fn run(&self) -> Result<()> {
        let mut watch = self.command("postgres");
        let postgres = watch.get_program().to_owned();
        watch = self.as_user(Command::new("sh"));
        let socket = format!("unix_socket_directories={}", self.folder.path().display());
        watch.args(["-c", WATCH, "watch"]).arg(postgres).args(["-D", "data", "-c", &socket]);
        match self.port.get() {
            None => watch.args(["-c", "listen_addresses="]),
            Some(_) => watch.args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"]),
        };
        watch.args(["-c", "max_connections=200", "-c", "shared_buffers=32MB"]);
        if let Some(port) = self.port.get() {
            watch.args(["-c", &format!("port={port}")]);
        }
        let child = watch.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let start = Instant::now();
        while let Err(error) = self.sql("postgres", "SELECT 1") {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            ensure!(start.elapsed() < BOUND, "the server does not start: {error:#}\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn end(&self) {
        let child = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.as_user(Command::new(self.programs.join(program)));
        command.stdin(Stdio::null());
        command
    }

    /// In the server's folder, without what might be told by the environment.
    fn as_user(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).env("HOME", self.folder.path());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// The server's log.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn log(&self) -> Result<File> {
        Ok(File::open(self.folder.path().join("log"))?)
    }

    /// The folder with the data and the socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn signal(signal: &str, pids: &[String]) -> Result<()> {
    let done = Command::new("kill").arg(signal).args(pids).status().context("cannot run kill")?;
    ensure!(done.success(), "{pids:?} cannot be told {signal}");
    Ok(())
}

/// Whether a test is skipped for want of PostgreSQL, which is said.
fn may_skip() -> Result<bool> {
    match programs::missing() {
        None => Ok(false),
        Some(missing) if std::env::var("CI").is_ok_and(|ci| ci == "true") => bail!("{missing}"),
        Some(missing) => {
            // Past the capture of the test harness; `cargo xtask test` counts these lines.
            let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED a test with PostgreSQL: {missing}");
            Ok(true)
        }
    }
}
