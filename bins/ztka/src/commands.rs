//! One file per noun.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod binding;
pub(crate) mod cluster;
pub(crate) mod credential;
pub(crate) mod group;
pub(crate) mod issue;
pub(crate) mod kubeconfig;
pub(crate) mod master_key;
pub(crate) mod org;
pub(crate) mod pki;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod recording;
pub(crate) mod revocation;
pub(crate) mod role;
pub(crate) mod session;
pub(crate) mod spool;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod user;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use jiff::SignedDuration;

use crate::session::Session;

/// `ztka whoami`
pub(crate) async fn whoami(session: &Session) -> anyhow::Result<()> {
    let who = session.api.whoami().await?;
    session.output.one(&who, || {
        let admin = match who.user.admin {
            Some(ztka_api::AdminRole::SystemAdmin) => ", system administrator",
            Some(ztka_api::AdminRole::OrgAdmin) => ", administrator of the organisation",
            None => "",
        };
        format!("{} of {}{admin}; session until {}", who.user.name, who.org.name, who.active_until)
    })
}

/// `ztka status`
pub(crate) async fn status(session: &Session) -> anyhow::Result<()> {
    let status = session.api.status().await?;
    session.output.one(&status, || {
        let own = status.certificates.iter().map(|own| {
            let state = if own.overdue { "NOT RENEWED" } else { "ok" };
            format!("certificate {}: {state}, renewed {}, until {}\n", own.name, own.renewed, own.not_after)
        });
        let (agents, proxies) = (status.overdue_agents, status.overdue_proxies);
        let findings = match status.findings {
            0 => String::new(),
            some => format!("\njournals that DO NOT FIT TOGETHER, in a day: {some}; see: ztka audit findings"),
        };
        format!("{}not renewed in time: {agents} agents, {proxies} proxies{findings}", own.collect::<String>())
    })
}

/// `KEY=VALUE`
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// Labels as kubectl prints them.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "-".into() } else { pairs.join(",") }
}

/// `30d`, `12h`, `15m`: whole seconds.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let duration: SignedDuration = text.parse().context("write a duration as 30d, 12h or 15m")?;
    ensure!(duration.is_positive(), "a duration is longer than nothing");
    Ok(duration.unsigned_abs())
}

/// Seconds, as the API takes them.
pub(crate) fn seconds(duration: Option<Duration>) -> anyhow::Result<Option<u32>> {
    duration.map(|duration| u32::try_from(duration.as_secs())).transpose().context("the duration is too long")
}
