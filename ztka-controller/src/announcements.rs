//! The directory of proxies: what each announces of itself when it follows the feed, and what everybody who does is told.
//!
//! A proxy's announcement is written to the store when it begins to follow and every ten seconds while it does, so that every
//! controller knows of it, and ages out when it is not repeated. Nothing of it is signed: it says where one may try, and
//! whoever tries looks at the certificate there.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use jiff::SignedDuration;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use ztka_core::{PROXY_ADDRESS, PROXY_PEERS, PROXY_ZONE, ProxyEntry, ProxyId};

use crate::Controller;

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
}

/// What a proxy says of itself in the request for its feed. What cannot be read is left out, and logged: a proxy without a
/// zone is better than none.
pub(crate) fn announcement(id: ProxyId, headers: &HeaderMap) -> ProxyEntry {
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

/// One proxy that follows, announced for as long as it does.
#[derive(Debug)]
pub(crate) struct Announcing {
    entry: ProxyEntry,
    due: Instant,
}

impl Announcing {
    pub(crate) fn new(entry: ProxyEntry) -> Self {
        Self { entry, due: Instant::now() }
    }

    /// When it is to be announced again.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Announces what is due.
    pub(crate) async fn announce(&mut self, controller: &Controller) {
        if self.due > Instant::now() {
            return;
        }
        self.due = Instant::now() + AGAIN;
        if let Err(error) = controller.0.stores.members.announce(&self.entry, controller.now()).await {
            // It is believed for longer than until the next time.
            tracing::warn!(error = &error as &dyn std::error::Error, proxy = %self.entry.id, "a proxy cannot be announced");
            controller.0.counts.store_failed();
        }
        if !controller.0.announced.current.borrow().contains(&self.entry) {
            controller.0.announced.news.notify_one();
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
        let Announced { current, news } = &self.0.announced;
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
