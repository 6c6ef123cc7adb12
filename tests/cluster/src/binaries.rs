//! The programs of a cluster: found in `$KUBEBUILDER_ASSETS` or the cache, else built from source once.
//!
//! Each is kept in the cache folder (`$XDG_CACHE_HOME`, else `~/.cache`, then `ztka/<source>-<version>/`). A file lock
//! keeps two processes from building the same; a program appears under its name only when it is complete.

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// The version of Kubernetes that the tests run.
pub const KUBERNETES: &str = "v1.35.4";

/// The Go module that pins Kubernetes and etcd.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes");

/// A program that a cluster or a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The store of the apiserver.
    Etcd,
    /// The apiserver.
    Apiserver,
    /// The controllers: ServiceAccounts, Deployments, garbage collection, …
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The agent of a real node.
    Kubelet,
    /// The command line.
    Kubectl,
    /// Simulated nodes.
    Kwok,
    /// The package manager whose users are among ours.
    Helm,
    /// The conformance suite of HTTP/2.
    H2spec,
}

/// Where a program's source is.
enum Source {
    /// A package of our Go module.
    Module { package: &'static str },
    /// A package at a version, for `go install`.
    Install { package: &'static str, version: &'static str },
}

impl Program {
    /// All that a cluster of either level runs, in the order in which they are wanted.
    pub const CLUSTER: &'static [Self] = &[
        Self::Etcd,
        Self::Apiserver,
        Self::ControllerManager,
        Self::Kubectl,
        Self::Kwok,
        Self::Scheduler,
        Self::Kubelet,
    ];

    /// The name of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Kubectl => "kubectl",
            Self::Kwok => "kwok",
            Self::Helm => "helm",
            Self::H2spec => "h2spec",
        }
    }

    fn source(self) -> Source {
        match self {
            Self::Etcd => Source::Module { package: "go.etcd.io/etcd/server/v3" },
            Self::Apiserver => Source::Module { package: "k8s.io/kubernetes/cmd/kube-apiserver" },
            Self::ControllerManager => Source::Module { package: "k8s.io/kubernetes/cmd/kube-controller-manager" },
            Self::Scheduler => Source::Module { package: "k8s.io/kubernetes/cmd/kube-scheduler" },
            Self::Kubelet => Source::Module { package: "k8s.io/kubernetes/cmd/kubelet" },
            Self::Kubectl => Source::Module { package: "k8s.io/kubernetes/cmd/kubectl" },
            Self::Kwok => Source::Install { package: "sigs.k8s.io/kwok/cmd/kwok", version: "v0.8.0" },
            Self::Helm => Source::Install { package: "helm.sh/helm/v3/cmd/helm", version: "v3.22.0" },
            Self::H2spec => {
                Source::Install { package: "github.com/summerwind/h2spec/cmd/h2spec", version: "v2.2.1+incompatible" }
            }
        }
    }

    fn cached(self) -> Result<PathBuf> {
        let folder = match self.source() {
            Source::Module { .. } => format!("kubernetes-{KUBERNETES}"),
            Source::Install { version, .. } => format!("{}-{version}", self.name()),
        };
        Ok(cache()?.join(folder).join(self.name()))
    }

    fn existing(self) -> Result<Option<PathBuf>> {
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(|folder| Path::new(&folder).join(self.name()));
        Ok(assets.into_iter().chain([self.cached()?]).find(|path| path.is_file()))
    }
}

/// Finds or builds `programs`, in their order; waits for another process that builds them. Blocks.
///
/// # Errors
/// When Go is missing or a build fails: with its last lines.
pub fn ensure_all(programs: &[Program]) -> Result<Vec<PathBuf>> {
    let missing: Vec<Program> = programs.iter().copied().filter(|p| !matches!(p.existing(), Ok(Some(_)))).collect();
    for (n, program) in missing.iter().enumerate() {
        build(*program, n + 1, missing.len())?;
    }
    programs.iter().map(|p| p.existing()?.with_context(|| format!("{} vanished from the cache", p.name()))).collect()
}

/// [`ensure_all`] for async callers.
///
/// # Errors
/// As [`ensure_all`].
pub async fn find(programs: &'static [Program]) -> Result<Vec<PathBuf>> {
    tokio::task::spawn_blocking(move || ensure_all(programs)).await?
}

/// [`find`] for one program.
///
/// # Errors
/// As [`ensure_all`].
pub async fn find_one(program: Program) -> Result<PathBuf> {
    let found = tokio::task::spawn_blocking(move || ensure_all(&[program])).await??;
    found.into_iter().next().context("no program was asked for")
}

/// The folder under which programs are kept, each source and version in a folder of its own.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => Path::new(&env::var_os("HOME").context("set HOME or XDG_CACHE_HOME for the cache of programs")?)
            .join(".cache"),
    };
    Ok(base.join("ztka"))
}

fn build(program: Program, n: usize, of: usize) -> Result<()> {
    let target = program.cached()?;
    let folder = target.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock_path = folder.join(".lock");
    let lock = File::create(&lock_path)?;
    if lock.try_lock().is_err() {
        say(&format!("[{n}/{of}] waiting for another process that builds into {}", folder.display()));
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    }
    if target.is_file() {
        return Ok(());
    }
    let staging = tempfile::TempDir::with_prefix_in(".build-", folder)?;
    let mut command = Command::new("go");
    let what = match program.source() {
        Source::Module { package } => {
            let version = "k8s.io/component-base/version";
            let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
            let flags = format!(
                "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor} \
                 -X {version}.gitTreeState=clean"
            );
            command.current_dir(MODULE).args(["build", "-mod=readonly", "-trimpath", "-ldflags", &flags, "-o"]);
            command.arg(staging.path().join(program.name())).arg(package);
            format!("{} of Kubernetes {KUBERNETES}", program.name())
        }
        Source::Install { package, version } => {
            command.current_dir(staging.path()).env("GOBIN", staging.path());
            command.args(["install", "-trimpath", &format!("{package}@{version}")]);
            format!("{} {version}", program.name())
        }
    };
    let log = staging.path().join("log");
    let output = File::create(&log)?;
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    run(command, &format!("[{n}/{of}] {what}"), &log)?;
    fs::rename(staging.path().join(program.name()), &target)
        .with_context(|| format!("cannot put {} into the cache", program.name()))
}

/// Runs `go`, telling every 15 s how long it has been at it.
fn run(mut command: Command, what: &str, log: &Path) -> Result<()> {
    say(&format!("{what}: building from source (once; minutes on a small machine)"));
    let (start, mut told) = (Instant::now(), 0);
    let mut child = command
        .spawn()
        .context("cannot run go: install Go 1.25 or newer, or point KUBEBUILDER_ASSETS to built programs")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let quarter = start.elapsed().as_secs() / 15;
        if quarter > told {
            told = quarter;
            say(&format!("{what}: {} s so far", start.elapsed().as_secs()));
        }
        thread::sleep(Duration::from_millis(100));
    };
    ensure!(status.success(), "{what}: the build failed:\n{}", crate::tail(log, 30));
    say(&format!("{what}: done in {} s", start.elapsed().as_secs()));
    Ok(())
}

/// Past the capture of the test harness, so that a long build is not taken for a hang.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
