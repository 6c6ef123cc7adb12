//! Follows the controller's change feed: list, then watch from where one is.

use std::{collections::HashMap, future::Future, mem, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use ztka_core::{
    BoxError, DocumentKind, HEADS, HostPort, PROJECTIONS, PROXY_ADDRESS, PROXY_PEERS, PROXY_STOPS, PROXY_ZONE,
    ProxyEntry, Rejected, SeriesKey, SignedDocument, Zone,
};

use crate::{Channel, Documents};

/// A policy with thousands of bindings stays well below; what is longer is left out.
const LONGEST_LINE: usize = 32 * 1024 * 1024;
/// Backoff doubles from the first to the second; full jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// Proxies are no longer believed to be there when nothing was heard for so long.
const PROXIES_LIFE: Duration = Duration::from_secs(600);
/// A proxy that stops waits for its controller no longer, and for the feed that it begins again.
const WITHDRAW: Duration = Duration::from_secs(2);
const BEGIN_AGAIN: Duration = Duration::from_secs(1);
/// Sessions that are over are looked for this often.
const FORGET: Duration = Duration::from_secs(600);

/// One line of `GET /v1/documents?from=<feed>`: a document, the proxies that there are, or a bookmark: all up to here was
/// sent.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Line {
    /// Place in the feed; the next connection begins behind it.
    pub feed: u64,
    /// A document in the form of its wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<RawValue>>,
    /// Each proxy that follows the controllers now, a [`ProxyEntry`]; sent at the beginning and whenever it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<Vec<Box<RawValue>>>,
    /// True for a bookmark.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bookmark: bool,
}

/// Keeps [`Documents`] up to date.
#[derive(Debug)]
pub struct Follower {
    channel: Channel,
    documents: Documents,
    feed: u64,
    /// Refused for a reason that may pass: our clock is wrong, or trust in the signing key is still to come.
    refused: HashMap<SeriesKey, SignedDocument>,
    /// There was something that this version cannot read, and a later one is to ask for again.
    unread: bool,
    /// The last head was refused, and that was said.
    head_refused: bool,
    announced: (Option<Zone>, Option<HostPort>),
    announced_to_peers: Option<HostPort>,
    /// It is in the directory, to be taken out of it at the end.
    announces: bool,
    proxies: watch::Sender<Arc<[ProxyEntry]>>,
    heard: watch::Sender<()>,
}

/// True if the same document may be believed later. Of a session that is over nothing is missing.
fn may_pass(error: Rejected, kind: DocumentKind) -> bool {
    match error {
        Rejected::Signature | Rejected::Future => true,
        Rejected::Expired => kind != DocumentKind::Session,
        Rejected::Unreadable | Rejected::Rollback | Rejected::Foreign => false,
    }
}

/// Says that nobody is to look for this proxy any more.
async fn withdraw(channel: &Channel) {
    let Ok(request) = Request::delete("/v1/announcement").body(Full::default()) else { return };
    match timeout(WITHDRAW, channel.send(request)).await {
        Ok(Ok(response)) if response.status().is_success() => {}
        Ok(Ok(response)) => tracing::info!(status = %response.status(), "this proxy ages out of the directory"),
        Ok(Err(error)) => tracing::info!(%error, "this proxy ages out of the directory"),
        Err(_) => tracing::info!("the controller does not answer; this proxy ages out of the directory"),
    }
}

impl Follower {
    /// Follows the controller behind `channel`.
    pub fn new(channel: Channel, documents: Documents) -> Self {
        let feed = documents.start();
        Self {
            channel,
            documents,
            feed,
            refused: HashMap::new(),
            unread: false,
            head_refused: false,
            announced: (None, None),
            announced_to_peers: None,
            announces: false,
            proxies: watch::Sender::default(),
            heard: watch::Sender::default(),
        }
    }

    /// Says of itself, if this is a proxy, where it is and at which address it and no other is reached; and at the end that
    /// it stops.
    #[must_use]
    pub fn announcing(mut self, zone: Option<Zone>, address: Option<HostPort>) -> Self {
        (self.announced, self.announces) = ((zone, address), true);
        self
    }

    /// Says where this proxy takes what others pass on to it.
    #[must_use]
    pub fn announcing_to_peers(mut self, address: Option<HostPort>) -> Self {
        self.announced_to_peers = address;
        self
    }

