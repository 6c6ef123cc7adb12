//! `ztka audit`

mod log;
mod trust;
mod verify;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;
use ztka_api::{EventQuery, FindingQuery};
use ztka_core::{AuditId, UserName};

use crate::{output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Show the newest events; with --follow also those to come
    Tail(Tail),
    /// Print the records of a spool on this machine, one JSON object a line; damage is told on standard error, and exits 1
    Cat(super::spool::Cat),
    /// Show the events of a request, each held against its proof that it is in the transparency log
    Show(log::Show),
    /// Write the transparency log, or a part of it, to a file that proves itself
    Export(log::Export),
    /// Verify an export, offline: what was removed, changed, reordered or invented, and whether history was forked
    Verify(verify::Verify),
    /// Print a signed head of the transparency log, to keep: `verify --previous-head` holds later exports against it
    Head(log::Head),
    /// Show where the agents' receipts and the proxies' events disagree
    Findings {
        /// Only about requests of this time or later, as in 2026-01-31T12:00:00Z; a day before the end by default
        #[arg(long, value_name = "TIME")]
        since: Option<Timestamp>,
        /// Only about requests before this time; two minutes ago by default, as what is on its way is not missing
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Tail {
    /// Go on with new events until interrupted
    #[arg(long, short)]
    follow: bool,
    /// How many events to begin with
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: u32,
    /// Only of this cluster, by name or id
    #[arg(long)]
    cluster: Option<String>,
    /// Only by this user
    #[arg(long)]
    user: Option<UserName>,
    /// Only those that were allowed, or denied: allow or deny
    #[arg(long)]
    decision: Option<String>,
    /// Only of this request
    #[arg(long, value_name = "AUDIT-ID", value_parser = audit_id)]
    id: Option<AuditId>,
}

fn audit_id(text: &str) -> Result<AuditId, String> {
    AuditId::parse(text).ok_or_else(|| "an Audit-ID is a UUID".into())
}

impl Audit {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Tail(tail) => tail.run(session).await,
            // Without a session: `main` has run it.
            Self::Cat(cat) => cat.run(),
            Self::Show(show) => show.run(session).await,
            Self::Export(export) => export.run(session).await,
            Self::Head(head) => head.run(session).await,
            Self::Verify(verify) => verify.run(session.credential_path.as_deref(), session.output),
            Self::Findings { since, until } => {
                let org = session.org().await?;
                let findings = session.api.findings(&org, &FindingQuery { since, until }).await?;
                session.output.list(&findings, ["KIND", "AUDIT-ID", "CLUSTER", "MESSAGE"], |finding| {
                    let id = finding.audit_id.map_or("-".into(), |id| id.to_string());
                    let cluster = finding.cluster.as_ref().map_or("-".into(), ToString::to_string);
                    [finding.kind.clone(), id, cluster, finding.message.clone()]
                })
            }
        }
    }
}

impl Tail {
    async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        let cluster = match &self.cluster {
            Some(name) => Some(session.cluster(&org, name).await?),
            None => None,
        };
        let (user, decision, limit) = (self.user, self.decision, Some(self.lines));
        let query = EventQuery { cluster, user, decision, audit_id: self.id, limit, ..EventQuery::default() };
        if self.follow {
            let mut events = api.follow_events(&org, &query).await?;
            while let Some(event) = events.next().await? {
                print(session.output, &event.event)?;
            }
            anyhow::bail!("the controller ended the stream; run the command again")
        }
        let events = api.events(&org, &query).await?;
        // The answer is newest first; a log is read downwards.
        events.iter().rev().try_for_each(|event| print(session.output, &event.event))
    }
}

/// One event, one line, in JSON as well.
fn print(output: Output, event: &Value) -> anyhow::Result<()> {
    let line = match output {
        Output::Json => serde_json::to_string(event).context("the event is not JSON")?,
        Output::Table => line(event),
    };
    println!("{line}");
    Ok(())
}

fn line(event: &Value) -> String {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let code = event.pointer("/responseStatus/code").map_or("-".into(), Value::to_string);
    let decision = text("/annotations/ztka.dev~1decision");
    let line = format!(
        "{} {:<16} {:<6} {:<16} {:<8} {} {}",
        text("/stageTimestamp"),
        text("/stage"),
        decision,
        text("/user/username"),
        text("/verb"),
        code,
        text("/requestURI"),
    );
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
