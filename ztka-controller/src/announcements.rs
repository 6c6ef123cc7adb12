//! The directory of proxies: what each announces of itself when it follows the feed, and what everybody who does is told.
//!
//! A proxy's announcement is written to the store when it begins to follow and every ten seconds while it does, so that every
//! controller knows of it, and ages out when it is not repeated. One that stops begins its feed again with a header that says so,
//! by which no controller announces it, and takes its announcement back. Nothing of it is signed: it says where one may try, and
//! whoever tries looks at the certificate there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Extension, extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use jiff::SignedDuration;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use ztka_core::{PROXY_ADDRESS, PROXY_PEERS, PROXY_STOPS, PROXY_ZONE, ProxyEntry, ProxyId, Subject, Verified};
use ztka_pki::Peer;

use crate::{Controller, feed::refuse};

/// An announcement is repeated after this.
const AGAIN: Duration = Duration::from_secs(10);
/// An announcement is believed for so long. Longer than controllers' clocks are apart, and than a store is away.
const LIFE: SignedDuration = SignedDuration::from_secs(45);
/// What was announced to other controllers is looked at this often.
const LOOK: Duration = Duration::from_secs(3);

/// What is known of proxies.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    current: watch::Sender<Arc<[ProxyEntry]>>,
    news: Notify,
    /// When each proxy that stops has said so here: it is not announced again by a feed of before that ends late.
    withdrawn: Mutex<HashMap<ProxyId, Instant>>,
}

/// What a proxy says of itself in the request for its feed. What cannot be read is left out, and logged: a proxy without a
/// zone is better than none.
fn announcement(id: ProxyId, headers: &HeaderMap) -> ProxyEntry {
    fn read<T: std::str::FromStr>(id: &ProxyId, headers: &HeaderMap, name: &http::HeaderName) -> Option<T> {
        let value = headers.get(name)?;
        let read = value.to_str().ok().and_then(|text| text.parse().ok());
        if read.is_none() {
            tracing::warn!(proxy = %id, header = %name, ?value, "what a proxy announces cannot be read");
        }
        read
    }
    let (zone, address) = (read(&id, headers, &PROXY_ZONE), read(&id, headers, &PROXY_ADDRESS));
    let peers = read(&id, headers, &PROXY_PEERS);
    ProxyEntry { id, zone, address, peers }
}

/// One proxy that follows, announced for as long as it does unless it stops.
#[derive(Debug)]
pub(crate) struct Announcing {
    entry: ProxyEntry,
    begun: Instant,
    due: Option<Instant>,
}

impl Announcing {
    /// The proxy `id`, by the headers of its request.
    pub(crate) fn of(id: ProxyId, headers: &HeaderMap) -> Self {
        let begun = Instant::now();
        let due = (!headers.contains_key(&PROXY_STOPS)).then_some(begun);
        Self { entry: announcement(id, headers), begun, due }
    }

    /// When it is to be announced again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Announces what is due.
    pub(crate) async fn announce(&mut self, controller: &Controller) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.due = Some(Instant::now() + AGAIN);
        let announced = &controller.0.announced;
        let withdrawn = announced.withdrawn.lock().unwrap_or_else(PoisonError::into_inner).get(&self.entry.id).copied();
        if withdrawn.is_some_and(|withdrawn| withdrawn >= self.begun) {
            return;
        }
        if let Err(error) = controller.0.stores.members.announce(&self.entry, controller.now()).await {
            // It is believed for longer than until the next time.
            tracing::warn!(error = &error as &dyn std::error::Error, proxy = %self.entry.id, "a proxy cannot be announced");
            controller.0.counts.store_failed();
        }
        if !announced.current.borrow().contains(&self.entry) {
            announced.news.notify_one();
        }
    }
}

impl Controller {
    /// The proxies that there are; changes are seen.
    pub(crate) fn proxies_announced(&self) -> watch::Receiver<Arc<[ProxyEntry]>> {
        self.0.announced.current.subscribe()
    }

    /// Looks at what is announced, until dropped.
    pub(crate) async fn follow_announcements(&self) {
        let Announced { current, news, .. } = &self.0.announced;
        loop {
            match self.0.stores.members.announced(self.now() - LIFE).await {
                Ok(proxies) => {
                    current.send_if_modified(|known| {
                        let is_news = **known != *proxies;
                        if is_news {
                            *known = proxies.into();
                        }
                        is_news
                    });
                }
                // Until the store is back, what was known is.
                Err(_) => self.0.counts.store_failed(),
            }
            let _ = timeout(LOOK, news.notified()).await;
        }
    }
}

/// `DELETE /v1/announcement`: the proxy stops, and nobody is to look for it any more.
pub(crate) async fn withdraw(
    State(controller): State<Controller>,
    peer: Option<Extension<Verified<Peer>>>,
) -> Response {
    let Some(Extension(peer)) = peer else {
        return refuse(StatusCode::UNAUTHORIZED, "a client certificate of a proxy is needed");
    };
    let Subject::Proxy(proxy) = &peer.id.subject else {
        return refuse(StatusCode::FORBIDDEN, "only proxies announce themselves");
    };
    let announced = &controller.0.announced;
    announced.withdrawn.lock().unwrap_or_else(PoisonError::into_inner).insert(proxy.clone(), Instant::now());
    if let Err(error) = controller.0.stores.members.withdraw(proxy, controller.now()).await {
        tracing::warn!(error = &error as &dyn std::error::Error, %proxy, "a proxy that stops ages out");
        controller.0.counts.store_failed();
        return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    }
    announced.news.notify_one();
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
