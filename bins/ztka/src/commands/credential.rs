//! `ztka credential`

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{duration, issue};
use ztka_api::CredentialFile;

use crate::{credential, session::Session};

#[derive(Args, Debug)]
pub(crate) struct Credential {
    /// Name or id of the user; you by default
    #[arg(long)]
    user: Option<String>,
    /// How long the certificate is to live
    #[arg(long, value_parser = duration)]
    life: Option<Duration>,
    /// Where to write it
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
}

impl Credential {
    pub(crate) async fn run(self, session: &Session, own: &CredentialFile) -> anyhow::Result<()> {
        let (org, user) = issue::user(session, self.user.as_deref()).await?;
        let issue::Issued { answer, key } = issue::issue(session, &org, &user, self.life).await?;
        let ca_bundle = answer.access.ca_bundle.clone();
        let issued = CredentialFile { chain: answer.chain.clone(), key, ca_bundle, ..own.clone() };
        credential::write(&issued, &self.file)?;
        session.output.one(&answer.credential, || {
            format!("{} written for {}, valid until {}", self.file.display(), user.name, answer.credential.not_after)
        })
    }
}
