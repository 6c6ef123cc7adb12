//! The real kubectl, run with a kubeconfig and a home of its own.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use crate::binaries::{self, Program};

/// How long one command may take, unless set otherwise.
const BOUND: Duration = Duration::from_secs(60);

/// kubectl (or another client of kubeconfigs) with one kubeconfig. Cheap to clone; clones share the discovery cache.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    home: Arc<TempDir>,
    bound: Duration,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output, as text (lossy).
    pub stdout: String,
    /// Standard error, as text (lossy).
    pub stderr: String,
    /// Standard output as it came.
    pub bytes: Vec<u8>,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// From start to end.
    pub elapsed: Duration,
}

impl Output {
    /// Whether the exit code was 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// A command that goes on, such as `get --watch`; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Vec<u8>,
}

impl Kubectl {
    /// kubectl with a kubeconfig; finds or builds kubectl.
    ///
    /// # Errors
    /// When kubectl cannot be had.
    pub async fn new(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        Self::of(Program::Kubectl, kubeconfig).await
    }

    /// Another program that reads `KUBECONFIG`: helm.
    ///
    /// # Errors
    /// When the program cannot be had.
    pub async fn of(program: Program, kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        let kubeconfig = kubeconfig.into();
        let home = Arc::new(home_beside(&kubeconfig)?);
        let program = binaries::find_one(program).await?;
        Ok(Self { program, kubeconfig, args: Vec::new(), env: Vec::new(), home, bound: BOUND })
    }

    /// Puts an argument before those of every command, such as `--namespace=blue`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Uses this context of the kubeconfig (kubectl only).
    #[must_use]
    pub fn context(self, name: &str) -> Self {
        self.arg(format!("--context={name}"))
    }

    /// Sets an environment variable, such as `KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false`.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Bounds one command by this time instead of 60 s.
    #[must_use]
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// Forgets the discovery cache by taking a new home.
    ///
    /// # Errors
    /// When no folder can be made beside the kubeconfig.
    pub fn fresh(mut self) -> Result<Self> {
        self.home = Arc::new(home_beside(&self.kubeconfig)?);
        Ok(self)
    }

    /// The kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The command as it would be run; standard input is closed, the child dies with its handle.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("KUBECACHEDIR", self.home.path().join("cache"))
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started or takes longer than its bound; it is killed then.
    pub async fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.finish(self.command(args), None).await
    }

    /// [`Kubectl::run`] with bytes on standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub async fn run_with_input(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: impl Into<Vec<u8>>,
    ) -> Result<Output> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        self.finish(command, Some(input.into())).await
    }

    /// Runs a command that has to succeed and returns its standard output.
    ///
    /// # Errors
    /// As [`Kubectl::run`], and when the exit code is not 0: with what it printed.
    pub async fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let command = self.command(args);
        let line = line(&command);
        succeeded(&line, self.finish(command, None).await?)
    }

    /// Applies a manifest (YAML or JSON).
    ///
    /// # Errors
    /// As [`Kubectl::ok`].
    pub async fn apply(&self, manifest: impl Into<Vec<u8>>) -> Result<String> {
        succeeded("kubectl apply", self.run_with_input(["apply", "-f", "-"], manifest).await?)
    }

    /// Starts a command that goes on, with pipes for standard input and output; standard error goes to ours.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Running> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let line = line(&command);
        Ok(Running { child: command.spawn().with_context(|| format!("cannot start {line}"))?, stdout: Vec::new() })
    }

    async fn finish(&self, mut command: Command, input: Option<Vec<u8>>) -> Result<Output> {
        let (line, start) = (line(&command), Instant::now());
        let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let (Some(mut pipe), Some(input)) = (stdin, input) {
                // A command that ends before it has read all of its input says so by its exit code.
                let _ = pipe.write_all(&input).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        match timeout(self.bound, both).await {
            Ok(output) => {
                let output = output.with_context(|| format!("cannot wait for {line}"))?;
                Ok(Output {
                    stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                    bytes: output.stdout,
                    code: output.status.code(),
                    elapsed: start.elapsed(),
                })
            }
            Err(_) => bail!("{line} did not end within {} s", self.bound.as_secs()),
        }
    }
}

impl Running {
    /// The child, for its pipes, its id and its end.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Reads standard output until it contains `text`; returns all of it so far. At most 30 s.
    ///
    /// # Errors
    /// When the command ends or the time is over before; with what it printed.
    pub async fn read_until(&mut self, text: &str) -> Result<String> {
        let pipe = self.child.stdout.as_mut().context("standard output was taken")?;
        let all = &mut self.stdout;
        let read = async {
            let mut part = vec![0; 64 * 1024];
            loop {
                let so_far = String::from_utf8_lossy(all).into_owned();
                if so_far.contains(text) {
                    return Ok(so_far);
                }
                let n = pipe.read(&mut part).await?;
                ensure!(n > 0, "the command ended before it printed {text:?}; it printed:\n{so_far}");
                all.extend_from_slice(part.get(..n).unwrap_or_default());
            }
        };
        match timeout(crate::BOUND, read).await {
            Ok(result) => result,
            Err(_) => bail!("{text:?} was not printed within 30 s, but:\n{}", String::from_utf8_lossy(&self.stdout)),
        }
    }

    /// Writes to standard input.
    ///
    /// # Errors
    /// When the command has closed it.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let pipe = self.child.stdin.as_mut().context("standard input was closed")?;
        pipe.write_all(bytes.as_ref()).await?;
        Ok(pipe.flush().await?)
    }

    /// Closes standard input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end by itself, at most 30 s; returns the exit code.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        match timeout(crate::BOUND, self.child.wait()).await {
            Ok(status) => Ok(status?.code()),
            Err(_) => bail!("the command did not end within 30 s"),
        }
    }

    /// Kills the command (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Beside the kubeconfig, so that it goes when the folder of the test or cluster goes, even if the test is killed.
fn home_beside(kubeconfig: &Path) -> Result<TempDir> {
    let folder = kubeconfig.parent().with_context(|| format!("{} has no folder", kubeconfig.display()))?;
    TempDir::with_prefix_in("kubectl-", folder)
        .with_context(|| format!("cannot make a home for kubectl in {}", folder.display()))
}

fn succeeded(line: &str, output: Output) -> Result<String> {
    ensure!(
        output.success(),
        "{line} ended with {}: {}{}",
        output.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}")),
        output.stderr.trim(),
        if output.stdout.is_empty() { String::new() } else { format!("\nstandard output: {}", output.stdout.trim()) }
    );
    Ok(output.stdout)
}

fn line(command: &Command) -> String {
    let command = command.as_std();
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(name, |line, arg| line + " " + &arg.to_string_lossy())
}
