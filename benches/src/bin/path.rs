//! Measures the way of a request: direct, through two hops of HAProxy, and through ZTKA, interleaved in one run.

use std::{
    env,
    io::{Write as _, stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use ztka_benches::{
    Target, Upstream, bare,
    haproxy::{self, Settings},
    load,
    machine::Machine,
    path::{Asked, Is, Measure, Plan, Way, run},
    process::Running,
    report::Report,
    upstream,
};

/// What the way of a request costs
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Rounds; the table has their medians [default: 5, and 1 of watches]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds for each measure of each way in each round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Size of the long download
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    download_mib: u64,
    /// Quiet watches held open to look at memory
    #[arg(long, default_value_t = 500)]
    watches: usize,
    /// The same of those that share connections, 100 each
    #[arg(long, default_value_t = 10_000)]
    shared_watches: usize,
    /// Measure what is asked of the tunnel, beside HAProxy, instead of what is asked of a request's way
    #[arg(long, value_enum, default_value = "path")]
    asked: Asked,
    /// JSON file of an upstream that runs already, instead of one of our own
    #[arg(long, value_name = "FILE")]
    upstream: Option<PathBuf>,
    /// JSON file of a ZTKA chain in front of that upstream; may be given several times
    #[arg(long, value_name = "FILE", requires = "upstream")]
    ztka: Vec<PathBuf>,
    /// Leave out HAProxy
    #[arg(long)]
    no_haproxy: bool,
    /// Leave out the bare hops of our own libraries
    #[arg(long)]
    no_bare: bool,
    /// Put the table into the section of this Markdown file that is marked for it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Exit with 1 if something that is asked of ZTKA is not reached
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the fast upstream
    Upstream(upstream::Options),
    /// Serve as one of the two bare hops
    Hop(bare::Options),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Upstream(options)) => return upstream::run(options).map(|()| ExitCode::SUCCESS),
        Some(Command::Hop(options)) => return bare::run(options).map(|()| ExitCode::SUCCESS),
        None => {}
    }
    let plan = arguments.plan()?;
    let machine = Machine::look();
    let folder = tempfile::tempdir()?;
    let (upstream, _running) = match &arguments.upstream {
        Some(file) => (Upstream::read(file)?, None),
        None => start_upstream(&folder.path().join("upstream")).map(|(upstream, running)| (upstream, Some(running)))?,
    };
    // What answers at the end is the same for all, and is not part of a way.
    let direct = Target { processes: Vec::new(), ..upstream.target.clone() };
    let mut ways = vec![Way { is: Is::Direct, target: direct }];
    let (mut chains, mut notes) = (Vec::new(), Vec::new());
    if let Some(note) = machine.busy() {
        say(&note);
        notes.push(note);
    }
    match haproxy::available() {
        _ if arguments.no_haproxy => notes.push("HAProxy was left out.".to_owned()),
        Ok(()) => {
            let tuned = [Settings::Default, Settings::Tuned].into_iter().filter(|settings| {
                // Nothing is asked of the tunnel beside the default settings.
                arguments.asked == Asked::Path || *settings == Settings::Tuned
            });
            for settings in tuned {
                let files = folder.path().join(format!("{settings:?}"));
                let chain = haproxy::start(&files, settings, &upstream.target)?;
                ways.push(Way { is: Is::Haproxy(settings), target: chain.target.clone() });
                chains.push(chain);
            }
        }
        Err(error) => {
            say(&format!("WITHOUT HAPROXY: {error:#}"));
            notes.push(format!("HAProxy was not measured: {error:#}."));
        }
    }
    let program = env::current_exe().context("where this program is")?;
    let bare = (!arguments.no_bare).then(|| bare::start(&program, &folder.path().join("bare"), &upstream.target));
    let bare = bare.transpose()?;
    ways.extend(bare.iter().map(|chain| Way { is: Is::Bare, target: chain.target.clone() }));
    for file in &arguments.ztka {
        ways.push(Way { is: Is::Ztka, target: Target::read(file)? });
    }
    for way in &ways {
        load::once(&way.target, &upstream.paths.get).with_context(|| format!("{} does not serve", way.target.name))?;
    }

    let figures = run(&plan, &upstream, ways, say)?;
    let report = Report::new(&figures, &machine, &notes);
    writeln!(stdout(), "{report}")?;
    if let Some(file) = &arguments.write {
        report.write(file)?;
    }
    Ok(if arguments.check && !report.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Arguments {
    fn plan(&self) -> Result<Plan> {
        let (seconds, mib) = (self.seconds, self.download_mib);
        ensure!((0.05..=300.0).contains(&seconds), "--seconds {seconds}: from 0.05 to 300");
        ensure!((1..=65_536).contains(&mib), "--download-mib {mib}: from 1 to 65536");
        ensure!(self.watches <= 10_000, "--watches {}: up to 10000", self.watches);
        ensure!(self.shared_watches <= 20_000, "--shared-watches {}: up to 20000", self.shared_watches);
        let asked = self.asked;
        let measures = if self.only.is_empty() { asked.measures().to_vec() } else { self.only.clone() };
        let (time, download) = (Duration::from_secs_f64(seconds), mib << 20);
        let Self { watches, shared_watches, .. } = *self;
        // What was once in use hides what watches take.
        let rounds = self.rounds.unwrap_or(if asked == Asked::Watches { 1 } else { 5 });
        Ok(Plan { asked, rounds, time, download, watches, shared_watches, measures })
    }
}

/// This very program, as a process whose CPU time is its own.
fn start_upstream(folder: &Path) -> Result<(Upstream, Running)> {
    std::fs::create_dir_all(folder)?;
    let program = env::current_exe().context("where this program is")?;
    let args = ["upstream".as_ref(), "--folder".as_ref(), folder.as_os_str()];
    let mut running = Running::start(program, args, &folder.join("log"))?;
    let file = folder.join(upstream::FILE);
    let upstream = running.wait_for("the upstream", || file.exists().then(|| Upstream::read(&file)))??;
    Ok((upstream, running))
}

/// Progress, which is not part of the result.
fn say(what: &str) {
    let _ = writeln!(stderr(), "{what}");
}
