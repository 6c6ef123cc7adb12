//! From the command line to a clean stop.

use std::{future::Future, io, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Arg, ArgAction, Command, value_parser};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{Configuration, Health, arenas, config, logs};

/// The running process, as its `run` sees it. Clones are the same process.
#[derive(Clone, Debug)]
pub struct Process {
    shutdown: CancellationToken,
    health: Arc<Health>,
}

impl Process {
    /// A process that stops when `shutdown` is cancelled; for servers that run several in one.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, health: Arc::default() }
    }

    /// Cancelled by SIGTERM, SIGINT or [`Self::stop`]: finish what is under way and return.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Asks the process to stop.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Says that everything is up; `/readyz` answers 200 from now on, until the process is asked to stop.
    pub fn ready(&self) {
        self.health.set_ready(!self.shutdown.is_cancelled());
    }

    /// What the health listener shows.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

/// Reads the command line and the configuration, starts logs, health and signals, and runs `run` to its end.
///
/// Exit code 0 after a clean stop, 1 after an error, which is printed with its causes, 2 for a wrong command line.
pub fn main<C, F, Fut>(name: &'static str, about: &'static str, run: F) -> ExitCode
where
    C: Configuration,
    F: FnOnce(C, Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let matches = command(name, about).get_matches();
    let file = matches.get_one::<PathBuf>("config").cloned().unwrap_or_default();
    let check = matches.get_flag("check-config");
    report(start(file, check, run))
}

/// Prints an error with its causes, and says so by the exit code.
pub fn report(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(
            Arg::new("config")
                .long("config")
                .env("ZTKA_CONFIG")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file (TOML)"),
        )
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .help("Check the configuration file, say what is wrong, and start nothing"),
        )
}

fn start<C, F, Fut>(file: PathBuf, check: bool, run: F) -> anyhow::Result<()>
where
    C: Configuration,
    F: FnOnce(C, Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let config: C = config::load(&file)?;
    if check {
        println!("{}: ok", file.display());
        return Ok(());
    }
    arenas::at_most(config.common().threads());
    logs::init(config.common())?;
    // Libraries take the provider as an argument; this is for those that ask for the process' default.
    let _ = crate::crypto().install_default();
    let runtime = runtime(config.common().threads()).context("the async runtime cannot be started")?;
    runtime.block_on(async {
        let process = Process::new(CancellationToken::new());
        let health = process.health().serve_if(config.common().health).await?;
        tokio::spawn(stop_on_signal(process.clone()));
        let outcome = run(config, process).await;
        drop(health);
        outcome
    })
}

/// With one thread nothing is ever handed to another one, which saves each request several wake-ups.
fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}

async fn stop_on_signal(process: Process) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    process.health().set_ready(false);
    process.stop();
    Ok(())
}
