//! Heads: every ten seconds each follower is told, signed, which documents are the newest.
//!
//! A head is of one organisation and of the time at which this controller has looked at the feed of documents last, up to its
//! end. One that cannot look (the store fails) signs none: what others have published meanwhile it does not know. They are made
//! beside the feed and never on its way, one signature for each organisation whatever the number of its followers, and kept
//! nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use ztka_core::{DocumentHeader, DocumentKind, Head, Newest, OrgId, Revision, SeriesKey};
use ztka_pki::IssueError;

use crate::{Controller, store::FeedScope};

/// Between two heads.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Those that were signed out of turn are not signed again with the next round.
const YOUNG: Duration = Duration::from_secs(5);
/// Signed before those who wait are woken.
const AT_ONCE: usize = 64;

/// What heads are made of, and those that were made last.
#[derive(Debug)]
pub(crate) struct Heads {
    seen: Mutex<Seen>,
    signed: Mutex<BTreeMap<OrgId, Signed>>,
    /// How many were signed.
    count: AtomicU64,
    /// The number of the newest head.
    newest: watch::Sender<u64>,
    /// There may be one to sign before its time.
    wanted: Notify,
    /// Each follower has a clone.
    followed: Arc<()>,
}

impl Default for Heads {
    fn default() -> Self {
        let (seen, signed, newest) = (Mutex::default(), Mutex::default(), watch::Sender::default());
        Self { seen, signed, count: AtomicU64::new(0), newest, wanted: Notify::new(), followed: Arc::default() }
    }
}

/// What this controller has seen in the feed.
#[derive(Debug, Default)]
struct Seen {
    feed: u64,
    /// When it was looked at, up to its end.
    at: Option<Timestamp>,
    installation: BTreeMap<SeriesKey, Revision>,
    orgs: BTreeMap<OrgId, BTreeMap<SeriesKey, Revision>>,
}

/// A head as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    /// Everything up to there in the feed comes before it.
    pub(crate) feed: u64,
    pub(crate) wire: Bytes,
    number: u64,
    issued: Timestamp,
    at: Instant,
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heads {
    /// A document was found at this place in the feed.
    pub(crate) fn note(&self, feed: u64, header: &DocumentHeader) {
        let mut seen = locked(&self.seen);
        seen.feed = seen.feed.max(feed);
        let series = header.series.clone();
        if series.is_projection() {
            return;
        }
        match (series.kind, &series.org) {
            (DocumentKind::Session | DocumentKind::Head, _) => return,
            (_, None) => seen.installation.insert(series, header.revision),
            (_, Some(org)) => seen.orgs.entry(org.clone()).or_default().insert(series, header.revision),
        };
    }

    /// Organisations that are gone have no documents.
    pub(crate) fn forget(&self, orgs: &BTreeSet<OrgId>) {
        let (mut seen, mut signed) = (locked(&self.seen), locked(&self.signed));
        seen.orgs.retain(|org, _| !orgs.contains(org));
        signed.retain(|org, _| !orgs.contains(org));
    }

    /// At `at` everything that there was had been noted,
    /// up to this place in the feed.
    pub(crate) fn looked(&self, at: Timestamp, feed: u64) {
        let mut seen = locked(&self.seen);
        (seen.at, seen.feed) = (Some(at), seen.feed.max(feed));
        let is_new = seen.orgs.len() > locked(&self.signed).len();
        drop(seen);
        if is_new {
            self.wanted.notify_one();
        }
    }

    /// Those of an organisation (or all) that are signed anew since the one with this number.
    fn after(&self, scope: &FeedScope, number: u64) -> Vec<Signed> {
        let signed = locked(&self.signed);
        let is_news = |head: &&Signed| head.number > number;
        match scope {
            FeedScope::Installation | FeedScope::Proxies => signed.values().filter(is_news).cloned().collect(),
            FeedScope::Cluster(org, _) => signed.get(org).filter(is_news).cloned().into_iter().collect(),
        }
    }

    /// The organisations whose heads are due.
    fn due(&self) -> Vec<OrgId> {
        let (seen, signed) = (locked(&self.seen), locked(&self.signed));
        let Some(at) = seen.at else { return Vec::new() };
        let is_due = |org: &&OrgId| {
            signed.get(*org).is_none_or(|last| last.at.elapsed() > YOUNG && (last.issued, last.feed) != (at, seen.feed))
        };
        seen.orgs.keys().filter(is_due).cloned().collect()
    }

    /// What is to be said of an organisation now, from which place of the feed, and when it was so.
    fn of(&self, org: &OrgId) -> Option<(Head, u64, Timestamp)> {
        let seen = locked(&self.seen);
        let all = seen.installation.iter().chain(seen.orgs.get(org)?);
        let newest = all.map(|(SeriesKey { kind, org, subject }, revision)| Newest {
            kind: *kind,
            org: org.clone(),
            subject: subject.clone(),
            revision: *revision,
        });
        Some((Head { newest: newest.collect() }, seen.feed, seen.at?))
    }

    /// Follows heads from now on, and has them signed.
    pub(crate) fn follow(&self) -> Following {
        let following = Following { newest: self.newest.subscribe(), told: 0, _counted: self.followed.clone() };
        self.wanted.notify_one();
        following
    }
}

/// One follower's place among the heads.
#[derive(Debug)]
pub(crate) struct Following {
    newest: watch::Receiver<u64>,
    told: u64,
    _counted: Arc<()>,
}

