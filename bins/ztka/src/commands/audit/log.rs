//! `ztka audit export`, `head` and `show`

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::Value;
use tokio::{fs, io::AsyncWriteExt as _};
use ztka_api::{ExportQuery, LogProofQuery, TreeHeadQuery};
use ztka_audit::log::LogProof;
use ztka_core::AuditId;

use super::{line, trust::Trust};
use crate::{output::Output, session::Session};

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// Where to; standard output by default
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The first leaf; 0 by default
    #[arg(long, value_name = "LEAF")]
    from: Option<u64>,
    /// The leaf after the last; up to the head by default
    #[arg(long, value_name = "LEAF")]
    to: Option<u64>,
    /// Under the head of this size, in the place of the newest
    #[arg(long, value_name = "LEAVES")]
    size: Option<u64>,
}

impl Export {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let org = session.org().await?;
        let query = ExportQuery { from: self.from, to: self.to, size: self.size };
        let mut export = session.api.export_log(&org, &query).await?;
        let Some(path) = &self.file else {
            let mut out = std::io::stdout().lock();
            while let Some(piece) = export.next().await? {
                out.write_all(&piece)?;
            }
            return Ok(out.flush()?);
        };
        // What ended early is not left under the name that was asked for.
        let part = part(path);
        let failed = || format!("{} cannot be written", part.display());
        let mut file = fs::File::create(&part).await.with_context(failed)?;
        while let Some(piece) = export.next().await? {
            file.write_all(&piece).await.with_context(failed)?;
        }
        file.sync_all().await.with_context(failed)?;
        fs::rename(&part, path).await.with_context(|| format!("{} cannot be written", path.display()))
    }
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

#[derive(Args, Debug)]
pub(crate) struct Head {
    /// The head of this size, in the place of the newest
    #[arg(long, value_name = "LEAVES", conflicts_with = "after")]
    size: Option<u64>,
    /// The first head that is larger than this
    #[arg(long, value_name = "LEAVES")]
    after: Option<u64>,
}

impl Head {
    /// Always as it was signed: it is for keeping.
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let org = session.org().await?;
        let head = session.api.tree_head(&org, &TreeHeadQuery { size: self.size, after: self.after }).await?;
        let mut out = std::io::stdout().lock();
        out.write_all(&head)?;
        Ok(out.write_all(b"\n")?)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// The request
    #[arg(value_name = "AUDIT-ID", value_parser = super::audit_id)]
    id: AuditId,
    #[command(flatten)]
    trust: Trust,
}

impl Show {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (org, anchors) = (session.org().await?, self.trust.anchors(session.credential_path.as_deref())?);
        let query = LogProofQuery { audit_id: Some(self.id), ..LogProofQuery::default() };
        let answer = session.api.log_proof(&org, &query).await?;
        let proof: LogProof =
            serde_json::from_slice(&answer).context("the answer is not a proof; check the versions")?;
        let head = anchors.believe(&proof.head).map_err(anyhow::Error::from_boxed);
        let head = head.context("the head that the proofs lead to is not believed")?;
        ensure!(head.org == org, "the head is of another organisation");
        for event in &proof.events {
            let leaf = event.proof.leaf;
            event.check(&head).with_context(|| format!("leaf {leaf} is not what was logged"))?;
            let entry: Value = serde_json::from_str(&event.entry).context("the event is not JSON")?;
            let is_it = entry.pointer("/event/auditID").and_then(Value::as_str) == Some(&self.id.to_string());
            ensure!(is_it, "leaf {leaf} is of another request");
            if session.output == Output::Table {
                println!("{}", line(entry.get("event").unwrap_or(&Value::Null)));
                println!("  leaf {leaf} of {}, under the head signed {}", head.size, head.time);
            }
        }
        if session.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&proof)?);
        }
        Ok(())
    }
}
