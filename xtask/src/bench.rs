//! `cargo xtask bench`: figures that anyone can take, ways of a request side by side in one run.

use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::{
    run::{cargo, say},
    workspace,
};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What the way of a request costs: direct, two hops of HAProxy, ZTKA; in front of a small fast upstream, then of a
    /// real kube-apiserver.
    Path {
        /// In front of the small fast upstream only.
        #[arg(long, conflicts_with = "apiserver")]
        fast: bool,
        /// In front of the real kube-apiserver only.
        #[arg(long)]
        apiserver: bool,
        /// For the measuring program: --rounds N, --seconds N, --only get1,get16,…, --write FILE; `-- --help` lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// What the tunnel costs beside two hops of HAProxy: requests, long transfers, exec sessions, ten thousand watches;
    /// then what ten thousand quiet agents cost a proxy, and how soon they are back after it was killed.
    Tunnel {
        /// The requests only, not the agents.
        #[arg(long, conflicts_with = "agents")]
        requests: bool,
        /// The agents only, not the requests.
        #[arg(long)]
        agents: bool,
        /// Puts the tables into the sections of this Markdown file that are marked for them.
        #[arg(long, value_name = "FILE")]
        write: Option<String>,
        /// For the program that measures requests: --rounds N, --seconds N; `-- --help` lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// How soon users are served again after a kill -9 of each server, and how soon a watch tells of a change.
    Recovery {
        /// For the measuring program: --rounds N, --changes N, --write FILE; `-- --help` lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// How soon a hundred proxies enforce a change: of a binding, group, role, session, guardrail, condition or attribute.
    Change {
        /// For the measuring program: --proxies N, --changes N, --write FILE; `-- --help` lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// What certificates cost: issued, also by a token, verified, and in handshakes beside openssl; and an authority
    /// replaced under a thousand connected agents.
    Pki,
    /// What the store costs on both databases, beside bare statements: reading, writing, a policy, a watcher, memory.
    Store,
    /// What the audit log costs: events made leaves of the transparency log, exports written and verified.
    Audit,
    /// What decisions of policy cost: by the number of bindings, beside a naive evaluator and Cedar alone, with conditions; how
    /// long a policy takes to compile and how much room; how fast recorded requests are decided again.
    Authz,
}

/// The programs that are measured.
const PROGRAMS: [&str; 5] =
    ["ztka-controller-server", "ztka-proxy-server", "ztka-agent-server", "ztka-cli", "ztka-benches"];

/// Tells the measuring programs of what the measured ones were built; `ztka_benches::machine::BUILD`.
const BUILD: &str = "ZTKA_BENCH_BUILD";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let succeeded = match &args.what {
        What::Pki => cargo(&["bench", "--quiet", "--package", "ztka-pki", "--bench", "pki"]).status()?.success(),
        What::Tunnel { requests, agents, write, rest } => {
            let build = Build::make()?;
            let write: Vec<String> = write.iter().flat_map(|file| ["--write".to_owned(), file.clone()]).collect();
            let of_requests = [&write, rest.as_slice()].concat();
            let measure = |asked: &str| build.measure("chain", &["--", "--asked", asked], &of_requests);
            // Each is the first thing that its servers do.
            let with_requests = *agents || measure("watches")? && measure("tunnel")?;
            let with_agents = *requests || build.measure("agents", &[], &write)?;
            with_requests && with_agents
        }
        What::Store => cargo(&["bench", "--quiet", "--package", "ztka-store", "--bench", "store"]).status()?.success(),
        What::Audit => cargo(&["bench", "--quiet", "--package", "ztka-audit", "--bench", "log"]).status()?.success(),
        What::Authz => {
            let package = ["bench", "--quiet", "--package", "ztka-authz", "--features", "cedar"];
            cargo(&package).args(["--bench", "decide"]).status()?.success()
        }
        What::Change { rest } => Build::make()?.measure("change", &[], rest)?,
        What::Recovery { rest } => Build::make()?.measure("recovery", &[], rest)?,
        What::Path { fast, apiserver, rest } => {
            let build = Build::make()?;
            let with_fast = *apiserver || build.measure("chain", &["--"], rest)?;
            let with_apiserver = *fast || build.measure("chain", &["--apiserver", "--"], rest)?;
            with_fast && with_apiserver
        }
    };
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The programs, built with optimisations, and of what.
struct Build {
    source: Source,
}

impl Build {
    fn make() -> Result<Self> {
        say("building with optimisations …");
        let source = Source::look();
        let mut build = cargo(&["build", "--release", "--bins"]);
        for program in PROGRAMS {
            build.args(["--package", program]);
        }
        ensure!(build.status()?.success(), "the programs cannot be built");
        ensure!(source == Source::look(), "the sources have changed while they were built; run it again");
        Ok(Self { source })
    }

    /// Runs a measuring program; true if it succeeded.
    fn measure(&self, program: &str, arguments: &[&str], rest: &[String]) -> Result<bool> {
        // The program itself: `cargo run` would build again what has been changed since.
        let mut command = Command::new(workspace::target()?.join("release").join(program));
        command.current_dir(workspace::root()).args(arguments).args(rest);
        // What was just built, and nothing else, is what is measured.
        command.env_remove("ZTKA_BIN_DIR").env_remove(BUILD);
        if let Some(revision) = self.source.revision() {
            command.env(BUILD, revision);
        }
        Ok(command.status()?.success())
    }
}

/// What is built: a revision, and what differs from it. Documents, into which figures are written, are not.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    head: Option<String>,
    changed: String,
    changes: String,
}

impl Source {
    fn look() -> Self {
        const WITHOUT: [&str; 4] = ["--", ".", ":(exclude)docs", ":(exclude)*.md"];
        Self {
            head: git(&["rev-parse", "--short=12", "HEAD"]),
            changed: git(&[&["status", "--porcelain"], WITHOUT.as_slice()].concat()).unwrap_or_default(),
            changes: git(&[&["diff", "HEAD"], WITHOUT.as_slice()].concat()).unwrap_or_default(),
        }
    }

    fn revision(&self) -> Option<String> {
        let mark = if self.changed.is_empty() { "" } else { "+" };
        self.head.as_ref().map(|head| format!("{head}{mark}"))
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(workspace::root()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_tree_is_marked_and_no_tree_is_no_revision() {
        let source = |head: Option<&str>, changed: &str| Source {
            head: head.map(str::to_owned),
            changed: changed.to_owned(),
            changes: String::new(),
        };
        assert_eq!(source(Some("0123456789ab"), "").revision().as_deref(), Some("0123456789ab"));
        assert_eq!(source(Some("0123456789ab"), " M a.rs").revision().as_deref(), Some("0123456789ab+"));
        assert_eq!(source(None, "").revision(), None);
    }
}
