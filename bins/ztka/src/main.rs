//! The `ztka` command line.

mod commands;
mod credential;
mod files;
mod kubeconfig;
mod output;
mod session;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{output::Output, session::Session};

/// Zero-trust kubectl access to every Kubernetes cluster of an organisation.
#[derive(Debug, Parser)]
#[command(name = "ztka", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
struct Global {
    /// Who you are to the controller: a file that `ztka up`, `ztka-controller init` or `ztka credential` has written
    #[arg(long, global = true, env = "ZTKA_CREDENTIAL", value_name = "FILE")]
    credential: Option<std::path::PathBuf>,
    /// Organisation, by name or id; yours by default
    #[arg(long, global = true, env = "ZTKA_ORG", value_name = "ORG")]
    org: Option<String>,
    /// How answers are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run controller, proxy and, with a kubeconfig, an agent in this one process
    Up(commands::up::Up),
    /// Show who you are to the controller
    Whoami,
    /// Show whether the installation's certificates are renewed in time
    Status,
    /// Organisations
    #[command(subcommand)]
    Org(commands::org::Org),
    /// Master keys, which wrap the data keys of organisations
    #[command(subcommand)]
    MasterKey(commands::master_key::MasterKey),
    /// Certificate authorities: how they are, and their rotation
    #[command(subcommand)]
    Pki(commands::pki::Pki),
    /// Proxies
    #[command(subcommand)]
    Proxy(commands::proxy::Proxy),
    /// Clusters, and how their agents enrol
    #[command(subcommand)]
    Cluster(commands::cluster::Cluster),
    /// Users
    #[command(subcommand)]
    User(commands::user::User),
    /// Groups of users
    #[command(subcommand)]
    Group(commands::group::Group),
    /// Roles: what may be done
    #[command(subcommand)]
    Role(commands::role::Role),
    /// Bindings: who may do it where
    #[command(subcommand)]
    Binding(commands::binding::Binding),
    /// Policy as a whole: read, apply, roll back; check, test, explain, compare and simulate it in files
    #[command(subcommand)]
    Policy(commands::policy::Policy),
    /// Write a kubeconfig with a context for each cluster the user may reach, or renew one; keys are made here
    Kubeconfig(commands::kubeconfig::Kubeconfig),
    /// Write a credential file for this command line; list, revoke and renew credentials
    Credential(commands::credential::Credential),
    /// What is revoked by serial number, as an agent, a proxy or an organisation
    #[command(subcommand)]
    Revocation(commands::revocation::Revocation),
    /// A user's sessions: which there are, and the end of one alone
    #[command(subcommand)]
    Session(commands::session::Session),
    /// Recordings of exec and attach: which there are, play, export and watch them
    #[command(subcommand, alias = "sessions")]
    Recording(commands::recording::Recording),
    /// The audit log
    #[command(subcommand)]
    Audit(commands::audit::Audit),
    /// Write everything that the controller's database holds to an encrypted file, while controllers go on
    Backup(commands::backup::Backup),
    /// Fill a database from a backup while no controller runs, and begin a new history
    Restore(commands::backup::Restore),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::No>() => ExitCode::FAILURE,
        Err(error) if error.is::<output::Unjudged>() => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let Cli { global, command } = cli;
    if let Command::Up(up) = command {
        return runtime.block_on(up.run(global.org));
    }
    if let Command::Pki(commands::pki::Pki::Init(init)) = command {
        return runtime.block_on(init.run());
    }
    let command = match command {
        Command::Policy(commands::policy::Policy::OnFiles(command)) => return command.run(global.output),
        Command::Audit(commands::audit::Audit::Cat(cat)) => return cat.run(),
        Command::Audit(commands::audit::Audit::Verify(verify)) => {
            return verify.run(global.credential.as_deref(), global.output);
        }
        Command::Backup(backup) => return runtime.block_on(backup.run(global.output)),
        Command::Restore(restore) => return runtime.block_on(restore.run(global.output)),
        Command::Kubeconfig(kubeconfig) => match runtime.block_on(kubeconfig.run_alone(global.output)) {
            Ok(done) => return done,
            Err(kubeconfig) => Command::Kubeconfig(kubeconfig),
        },
        command => command,
    };
    let credential = credential::open(global.credential.as_deref())?;
    let mut session = Session::new(&credential, global.org, global.output)?;
    session.credential_path = Some(credential::path(global.credential.as_deref())?);
    runtime.block_on(async {
        match command {
            Command::Up(_) | Command::Backup(_) | Command::Restore(_) => Ok(()),
            Command::Policy(commands::policy::Policy::OnFiles(command)) => command.run(global.output),
            Command::Policy(commands::policy::Policy::Live(command)) => command.run(&session).await,
            Command::Status => commands::status(&session).await,
            Command::Whoami => commands::whoami(&session).await,
            Command::Org(command) => command.run(&session).await,
            Command::MasterKey(command) => command.run(&session).await,
            Command::Pki(command) => command.run(&session).await,
            Command::Proxy(command) => command.run(&session).await,
            Command::Cluster(command) => command.run(&session).await,
            Command::User(command) => command.run(&session).await,
            Command::Group(command) => command.run(&session).await,
            Command::Role(command) => command.run(&session).await,
            Command::Binding(command) => command.run(&session).await,
            Command::Kubeconfig(command) => command.run(&session).await,
            Command::Credential(command) => command.run(&session, &credential).await,
            Command::Revocation(command) => command.run(&session).await,
            Command::Session(command) => command.run(&session).await,
            Command::Recording(command) => command.run(&session).await,
            Command::Audit(command) => command.run(&session).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_fits_together() {
        super::Cli::command().debug_assert();
    }
}
