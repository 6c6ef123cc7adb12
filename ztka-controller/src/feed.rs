//! The change feed: `GET /v1/documents?from=<feed>`, list then watch, one JSON object per line.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{RawQuery, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post_service},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use ztka_core::{HEADS, PROJECTIONS, ProxyEntry, Status, Subject, Verified};
use ztka_pki::{INSTANCES_PATH, Peer, RENEW_PATH};

use crate::{
    Controller,
    announcements::{Announcing, withdraw},
    figures::{Following, Follows},
    heads, ingest, recordings, rotation, server_certificate,
    store::{FeedEntry, FeedScope},
};

/// Documents in one piece of the answer.
const PAGE: u32 = 100;
/// A bookmark is sent after this long without news: it shows a dead connection, and ends one that may no longer be.
const IDLE: Duration = Duration::from_secs(10);
/// With heads a bookmark comes with each; this long after the last one they are missed.
const IDLE_WITHOUT_HEADS: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedQuery {
    #[serde(default)]
    from: u64,
}

pub(crate) fn refuse(code: StatusCode, message: impl Into<String>) -> Response {
    Status::new(code, message).into_response().map(Body::new).into_response()
}

impl Controller {
    /// For proxies, on the controllers' own listener: documents of every organisation, renewal, certificates for the
    /// users' port, events.
    pub fn proxies(&self) -> Router {
        Router::new()
            .route("/v1/documents", get(documents))
            .route("/v1/announcement", delete(withdraw))
            .route("/v1/events", ingest::events())
            .route("/v1/recordings", recordings::route())
            .route("/v1/server-certificate", server_certificate::route())
            .route("/v1/acknowledgement", rotation::route())
            .route_layer(from_fn_with_state(self.clone(), unexpired))
            .with_state(self.clone())
            .route(RENEW_PATH, post_service(self.renewal()))
    }

    /// For agents, at `agents.<domain>`: what their cluster needs to know, renewal, certificates for further agents of
    /// their cluster, receipts.
    pub fn agents(&self) -> Router {
        Router::new()
            .route("/v1/documents", get(documents))
            .route("/v1/receipts", ingest::receipts())
            .route("/v1/acknowledgement", rotation::route())
            .route_layer(from_fn_with_state(self.clone(), unexpired))
            .with_state(self.clone())
            .route(RENEW_PATH, post_service(self.renewal()))
            .route(INSTANCES_PATH, post_service(self.replicas()))
    }
}

/// A connection lasts for as long as its client likes; its certificate does not. Renewal says so itself, on record.
async fn unexpired(State(controller): State<Controller>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Verified<Peer>>();
    if peer.is_some_and(|peer| peer.not_after <= controller.now()) {
        let message =
            "the certificate has expired; connect with the renewed one, or join again with a new enrolment token";
        return refuse(StatusCode::FORBIDDEN, message);
    }
    next.run(request).await
}