    /// The proxies that there are, as far as the controller has said; none if it has not been heard for ten minutes.
    pub fn proxies(&self) -> watch::Receiver<Arc<[ProxyEntry]>> {
        self.proxies.subscribe()
    }

    /// Follows until `shutdown`, through every break; `current` is called at each bookmark, when all is known. What is
    /// over is forgotten meanwhile. One that announces itself is taken out of the directory before this returns, if the
    /// controller answers soon.
    pub async fn run(self, shutdown: impl Future<Output = ()>, current: impl FnMut()) {
        self.run_until(shutdown, std::future::ready(()), current).await;
    }

    /// The same for one that has something open when it is to stop: it follows until `over`, so that what is revoked meanwhile ends
    /// at once. One that announces itself is taken out of the directory at `shutdown`, and does not come back into it: its feed is
    /// begun again with the header [`PROXY_STOPS`], however often and at whichever controller.
    pub async fn run_until(
        mut self,
        shutdown: impl Future<Output = ()>,
        over: impl Future<Output = ()>,
        mut current: impl FnMut(),
    ) {
        let (documents, channel, announces) = (self.documents.clone(), self.channel.clone(), self.announces);
        let forget = async {
            loop {
                tokio::time::sleep(FORGET).await;
                documents.forget_expired_sessions();
            }
        };
        let (proxies, mut heard) = (self.proxies.clone(), self.heard.subscribe());
        let age = async {
            loop {
                match timeout(PROXIES_LIFE, heard.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => std::future::pending().await,
                    Err(_) => drop(proxies.send_replace(Arc::default())),
                }
            }
        };
        let (stops, begun_again) = (watch::Sender::new(false), Notify::new());
        let follow = async {
            let (mut backoff, mut told) = (BACKOFF.0, stops.subscribe());
            loop {
                let stops = told.borrow_and_update().then_some(&begun_again);
                let followed = tokio::select! {
                    followed = self.follow(stops, &mut current, &mut backoff) => followed,
                    // A line that has come in part comes again, behind the last one that was taken.
                    Ok(()) = told.changed() => continue,
                };
                let reason = match followed {
                    Ok(()) => "the controller ended the feed".to_owned(),
                    Err(error) => chain(&*error),
                };
                let wait = backoff.mul_f64(rand::random());
                tracing::warn!(controller = self.channel.address(), reason, ?wait, "not following the controller");
                tokio::time::sleep(wait).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        };
        let stop = async {
            shutdown.await;
            if announces {
                // First the feed by which nobody announces it, then what was announced: in this order nothing brings it back.
                stops.send_replace(true);
                let _ = timeout(BEGIN_AGAIN, begun_again.notified()).await;
                withdraw(&channel).await;
            }
            over.await;
        };
        tokio::select! {
            () = follow => {}
            () = forget => {}
            () = age => {}
            () = stop => {}
        }
    }

    /// Follows to the end of one feed; with `stops`, which is told when it has begun, as one that is not to be announced.
    async fn follow(
        &mut self,
        stops: Option<&Notify>,
        current: &mut impl FnMut(),
        backoff: &mut Duration,
    ) -> Result<(), BoxError> {
        let mut request = Request::get(format!("/v1/documents?from={}", self.feed)).body(Full::default())?;
        request.headers_mut().insert(&HEADS, HeaderValue::from_static("1"));
        // Agents are given none but their own, whatever they ask for.
        request.headers_mut().insert(&PROJECTIONS, HeaderValue::from_static("1"));
        let (zone, address) = &self.announced;
        if let Some(zone) = zone {
            request.headers_mut().insert(&PROXY_ZONE, zone.as_str().parse()?);
        }
        if let Some(address) = address {
            request.headers_mut().insert(&PROXY_ADDRESS, address.to_string().parse()?);
        }
        if let Some(address) = &self.announced_to_peers {
            request.headers_mut().insert(&PROXY_PEERS, address.to_string().parse()?);
        }
        if stops.is_some() {
            request.headers_mut().insert(&PROXY_STOPS, HeaderValue::from_static("1"));
        }
        let response = self.channel.send(request).await?;
        match response.status() {
            StatusCode::OK => {}
            // What we ask for is no longer kept, or never was (a restored controller): begin anew.
            StatusCode::GONE => {
                self.feed = 0;
                return Err("the controller no longer knows our place in its feed; beginning anew".into());
            }
            status => return Err(format!("the controller answered {status}").into()),
        }
        tracing::info!(controller = self.channel.address(), from = self.feed, "following the controller");
        if let Some(begun) = stops {
            begun.notify_one();
        }
        let mut lines = Lines::new(response);
        while let Some(line) = lines.next().await? {
            *backoff = BACKOFF.0;
            match line {
                Ok(line) => self.take(&line, current),
                Err(TooLong) => self.leave_out("it is longer than any that is believed"),
            }
        }
        Ok(())
    }

    /// What one organisation has brought into the feed does not keep the others' documents from us.
    pub(crate) fn leave_out(&mut self, why: &str) {
        let from = self.feed;
        tracing::error!(from, why, "a line of the feed is left out; look for what the controller has published");
        self.unread = true;
    }

    pub(crate) fn take(&mut self, line: &[u8], current: &mut impl FnMut()) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return self.leave_out("it is not what a line of the feed looks like");
        };
        self.heard.send_replace(());
        if let Some(proxies) = &line.proxies {
            // One that cannot be read does not keep the others from us.
            let read = proxies.iter().filter_map(|proxy| serde_json::from_str(proxy.get()).ok());
            self.proxies.send_replace(read.collect());
        }
        if let Some(wire) = &line.document {
            // One bad document does not keep the others from us.
            match SignedDocument::from_wire(wire.get().as_bytes()) {
                Ok(document) => self.believe(document),
                Err(error) => {
                    tracing::warn!(feed = line.feed, %error, "a document cannot be read; is this version too old?");
                    self.unread = true;
                }
            }
        }
        self.feed = line.feed;
        if line.bookmark {
            let mut refused: Vec<_> = mem::take(&mut self.refused).into_values().collect();
            // Trust first: it says who may have signed the others.
            refused.sort_by_key(|document| document.header().series.kind);
            refused.into_iter().for_each(|document| self.believe(document));
            // A restart is to begin before what is still missing, since nobody sends it again behind it.
            if self.refused.is_empty() && !self.unread {
                self.documents.keep_feed(line.feed);
            }
            current();
        }
    }

    fn believe(&mut self, document: SignedDocument) {
        let series = document.header().series.clone();
        if series.kind == DocumentKind::Head {
            return self.believe_head(document);
        }
        match self.documents.accept(document.clone()) {
            Ok(_) => drop(self.refused.remove(&series)),
            Err(error) => {
                tracing::warn!(kind = %series.kind, subject = series.subject, %error, "a document is refused");
                if may_pass(error, series.kind) {
                    self.refused.insert(series, document);
                }
            }
        }
    }

    /// Another one comes in a moment: none is tried again. One that is older than another controller's tells nothing.
    fn believe_head(&mut self, document: SignedDocument) {
        match self.documents.accept(document) {
            Ok(_) => self.head_refused = false,
            Err(Rejected::Rollback) => {}
            Err(error) => {
                if !mem::replace(&mut self.head_refused, true) {
                    tracing::warn!(%error, "heads are refused: what is known here is taken for older than it may be");
                }
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// In the place of a line that is longer than [`LONGEST_LINE`].
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct TooLong;

/// Lines as they come; of one that is too long nothing is held.
pub(crate) struct Lines<B> {
    body: B,
    held: BytesMut,
    searched: usize,
    skipping: bool,
}

impl<B> Lines<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    pub(crate) fn new(response: Response<B>) -> Self {
        Self { body: response.into_body(), held: BytesMut::new(), searched: 0, skipping: false }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Result<Bytes, TooLong>>, BoxError> {
        loop {
            let fresh = self.held.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(self.searched + at).freeze();
                self.held.advance(1);
                self.searched = 0;
                let is_whole = !mem::take(&mut self.skipping) && line.len() <= LONGEST_LINE;
                return Ok(Some(if is_whole { Ok(line) } else { Err(TooLong) }));
            }
            self.skipping |= self.held.len() > LONGEST_LINE;
            if self.skipping {
                self.held = BytesMut::new();
            }
            self.searched = self.held.len();
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Into::into)?.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
