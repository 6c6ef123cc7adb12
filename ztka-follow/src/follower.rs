//! Follows the controller's change feed: list, then watch from where one is.

use std::{future::Future, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ztka_core::{BoxError, SignedDocument};

use crate::{Channel, Documents};

/// A policy with thousands of bindings stays well below.
const LONGEST_LINE: usize = 32 * 1024 * 1024;
/// Backoff doubles from the first to the second; full jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// One line of `GET /v1/documents?from=<feed>`: a document, or (without one) a bookmark: all up to here was sent.
#[derive(Debug, Deserialize, Serialize)]
pub struct Line {
    /// Place in the feed; the next connection begins behind it.
    pub feed: u64,
    /// A document in the form of its wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<RawValue>>,
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
}

impl Follower {
    /// Follows the controller behind `channel`.
    pub fn new(channel: Channel, documents: Documents) -> Self {
        let feed = documents.start();
        Self { channel, documents, feed }
    }

    /// Follows until `shutdown`, through every break; `current` is called at each bookmark, when all is known.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>, mut current: impl FnMut()) {
        let follow = async {
            let mut backoff = BACKOFF.0;
            loop {
                let reason = match self.follow(&mut current, &mut backoff).await {
                    Ok(()) => "the controller ended the feed".to_owned(),
                    Err(error) => chain(&*error),
                };
                let wait = backoff.mul_f64(rand::random());
                tracing::warn!(controller = self.channel.address(), reason, ?wait, "not following the controller");
                tokio::time::sleep(wait).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        };
        tokio::select! {
            () = follow => {}
            () = shutdown => {}
        }
    }

    async fn follow(&mut self, current: &mut impl FnMut(), backoff: &mut Duration) -> Result<(), BoxError> {
        let request = Request::get(format!("/v1/documents?from={}", self.feed)).body(Full::default())?;
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
        let mut lines = Lines::new(response);
        while let Some(line) = lines.next().await? {
            *backoff = BACKOFF.0;
            self.take(&line, current)?;
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8], current: &mut impl FnMut()) -> Result<(), BoxError> {
        let line: Line = serde_json::from_slice(line)?;
        if let Some(wire) = &line.document {
            let document = SignedDocument::from_wire(wire.get().as_bytes())?;
            let series = document.header().series.clone();
            // One bad document does not keep the others from us.
            if let Err(error) = self.documents.accept(document) {
                tracing::warn!(kind = %series.kind, subject = series.subject, %error, "a document is refused");
            }
        }
        self.feed = line.feed;
        if line.bookmark {
            self.documents.keep_feed(line.feed);
            current();
        }
        Ok(())
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

struct Lines {
    body: Incoming,
    held: BytesMut,
    searched: usize,
}

impl Lines {
    fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), held: BytesMut::new(), searched: 0 }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            let fresh = self.held.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(self.searched + at).freeze();
                self.held.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.held.len() > LONGEST_LINE {
                return Err("a line of the feed is longer than any document".into());
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