async fn documents(
    State(controller): State<Controller>,
    peer: Option<Extension<Verified<Peer>>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(Extension(peer)) = peer else {
        return refuse(StatusCode::UNAUTHORIZED, "a client certificate of an agent or a proxy is needed");
    };
    let (scope, who, announcing) = match &peer.id.subject {
        Subject::Proxy(proxy) => {
            let announcing = Announcing::of(proxy.clone(), &headers);
            // An older one would take a projection for the whole.
            let scope = match headers.contains_key(&PROJECTIONS) {
                true => FeedScope::Proxies,
                false => FeedScope::Installation,
            };
            (scope, Follows::Proxy(proxy.clone()), Some(announcing))
        }
        Subject::Agent { org, cluster, .. } => {
            let scope = FeedScope::Cluster(org.clone(), cluster.clone());
            (scope, Follows::Cluster(cluster.clone()), None)
        }
        Subject::User { .. } | Subject::Controller(_) => {
            return refuse(StatusCode::FORBIDDEN, "documents are for agents and proxies");
        }
    };
    if controller.trust().is_revoked(&peer) {
        return refuse(StatusCode::FORBIDDEN, "the certificate is revoked; join again with a new enrolment token");
    }
    let Ok(FeedQuery { from }) = serde_urlencoded::from_str(&query.unwrap_or_default()) else {
        return refuse(StatusCode::BAD_REQUEST, "the query is not from=<number>");
    };
    match controller.0.stores.documents.feed_head().await {
        Ok(head) if from > head => {
            return refuse(StatusCode::GONE, "the feed does not reach that far (any more); begin with from=0");
        }
        Ok(_) => {}
        Err(error) => {
            controller.0.counts.store_failed();
            return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
    }
    let head = controller.0.head.subscribe();
    let _following = controller.following(who);
    let proxies = controller.proxies_announced();
    let heads = headers.contains_key(&HEADS).then(|| controller.0.heads.follow());
    let watch = Watch {
        _following,
        controller,
        peer,
        scope,
        from,
        head,
        heads,
        current: false,
        is_looked_at: false,
        announcing,
        proxies,
        told: Arc::default(),
        sent: Instant::now(),
    };
    let pieces = stream::unfold(watch, |mut watch| async move {
        let piece = watch.next().await?;
        Some((Ok::<_, Infallible>(piece), watch))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response()
}

struct Watch {
    _following: Following,
    controller: Controller,
    peer: Verified<Peer>,
    scope: FeedScope,
    from: u64,
    head: watch::Receiver<u64>,
    /// Heads, for who has asked for them.
    heads: Option<heads::Following>,
    /// A head has just told that there is nothing behind `from`.
    is_looked_at: bool,
    /// The last thing sent was a bookmark for `from`.
    current: bool,
    /// The one who follows, if it is a proxy.
    announcing: Option<Announcing>,
    /// The proxies that there are, and what was told of them.
    proxies: watch::Receiver<Arc<[ProxyEntry]>>,
    told: Arc<[ProxyEntry]>,
    /// When something was sent last.
    sent: Instant,
}

impl Watch {
    fn may_go_on(&self) -> bool {
        !self.controller.trust().is_revoked(&self.peer) && self.controller.now() < self.peer.not_after
    }

    /// The next lines; `None` at the end: the peer is revoked or its certificate over, or the store fails.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.may_go_on() {
                return None;
            }
            if let Some(announcing) = &mut self.announcing {
                announcing.announce(&self.controller).await;
            }
            // Looked at before the list, so that the list has everything up to it.
            let head = *self.head.borrow_and_update();
            let documents = &self.controller.0.stores.documents;
            let known = std::mem::take(&mut self.is_looked_at) && self.current && head <= self.from;
            let entries = match known {
                true => Ok(Vec::new()),
                false => documents.feed(&self.scope, self.from, PAGE).await,
            };
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a feed ends");
                    self.controller.0.counts.store_failed();
                    return None;
                }
            };
            let whole = entries.len() < PAGE as usize;
            let mut lines = BytesMut::new();
            let proxies = self.proxies.borrow_and_update().clone();
            if proxies != self.told
                && let Ok(wire) = self.directory(&proxies)
            {
                lines.put_slice(format!("{{\"feed\":{},\"proxies\":{wire}}}\n", self.from).as_bytes());
                self.told = proxies;
            }
            for FeedEntry { feed, wire } in &entries {
                self.from = *feed;
                self.current = false;
                lines.put_slice(format!("{{\"feed\":{feed},\"document\":").as_bytes());
                lines.put_slice(wire);
                lines.put_slice(b"}\n");
            }
            if whole {
                let is_behind = !self.current || head > self.from;
                self.from = self.from.max(head);
                if self.tell_heads(&mut lines) || is_behind {
                    self.current = true;
                    lines.put_slice(self.bookmark().as_bytes());
                }
            }
            if !lines.is_empty() {
                self.sent = Instant::now();
                return Some(lines.freeze());
            }
            let due = self.announcing.as_ref().and_then(Announcing::due);
            let announce = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let idle = if self.heads.is_some() { IDLE_WITHOUT_HEADS } else { IDLE };
            let heads = async {
                match &mut self.heads {
                    Some(heads) => heads.changed().await,
                    None => std::future::pending().await,
                }
            };
            // The senders live as long as the controller, which we hold.
            tokio::select! {
                changed = self.head.changed() => changed.ok()?,
                changed = self.proxies.changed() => changed.ok()?,
                () = announce => {}
                () = heads => self.is_looked_at = true,
                () = sleep_until(self.sent + idle) => {
                    self.sent = Instant::now();
                    return self.may_go_on().then(|| self.bookmark().into());
                }
            }
        }
    }

    /// Heads that are news, behind everything that they name; true if there is one.
    fn tell_heads(&mut self, lines: &mut BytesMut) -> bool {
        let Some(following) = &mut self.heads else { return false };
        let news = following.next(&self.controller.0.heads, &self.scope, self.from);
        for head in &news {
            lines.put_slice(format!("{{\"feed\":{},\"document\":", self.from).as_bytes());
            lines.put_slice(&head.wire);
            lines.put_slice(b"}\n");
        }
        // They were signed by a look at the same feed a moment ago.
        self.is_looked_at = !news.is_empty();
        self.is_looked_at
    }

    /// As it is told: where proxies take what others pass on is no agent's business.
    fn directory(&self, proxies: &[ProxyEntry]) -> serde_json::Result<String> {
        match self.announcing {
            Some(_) => serde_json::to_string(proxies),
            None => {
                let told = |entry: &ProxyEntry| ProxyEntry { peers: None, ..entry.clone() };
                serde_json::to_string(&proxies.iter().map(told).collect::<Vec<_>>())
            }
        }
    }

    fn bookmark(&self) -> String {
        format!("{{\"feed\":{},\"bookmark\":true}}\n", self.from)
    }
}
