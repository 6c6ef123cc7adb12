//! Audit events and findings.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::header;
use jiff::{SignedDuration, Timestamp};
use ztka_api::{Event, Finding, FindingQuery};
use ztka_audit::{EventQuery, Stage, StoredEvent};
use ztka_core::{ClusterId, CredentialId, OrgId, UserId};
use ztka_identity::Caller;

use super::answer::{Answer, ApiError, Json, query};
use crate::{Controller, findings::MOST};

/// Events of one answer, by default and at most.
const DEFAULT: u32 = 100;
const LARGEST: u32 = 1000;
/// Between looks at the store while following.
const POLL: Duration = Duration::from_millis(300);
/// An empty line after this many looks without news shows a dead connection.
const IDLE: u32 = 50;
/// What is on its way is not missing.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_mins(2);
const A_DAY: SignedDuration = SignedDuration::from_hours(24);

fn wire(stored: StoredEvent) -> Answer<Event> {
    let event = serde_json::from_slice(&stored.event.to_json()).map_err(ApiError::failed)?;
    Ok(Event { number: stored.number, event })
}

fn stage(text: &str) -> Answer<Stage> {
    let stages = [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete];
    let found = stages.into_iter().find(|stage| stage.as_str() == text);
    found.ok_or_else(|| ApiError::invalid("there is no such stage; use RequestReceived or ResponseComplete"))
}

pub(super) async fn events(
    State(controller): State<Controller>,
    axum::Extension(caller): axum::Extension<Caller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Response> {
    let asked: ztka_api::EventQuery = query(asked.as_deref())?;
    let limit = asked.limit.unwrap_or(DEFAULT);
    if !(1..=LARGEST).contains(&limit) {
        return Err(ApiError::invalid("limit is between 1 and 1000; ask for less, and go on with before"));
    }
    let of = EventQuery {
        org: Some(org),
        cluster: asked.cluster,
        user: asked.user,
        namespace: asked.namespace,
        resource: asked.resource,
        decision: asked.decision,
        audit_id: asked.audit_id,
        stage: asked.stage.as_deref().map(stage).transpose()?,
        since: asked.since,
        until: asked.until,
        before: asked.before,
        limit: limit as usize,
        ..EventQuery::default()
    };
    let newest = controller.0.stores.events.query(&of).await.map_err(ApiError::failed)?;
    if !asked.follow {
        return Ok(Json(newest.into_iter().map(wire).collect::<Answer<Vec<_>>>()?).into_response());
    }
    let after = newest.first().map_or(0, |newest| newest.number);
    let (user, credential) = (caller.user.id, caller.credential.id);
    let following = Following { controller, of, after, user, credential, first: Some(newest) };
    let pieces = stream::unfold(following, |mut following| async move {
        let piece = following.next().await?;
        Some((Ok::<_, Infallible>(piece), following))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

struct Following {
    controller: Controller,
    of: EventQuery,
    after: u64,
    user: UserId,
    credential: CredentialId,
    first: Option<Vec<StoredEvent>>,
}

impl Following {
    /// The next lines; `None` at the end: the caller's session is over, or the store fails.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(lines(first));
        }
        for _ in 0..IDLE {
            tokio::time::sleep(POLL).await;
            let directory = self.controller.directory();
            // A right that was taken away, or a session that ended, ends the stream as well.
            let caller = directory.whoami(&self.user, &self.credential).await.ok()?;
            if !self.of.org.as_ref().is_some_and(|org| caller.administers(org)) {
                return None;
            }
            let news = self.news().await.ok()?;
            if let Some(newest) = news.first() {
                self.after = newest.number;
                return Some(lines(news));
            }
        }
        Some(Bytes::from_static(b"\n"))
    }

    /// All events after the last one, newest first, in pages: a query gives the newest.
    async fn news(&self) -> Result<Vec<StoredEvent>, ztka_core::BoxError> {
        let mut news: Vec<StoredEvent> = Vec::new();
        loop {
            let before = news.last().map(|oldest| oldest.number);
            let limit = LARGEST as usize;
            let page = EventQuery { after: Some(self.after), before, limit, ..self.of.clone() };
            let page = self.controller.0.stores.events.query(&page).await?;
            let whole = page.len() < limit;
            news.extend(page);
            if whole {
                return Ok(news);
            }
        }
    }
}

/// Oldest first, one per line.
fn lines(newest_first: Vec<StoredEvent>) -> Bytes {
    let mut lines = BytesMut::new();
    for StoredEvent { number, event } in newest_first.into_iter().rev() {
        lines.put_slice(format!("{{\"number\":{number},\"event\":").as_bytes());
        lines.put_slice(&event.to_json());
        lines.put_slice(b"}\n");
    }
    if lines.is_empty() {
        // The head of the answer travels with its first bytes.
        lines.put_slice(b"\n");
    }
    lines.freeze()
}

pub(super) async fn findings(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<Vec<Finding>>> {
    let asked: FindingQuery = query(asked.as_deref())?;
    let now = controller.now();
    let until = asked.until.unwrap_or_else(|| now.checked_sub(ON_ITS_WAY).unwrap_or(Timestamp::MIN));
    let since = asked.since.unwrap_or_else(|| until.checked_sub(A_DAY).unwrap_or(Timestamp::MIN));
    if until.duration_since(since) > 31 * A_DAY {
        return Err(ApiError::invalid("the time asked for is longer than 31 days; ask for less"));
    }
    let wire = |cluster: Option<ClusterId>, source: Option<String>, finding: &ztka_audit::Finding| Finding {
        kind: finding.kind().into(),
        audit_id: finding.audit_id(),
        cluster,
        source,
        message: finding.to_string(),
    };
    let compared = controller.compare(&org, &(since..until)).await.map_err(ApiError::failed)?;
    let mut all: Vec<_> =
        compared.iter().map(|(cluster, finding)| wire(Some(cluster.id.clone()), None, finding)).collect();
    let found = controller.0.stores.findings.findings(Some(&org), MOST as u32).await?;
    let in_time = found.into_iter().filter(|found| since <= found.at);
    all.extend(in_time.map(|found| wire(found.cluster, Some(found.source), &found.finding)));
    all.truncate(MOST);
    Ok(Json(all))
}