impl Following {
    /// Returns when there may be a new one. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The heads that are news to this follower, to whom everything up to `from` in the feed was sent; none as long as one of
    /// them names more.
    pub(crate) fn next(&mut self, heads: &Heads, scope: &FeedScope, from: u64) -> Vec<Signed> {
        self.newest.mark_unchanged();
        let news = heads.after(scope, self.told);
        if news.iter().any(|head| head.feed > from) {
            return Vec::new();
        }
        self.told = news.iter().map(|head| head.number).max().unwrap_or(self.told);
        news
    }
}

impl Controller {
    /// Signs heads every [`EVERY`], as long as there is somebody who follows them, until dropped.
    pub(crate) async fn keep_heads(&self) {
        let heads = &self.0.heads;
        let mut next = Instant::now();
        loop {
            if Arc::strong_count(&heads.followed) > 1
                && let Err(error) = self.sign_heads().await
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "heads cannot be signed now");
            }
            next = if next <= Instant::now() { Instant::now() + EVERY } else { next };
            tokio::select! {
                () = sleep_until(next) => {}
                () = heads.wanted.notified() => {}
            }
        }
    }

    /// Signs those that are due.
    async fn sign_heads(&self) -> Result<(), IssueError> {
        let heads = &self.0.heads;
        for some in heads.due().chunks(AT_ONCE) {
            for org in some {
                self.sign_head(org).await?;
            }
            heads.newest.send_replace(heads.count.load(Relaxed));
        }
        Ok(())
    }

    async fn sign_head(&self, org: &OrgId) -> Result<(), IssueError> {
        let heads = &self.0.heads;
        let Some((head, feed, at)) = heads.of(org) else { return Ok(()) };
        let issued = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        let expires = issued.checked_add(self.0.settings.document_life).unwrap_or(Timestamp::MAX);
        // A restore begins under a higher epoch, and its feed behind any place that was given out before.
        let epoch = head.newest.iter().map(|newest| newest.revision.epoch).max().unwrap_or_default();
        let series = SeriesKey { kind: DocumentKind::Head, org: Some(org.clone()), subject: String::new() };
        let header = DocumentHeader { series, revision: Revision { epoch, version: feed }, issued, expires };
        let wire = self.hierarchy().sign_document(header, &head).await?.to_wire().into();
        let number = heads.count.fetch_add(1, Relaxed) + 1;
        let head = Signed { feed, wire, number, issued: at, at: Instant::now() };
        locked(&heads.signed).insert(org.clone(), head);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: DocumentKind, org: Option<&str>, version: u64) -> DocumentHeader {
        let series = SeriesKey { kind, org: org.map(|org| org.parse().unwrap()), subject: String::new() };
        let revision = Revision { epoch: 1, version };
        DocumentHeader { series, revision, issued: Timestamp::UNIX_EPOCH, expires: Timestamp::MAX }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Everything that is due, without its signature.
    fn sign(heads: &Heads) -> Vec<String> {
        let due = heads.due();
        for org in &due {
            let (_, feed, issued) = heads.of(org).unwrap();
            let number = heads.count.fetch_add(1, Relaxed) + 1;
            let head = Signed { feed, wire: Bytes::new(), number, issued, at: Instant::now() };
            locked(&heads.signed).insert(org.clone(), head);
        }
        heads.newest.send_replace(heads.count.load(Relaxed));
        due.iter().map(ToString::to_string).collect()
    }

    fn seen() -> Heads {
        let heads = Heads::default();
        heads.note(1, &header(DocumentKind::Trust, None, 1));
        heads.note(2, &header(DocumentKind::Policy, Some("acme"), 1));
        heads.note(3, &header(DocumentKind::Policy, Some("other"), 1));
        heads.note(4, &header(DocumentKind::Session, Some("acme"), 1));
        heads
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_is_what_was_seen_at_the_last_look() {
        let heads = seen();
        assert!(sign(&heads).is_empty(), "the list is not whole");
        heads.looked(at(1), 0);
        assert_eq!(sign(&heads), ["acme", "other"]);
        let (head, feed, issued) = heads.of(&"acme".parse().unwrap()).unwrap();
        let kinds: Vec<_> = head.newest.iter().map(|newest| newest.kind).collect();
        assert_eq!((&*kinds, feed, issued), (&[DocumentKind::Trust, DocumentKind::Policy][..], 4, at(1)));

        tokio::time::advance(EVERY).await;
        assert!(sign(&heads).is_empty(), "the store fails: nobody has looked again");
        heads.looked(at(11), 0);
        assert_eq!(sign(&heads), ["acme", "other"]);
        heads.note(5, &header(DocumentKind::Policy, Some("new"), 1));
        heads.looked(at(12), 0);
        assert_eq!(sign(&heads), ["new"], "out of turn, and nobody else's");
        heads.forget(&BTreeSet::from(["acme".parse().unwrap()]));
        tokio::time::advance(EVERY).await;
        heads.looked(at(22), 0);
        assert_eq!(sign(&heads), ["new", "other"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_of_what_was_not_sent_to_them_and_nobody_twice() {
        let heads = seen();
        heads.looked(at(1), 0);
        let (mut proxy, mut agent) = (heads.follow(), heads.follow());
        sign(&heads);
        let org = FeedScope::Cluster("acme".parse().unwrap(), "c1".parse().unwrap());
        assert_eq!(agent.next(&heads, &org, 3).len(), 0);
        assert_eq!(agent.next(&heads, &org, 4).len(), 1);
        assert_eq!(agent.next(&heads, &org, 4).len(), 0);
        assert_eq!(proxy.next(&heads, &FeedScope::Proxies, 9).len(), 2);
        tokio::time::advance(EVERY).await;
        heads.looked(at(11), 0);
        sign(&heads);
        agent.changed().await;
        assert_eq!(agent.next(&heads, &org, 4).len(), 1);
        assert_eq!(proxy.next(&heads, &FeedScope::Proxies, 9).len(), 2);
    }
}
