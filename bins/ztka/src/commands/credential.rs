//! `ztka credential`

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use ztka_api::CredentialFile;
use ztka_core::CredentialId;

use super::{
    duration, issue,
    session::{known, state},
};
use crate::{credential, session::Session};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Credential {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    write: Write,
}

#[derive(Args, Debug)]
struct Write {
    /// Name or id of the user; you by default
    #[arg(long)]
    user: Option<String>,
    /// How long the certificate is to live; 30 days, or what the organisation allows, by default
    #[arg(long, value_parser = duration)]
    life: Option<Duration>,
    /// Where to write it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List a user's credentials: each is the certificate of one kubeconfig or credential file
    List {
        /// Name or id of the user; you by default
        #[arg(long)]
        user: Option<String>,
    },
    /// Revoke one credential for good, at once, with every stream that is open with it; the user's others go on
    Revoke {
        /// Its id, as listed
        // Not named `credential`: that is the global option's.
        #[arg(value_name = "CREDENTIAL")]
        id: CredentialId,
        /// Name or id of the user; you by default
        #[arg(long)]
        user: Option<String>,
    },
    /// Renew the credential file that you come with, in place and with a new key
    Refresh,
}

impl Credential {
    pub(crate) async fn run(self, session: &Session, own: &CredentialFile) -> anyhow::Result<()> {
        match self.command {
            None => self.write.run(session, own).await,
            Some(Command::List { user }) => list(session, user.as_deref()).await,
            Some(Command::Revoke { id, user }) => revoke(session, &id, user.as_deref()).await,
            Some(Command::Refresh) => refresh(session, own).await,
        }
    }
}

impl Write {
    async fn run(self, session: &Session, own: &CredentialFile) -> anyhow::Result<()> {
        let file = self.file.context("say where to write the credential: --file FILE")?;
        let (org, user) = issue::user(session, self.user.as_deref()).await?;
        let issue::Issued { answer, key } = issue::issue(session, &org, &user, self.life).await?;
        let ca_bundle = answer.access.ca_bundle.clone();
        let issued = CredentialFile { chain: answer.chain.clone(), key, ca_bundle, ..own.clone() };
        credential::write(&issued, &file)?;
        session.output.one(&answer.credential, || {
            format!("{} written for {}, valid until {}", file.display(), user.name, answer.credential.not_after)
        })
    }
}

async fn list(session: &Session, user: Option<&str>) -> anyhow::Result<()> {
    let (org, user) = issue::user(session, user).await?;
    let own = session.api.whoami().await?.credential;
    let credentials = session.api.credentials(&org, &user.id).await?;
    let now = jiff::Timestamp::now();
    let heads = ["CREDENTIAL", "MADE", "RENEWED", "LAST USED", "VALID UNTIL", "STATE"];
    session.output.list(&credentials, heads, |credential| {
        let at = |time: Option<jiff::Timestamp>| time.map_or("-".into(), |time| time.to_string());
        let ztka_api::Credential { id, created, not_after, renewed, last_used, .. } = credential;
        [id.to_string(), created.to_string(), at(*renewed), at(*last_used), not_after.to_string(), {
            state(credential, &own, now)
        }]
    })
}

async fn revoke(session: &Session, id: &CredentialId, user: Option<&str>) -> anyhow::Result<()> {
    let (org, user) = issue::user(session, user).await?;
    let there = known(session, &org, &user, id).await?.is_some();
    ensure!(there, "{} has no credential {id}; see: ztka credential list --user {0}", user.name);
    session.api.revoke_credential(&org, &user.id, id).await?;
    let revoked = known(session, &org, &user, id).await.unwrap_or_default();
    session.output.one(&revoked, || format!("credential {id} of {} revoked", user.name))
}

async fn refresh(session: &Session, own: &CredentialFile) -> anyhow::Result<()> {
    let path = session.credential_path.as_ref().context("there is no credential file to renew")?;
    let issue::Issued { answer, key } = issue::renew(&session.api).await?;
    let ca_bundle = answer.access.ca_bundle.clone();
    credential::write(&CredentialFile { chain: answer.chain.clone(), key, ca_bundle, ..own.clone() }, path)?;
    session
        .output
        .one(&answer.credential, || format!("{} renewed, valid until {}", path.display(), answer.credential.not_after))
}
