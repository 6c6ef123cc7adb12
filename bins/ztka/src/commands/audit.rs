//! `ztka audit`

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;
use ztka_api::EventQuery;

use crate::{output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Show the newest events; with --follow also those to come
    Tail {
        /// Go on with new events until interrupted
        #[arg(long, short)]
        follow: bool,
        /// How many events to begin with
        #[arg(long, short = 'n', default_value_t = 20)]
        lines: u32,
    },
    /// Show where the agents' receipts and the proxies' events disagree
    Findings,
}

impl Audit {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::Tail { follow: true, lines } => {
                let query = EventQuery { limit: Some(lines), ..EventQuery::default() };
                let mut events = api.follow_events(&org, &query).await?;
                while let Some(event) = events.next().await? {
                    print(session.output, &event)?;
                }
                anyhow::bail!("the controller ended the stream; run the command again")
            }
            Self::Tail { follow: false, lines } => {
                let query = EventQuery { limit: Some(lines), ..EventQuery::default() };
                let events = api.events(&org, &query).await?;
                // The answer is newest first; a log is read downwards.
                events.iter().rev().try_for_each(|event| print(session.output, event))
            }
            Self::Findings => {
                let findings = api.findings(&org).await?;
                session.output.list(&findings, ["KIND", "AUDIT-ID", "CLUSTER", "MESSAGE"], |finding| {
                    let finding = finding.clone();
                    [finding.kind, finding.audit_id, finding.cluster, finding.message]
                })
            }
        }
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
