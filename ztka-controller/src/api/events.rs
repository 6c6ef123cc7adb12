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
use ztka_core::{BoxError, ClusterId, OrgId, Verified};
use ztka_pki::Peer;

use super::{
    answer::{Answer, ApiError, Json, query},
    guard::Administrator,
};
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

pub(super) fn stage(text: &str) -> Answer<Stage> {
    let stages = [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic];
    let found = stages.into_iter().find(|stage| stage.as_str() == text);
    found.ok_or_else(|| ApiError::invalid("there is no such stage; use RequestReceived or ResponseComplete"))
}

pub(super) async fn events(
    State(controller): State<Controller>,
    axum::Extension(peer): axum::Extension<Verified<Peer>>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Response> {
    let asked: ztka_api::EventQuery = query(asked.as_deref())?;
    let limit = asked.limit.unwrap_or(DEFAULT);
    if !(1..=LARGEST).contains(&limit) {
        return Err(ApiError::invalid("limit is between 1 and 1000; ask for less, and go on with before"));
    }
    let of = EventQuery {
        org: Some(org.clone()),
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
    let events = &controller.0.stores.events;
    if !asked.follow {
        let newest = events.query(&of).await.map_err(ApiError::failed)?;
        return Ok(Json(newest.into_iter().map(wire).collect::<Answer<Vec<_>>>()?).into_response());
    }
    // What is new comes behind the newest of all, whatever is asked for of those before it.
    let after = newest(&controller, &org, None).await.map_err(ApiError::failed)?.unwrap_or(0);
    let before = of.before.map_or(after + 1, |before| before.min(after + 1));
    let mut first = events.query(&EventQuery { before: Some(before), ..of.clone() }).await.map_err(ApiError::failed)?;
    first.reverse();
    let watcher = Administrator::new(controller.clone(), peer, org.clone());
    let following = Following { controller, watcher, org, of, after, behind: false, first: Some(first) };
    let pieces = stream::unfold(following, |mut following| async move {
        let piece = following.next().await?;
        Some((Ok::<_, Infallible>(piece), following))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

/// The number of an organisation's newest event after this one, if there is any.
async fn newest(controller: &Controller, org: &OrgId, after: Option<u64>) -> Result<Option<u64>, BoxError> {
    let newest = EventQuery { org: Some(org.clone()), after, limit: 1, ..EventQuery::default() };
    Ok(controller.0.stores.events.query(&newest).await?.first().map(|newest| newest.number))
}

struct Following {
    controller: Controller,
    watcher: Administrator,
    org: OrgId,
    of: EventQuery,
    after: u64,
    /// The last look has found more than fits into one piece.
    behind: bool,
    first: Option<Vec<StoredEvent>>,
}

impl Following {
    /// The next lines; `None` at the end: the caller's session is over, or the store fails.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(lines(first));
        }
        for _ in 0..IDLE {
            if !self.behind {
                tokio::time::sleep(POLL).await;
            }
            // A right that was taken away, or a session that ended, ends the stream as well.
            if !self.watcher.still_is().await {
                return None;
            }
            let news = self.news().await.ok()?;
            if !news.is_empty() {
                return Some(lines(news));
            }
        }
        Some(Bytes::from_static(b"\n"))
    }

    /// The oldest events after the last one, as many as fit into one piece: whoever reads slowly misses many.
    async fn news(&mut self) -> Result<Vec<StoredEvent>, BoxError> {
        self.behind = false;
        let Some(newest) = newest(&self.controller, &self.org, Some(self.after)).await? else {
            return Ok(Vec::new());
        };
        let (after, before, limit) = (Some(self.after), Some(newest + 1), LARGEST as usize);
        let page = EventQuery { after, before, limit, oldest_first: true, ..self.of.clone() };
        let page = self.controller.0.stores.events.query(&page).await?;
        self.behind = page.len() >= limit;
        // What is not asked for is not looked at twice.
        self.after = page.last().filter(|_| self.behind).map_or(newest, |last| last.number);
        Ok(page)
    }
}

/// One per line.
fn lines(oldest_first: Vec<StoredEvent>) -> Bytes {
    let mut lines = BytesMut::new();
    for StoredEvent { number, event } in oldest_first {
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
