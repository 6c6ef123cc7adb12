//! Recordings of sessions: taken from proxies, and removed when they are old.

use std::time::Duration;

use axum::{
    Extension,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use ztka_audit::{Chunk, MAX_CHUNK};
use ztka_core::{Subject, Verified};
use ztka_pki::Peer;

use crate::{Controller, feed::refuse, store::TakenChunk};

/// Between two looks for what is too old.
const LOOK: Duration = Duration::from_secs(600);

/// What is wanted after a chunk.
#[derive(Debug, Serialize)]
struct Taken {
    next: u64,
}

pub(crate) fn route() -> MethodRouter<Controller> {
    post(take).layer(DefaultBodyLimit::max(MAX_CHUNK))
}

async fn take(State(controller): State<Controller>, peer: Option<Extension<Verified<Peer>>>, body: Bytes) -> Response {
    let Some(Extension(peer)) = peer.filter(|peer| matches!(peer.id.subject, Subject::Proxy(_))) else {
        return refuse(StatusCode::FORBIDDEN, "recordings are brought by proxies");
    };
    if controller.trust().is_revoked(&peer) {
        return refuse(StatusCode::FORBIDDEN, "the certificate is revoked; join again with a new token");
    }
    let chunk = match Chunk::decode(body) {
        Ok(chunk) => chunk,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let (recordings, most) = (&controller.0.stores.recordings, controller.0.settings.recordings_of_org);
    match recordings.take_chunk(&peer.id.to_string(), &chunk, most).await {
        Ok(TakenChunk::Next(next)) => axum::Json(Taken { next }).into_response(),
        Ok(TakenChunk::Nobody) => axum::Json(Taken { next: u64::MAX }).into_response(),
        Ok(TakenChunk::Full) => {
            let message =
                "the organisation has as many recordings as it may; keep them for a shorter time, or allow more";
            refuse(StatusCode::INSUFFICIENT_STORAGE, message)
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a recording cannot be stored now");
            controller.0.counts.store_failed();
            refuse(StatusCode::SERVICE_UNAVAILABLE, "recordings cannot be stored now; try again")
        }
    }
}

impl Controller {
    /// Removes recordings that are older than they are kept, without end.
    pub(crate) async fn keep_recordings(&self) {
        loop {
            let before = self.now().checked_sub(self.0.settings.keep_recordings).unwrap_or(Timestamp::MIN);
            match self.0.stores.recordings.remove_recordings(before).await {
                Ok(0) => tokio::time::sleep(LOOK).await,
                Ok(removed) => tracing::info!(removed, "recordings were removed, as old as they may become"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "old recordings cannot be removed now");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }
}
