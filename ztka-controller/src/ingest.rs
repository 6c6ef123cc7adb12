//! What proxies and agents report: events and receipts.

use axum::{
    Extension, Json,
    body::Body,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use ztka_audit::{Batch, Ingested};
use ztka_core::{BoxError, ClusterId, OrgId, Subject, Verified};
use ztka_pki::Peer;

use crate::{Controller, PeerKey, feed::refuse, store::Found};

/// Larger than any batch: records of at most 256 KiB, behind one another up to a megabyte.
const LARGEST: usize = 4 << 20;

/// What became of a batch.
#[derive(Debug, Serialize)]
struct Taken {
    stored: usize,
    known: usize,
}

pub(crate) fn events() -> MethodRouter<Controller> {
    post(take_events).layer(DefaultBodyLimit::max(LARGEST))
}

pub(crate) fn receipts() -> MethodRouter<Controller> {
    post(take_receipts).layer(DefaultBodyLimit::max(LARGEST))
}

impl Controller {
    async fn taken(
        &self,
        ingested: Result<Ingested, BoxError>,
        peer: &Peer,
        of: Option<(&OrgId, &ClusterId)>,
    ) -> Response<Body> {
        let Ingested { stored, known, findings } = match ingested {
            Ok(ingested) => {
                self.0.counts.reported(&ingested, of.is_some());
                ingested
            }
            Err(error) => {
                tracing::error!(error = &*error, "records cannot be stored now");
                self.0.counts.store_failed();
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "records cannot be stored now; try again");
            }
        };
        let found: Vec<_> = findings
            .into_iter()
            .map(|finding| Found {
                org: of.map(|(org, _)| org.clone()),
                cluster: of.map(|(_, cluster)| cluster.clone()),
                source: peer.id.to_string(),
                at: self.now(),
                finding,
            })
            .collect();
        for Found { source, finding, .. } in &found {
            tracing::warn!(source, %finding, "a journal does not fit together");
        }
        if !found.is_empty()
            && let Err(error) = self.0.stores.findings.add_findings(&found).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "findings are not stored");
            self.0.counts.store_failed();
        }
        Json(Taken { stored, known }).into_response()
    }
}

async fn take_events(
    State(controller): State<Controller>,
    peer: Option<Extension<Verified<Peer>>>,
    body: Bytes,
) -> Response {
    let Some(Extension(peer)) = peer.filter(|peer| matches!(peer.id.subject, Subject::Proxy(_))) else {
        return refuse(StatusCode::FORBIDDEN, "events are reported by proxies");
    };
    if controller.trust().is_revoked(&peer) {
        return refuse(StatusCode::FORBIDDEN, "the certificate is revoked; join again with a new token");
    }
    let batch = match Batch::decode(&body) {
        Ok(batch) => batch,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let ingested = controller.0.stores.events.ingest(&peer.id.to_string(), &batch).await;
    if ingested.is_ok() {
        controller.0.uses.note_events(&batch, controller.now());
    }
    controller.taken(ingested, &peer, None).await
}

async fn take_receipts(
    State(controller): State<Controller>,
    peer: Option<Extension<Verified<Peer>>>,
    key: Option<Extension<PeerKey>>,
    body: Bytes,
) -> Response {
    let (Some(Extension(peer)), Some(Extension(PeerKey(key)))) = (peer, key) else {
        return refuse(StatusCode::UNAUTHORIZED, "a client certificate of an agent is needed");
    };
    let Subject::Agent { org, cluster, .. } = &peer.id.subject else {
        return refuse(StatusCode::FORBIDDEN, "receipts are sent by agents");
    };
    if controller.trust().is_revoked(&peer) {
        return refuse(StatusCode::FORBIDDEN, "the certificate is revoked; join again with a new enrolment token");
    }
    let batch = match Batch::decode(&body) {
        Ok(batch) => batch,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    if !batch.is_signed(|message, signature| key.is_signed(message, signature)) {
        let message =
            "the batch is not signed by the key of this connection's certificate; connect again and sign anew";
        return refuse(StatusCode::FORBIDDEN, message);
    }
    let ingested = controller.0.stores.receipts.ingest_receipts(&peer.id.to_string(), cluster, &batch).await;
    controller.taken(ingested, &peer, Some((org, cluster))).await
}
