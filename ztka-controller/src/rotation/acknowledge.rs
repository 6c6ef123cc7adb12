//! `POST /v1/acknowledgement`: a member says which `trust` document it goes by.

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use ztka_core::{Revision, Subject, Verified};
use ztka_pki::Peer;

use crate::{Controller, feed::refuse, store::Acknowledgement};

#[derive(Deserialize)]
struct Acknowledged {
    /// `<epoch>.<version>` of the `trust` document.
    trust: String,
    /// What it presents to users above its certificate, if it is a proxy.
    #[serde(default)]
    server_chain: Option<String>,
}

pub(crate) fn route() -> MethodRouter<Controller> {
    post(acknowledge).layer(DefaultBodyLimit::max(4 << 10))
}

async fn acknowledge(
    State(controller): State<Controller>,
    peer: Option<Extension<Verified<Peer>>>,
    body: Bytes,
) -> Response {
    let Some(Extension(peer)) = peer else {
        return refuse(StatusCode::UNAUTHORIZED, "a client certificate of an agent or a proxy is needed");
    };
    if !matches!(peer.id.subject, Subject::Agent { .. } | Subject::Proxy(_)) {
        return refuse(StatusCode::FORBIDDEN, "acknowledgements are of agents and proxies");
    }
    if controller.trust().is_revoked(&peer) {
        return refuse(StatusCode::FORBIDDEN, "the certificate is revoked; join again with a new enrolment token");
    }
    let read = serde_json::from_slice::<Acknowledged>(&body).ok();
    let read = read.and_then(|read| Some((read.trust.parse::<Revision>().ok()?, read.server_chain)));
    let Some((trust, server_chain)) = read else {
        return refuse(StatusCode::BAD_REQUEST, "not {\"trust\": \"<epoch>.<version>\"}");
    };
    if server_chain.as_ref().is_some_and(|chain| chain.len() > 64) {
        return refuse(StatusCode::BAD_REQUEST, "server_chain is not a SHA-256 in hexadecimal");
    }
    let acknowledgement =
        Acknowledgement { trust, authorities: peer.authorities.clone(), server_chain, at: controller.now() };
    match controller.0.stores.members.acknowledge(&peer.id.subject, &acknowledgement).await {
        // So that a member that has renewed knows whether it has said so by its new certificate.
        Ok(()) => Json(serde_json::json!({ "serial": peer.serial })).into_response(),
        Err(error) => {
            controller.0.counts.store_failed();
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}
