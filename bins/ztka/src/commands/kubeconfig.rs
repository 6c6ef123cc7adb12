//! `ztka kubeconfig`

mod refresh;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use self::refresh::Refresh;
use super::{duration, issue};
use crate::{files, output::Output, session::Session};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Kubeconfig {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    write: Write,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Renew the certificates of a kubeconfig in place, with new keys; needs nothing but the file itself
    Refresh(Refresh),
}

#[derive(Args, Debug)]
struct Write {
    /// Name or id of the user; you by default
    #[arg(long)]
    user: Option<String>,
    /// How long the certificate is to live; 30 days, or what the organisation allows, by default
    #[arg(long, value_parser = duration)]
    life: Option<Duration>,
    /// Where to write it; standard output by default
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name clusters by path instead of TLS server name: every context has the same tls-server-name, kube.<domain>
    #[arg(long)]
    path: bool,
}

impl Kubeconfig {
    /// What needs no credential file; else the command back.
    pub(crate) async fn run_alone(self, output: Output) -> Result<anyhow::Result<()>, Self> {
        match self.command {
            Some(Command::Refresh(refresh)) => Ok(refresh.run(output).await),
            None => Err(self),
        }
    }

    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let wanted = self.write;
        let (org, user) = issue::user(session, wanted.user.as_deref()).await?;
        let issue::Issued { answer, key } = issue::issue(session, &org, &user, wanted.life).await?;
        let config = ztka_api::Kubeconfig::new(&answer.access, &answer.chain, &key, wanted.path);
        let Some(file) = wanted.file else {
            // kubectl reads both forms.
            let text = match session.output {
                Output::Table => config.yaml(),
                Output::Json => config.json()?,
            };
            print!("{}", *text);
            return Ok(());
        };
        files::write_private(&file, config.yaml().as_bytes())?;
        session.output.one(&answer.access, || {
            let (count, name) = (answer.access.clusters.len(), file.display());
            format!("{name} written for {}: {count} clusters, valid until {}", user.name, answer.credential.not_after)
        })
    }
}
