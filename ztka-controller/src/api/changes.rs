//! What an organisation has and what changes: list, then watch.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::header;
use tokio::time::timeout;
use ztka_api::{ChangeQuery, Listing, Resource};
use ztka_core::{OrgId, Verified};
use ztka_pki::Peer;

use super::{
    answer::{Answer, Json, query},
    guard::Administrator,
};
use crate::{
    Controller,
    changes::ChangeWatch,
    store::{Change, Listed},
};

/// A bookmark after this long without news shows a dead connection, and ends one of somebody who may no longer watch;
/// news do so as well.
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn changes(
    State(controller): State<Controller>,
    Extension(peer): Extension<Verified<Peer>>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Response> {
    let asked: ChangeQuery = query(asked.as_deref())?;
    let Some(from) = asked.from else {
        let listing = controller.0.stores.changes.list(Some(&org)).await?;
        let wire = |Listed { kind, name, version }| Resource { kind: kind.as_str().into(), name, version };
        let resources = listing.resources.into_iter().map(wire).collect();
        return Ok(Json(Listing { revision: listing.revision.to_string(), resources }).into_response());
    };
    let from = from.parse().map_err(|_| {
        super::answer::ApiError::invalid("from is not a revision such as 1.42; use one that an answer has given you")
    })?;
    // What cannot be watched is said with a status.
    controller.0.stores.changes.changes(Some(&org), from, 1).await?;
    let watch = controller.watch_changes(org.clone(), from);
    let watching = Watching { watcher: Administrator::new(controller, peer, org), watch, begun: false };
    let pieces = stream::unfold(watching, |mut watching| async move {
        let piece = watching.next().await?;
        Some((Ok::<_, Infallible>(piece), watching))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

struct Watching {
    watcher: Administrator,
    watch: ChangeWatch,
    begun: bool,
}

impl Watching {
    /// The next lines; `None` at the end: the caller may no longer watch, or has to list again.
    async fn next(&mut self) -> Option<Bytes> {
        let epoch = self.watch.revision().epoch;
        if !std::mem::replace(&mut self.begun, true) {
            // The head of the answer travels with its first bytes.
            return Some(self.bookmark());
        }
        let news = timeout(IDLE, self.watch.next()).await;
        if !self.watcher.still_is().await {
            return None;
        }
        match news {
            Ok(Ok(changes)) => Some(lines(epoch, &changes)),
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a watch ends");
                None
            }
            Err(_) => Some(self.bookmark()),
        }
    }

    fn bookmark(&self) -> Bytes {
        format!("{{\"revision\":\"{}\",\"bookmark\":true}}\n", self.watch.revision()).into()
    }
}

fn lines(epoch: u64, changes: &[Change]) -> Bytes {
    let mut lines = BytesMut::new();
    for Change { version, kind, name, action } in changes {
        // Names and words have nothing in them that JSON would escape.
        let change = format!("\"kind\":\"{kind}\",\"name\":\"{name}\",\"action\":\"{action}\"");
        lines.put_slice(format!("{{\"revision\":\"{epoch}.{version}\",{change}}}\n").as_bytes());
    }
    lines.freeze()
}
