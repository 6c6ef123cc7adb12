//! Recordings of sessions: which there are, and what they show. Every look is on record before it is answered.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use ztka_api::{Recording, RecordingQuery};
use ztka_core::{AuditId, OrgId, Verified};
use ztka_pki::Peer;

use super::{
    Needs,
    answer::{Answer, ApiError, Json, query},
    guard::Administrator,
};
use crate::{Controller, store::KeptRecording};

/// Recordings of one answer, by default and at most.
const DEFAULT: u32 = 100;
const LARGEST: u32 = 500;
/// Chunks that are read at once: a megabyte each at most.
const PAGE: u32 = 4;
/// Between looks at the store while watching.
const POLL: Duration = Duration::from_millis(300);
/// A comment after this many looks without news shows a dead connection.
const IDLE: u32 = 50;
const CAST: &str = "application/x-asciicast";

fn wire(kept: KeptRecording) -> Recording {
    let KeptRecording { id, about, chunks, bytes, hash, last, at } = kept;
    let (state, reason, exit) = match last {
        Some(last) => (last.end.as_str(), last.reason, last.exit),
        None => ("running", None, None),
    };
    Recording {
        id,
        user: about.user_name,
        cluster: about.cluster,
        namespace: about.namespace,
        pod: about.pod,
        container: about.container,
        kind: about.kind,
        command: about.command,
        tty: about.tty,
        required: about.required,
        started: about.started,
        at,
        state: state.into(),
        reason,
        exit,
        chunks,
        bytes,
        hash: hash.to_string(),
    }
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<Vec<Recording>>> {
    let asked: RecordingQuery = query(asked.as_deref())?;
    let limit = asked.limit.unwrap_or(DEFAULT);
    if !(1..=LARGEST).contains(&limit) {
        return Err(ApiError::invalid("limit is between 1 and 500; ask for less, and go on with before"));
    }
    let recordings = &controller.0.stores.recordings;
    let before = match asked.before {
        Some(id) => Some(found(&controller, &org, id).await?).map(|kept| (kept.about.started, id)),
        None => None,
    };
    let kept = recordings.recordings(&org, before, limit).await?;
    Ok(Json(kept.into_iter().map(wire).collect()))
}

async fn found(controller: &Controller, org: &OrgId, id: AuditId) -> Answer<KeptRecording> {
    let found = controller.0.stores.recordings.recording(org, id).await?;
    found.ok_or_else(|| ApiError::not_found("recording", id))
}

pub(super) async fn read(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, AuditId)>,
) -> Answer<Json<Recording>> {
    Ok(Json(wire(found(&controller, &org, id).await?)))
}

/// What is there of it, as one file.
pub(super) async fn cast(
    State(controller): State<Controller>,
    axum::Extension(peer): axum::Extension<Verified<Peer>>,
    Path((org, id)): Path<(OrgId, AuditId)>,
) -> Answer<Response> {
    found(&controller, &org, id).await?;
    Ok(Watching::new(controller, peer, org, id, false).into_response())
}

/// The same, and what follows until it ends.
pub(super) async fn watch(
    State(controller): State<Controller>,
    axum::Extension(peer): axum::Extension<Verified<Peer>>,
    Path((org, id)): Path<(OrgId, AuditId)>,
) -> Answer<Response> {
    found(&controller, &org, id).await?;
    Ok(Watching::new(controller, peer, org, id, true).into_response())
}

struct Watching {
    controller: Controller,
    watcher: Administrator,
    org: OrgId,
    id: AuditId,
    next: u64,
    follows: bool,
    over: bool,
}

impl Watching {
    fn new(controller: Controller, peer: Verified<Peer>, org: OrgId, id: AuditId, follows: bool) -> Self {
        let watcher = Administrator::new(controller.clone(), peer, org.clone()).by(Needs::RecordingViewer);
        Self { controller, watcher, org, id, next: 0, follows, over: false }
    }

    fn into_response(self) -> Response {
        let pieces = stream::unfold(self, |mut watching| async move {
            let piece = watching.next().await?;
            Some((Ok::<_, Infallible>(piece), watching))
        });
        ([(header::CONTENT_TYPE, CAST)], Body::from_stream(pieces)).into_response()
    }

    /// The next lines; `None` at the end: of the recording, of the caller's right, or of the store.
    async fn next(&mut self) -> Option<Bytes> {
        for _ in 0..IDLE {
            if self.over || !self.watcher.still_is().await {
                return None;
            }
            let chunks =
                self.controller.0.stores.recordings.recording_chunks(&self.org, self.id, self.next, PAGE).await;
            let chunks = chunks.ok()?;
            match chunks.last() {
                Some(last) => (self.next, self.over) = (last.number + 1, last.last.is_some()),
                None if !self.follows => return None,
                None => tokio::time::sleep(POLL).await,
            }
            let lines: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.lines.iter().copied()).collect();
            if !lines.is_empty() {
                return Some(lines.into());
            }
        }
        // A comment, in asciicast's own words.
        Some(Bytes::from_static(b"#\n"))
    }
}
