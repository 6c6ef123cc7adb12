//! Bodies on their way past the record: what of them is kept, and how it is taken along without holding anything up.

mod content;
pub(crate) mod fields;
mod mend;
mod redact;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame, SizeHint};
use ztka_core::{Decision, DecisionSlot};

pub(crate) use self::{
    content::{About, Content, recorded},
    redact::Rules,
};
use crate::Level;

/// The first bytes of a body, and how many there were in all.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    total: u64,
}

impl Held {
    fn take(&mut self, data: &[u8], limit: usize) {
        let room = limit.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(data.get(..room).unwrap_or(data));
        self.total = self.total.saturating_add(data.len() as u64);
    }
}

/// How the bytes of a body are to be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coding {
    media: Option<HeaderValue>,
    encoding: Option<HeaderValue>,
}

impl Coding {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let header = |name| headers.get(name).cloned();
        Self { media: header(header::CONTENT_TYPE), encoding: header(header::CONTENT_ENCODING) }
    }
}

/// The body of an answer as it goes by.
#[derive(Debug)]
pub(crate) struct Capture {
    coding: Coding,
    held: Held,
    limit: usize,
}

impl Capture {
    pub(crate) fn new(headers: &HeaderMap, limit: usize) -> Self {
        Self { coding: Coding::of(headers), held: Held::default(), limit }
    }

    pub(crate) fn take(&mut self, data: &[u8]) {
        self.held.take(data, self.limit);
    }

    pub(crate) fn content(&self) -> Content<'_> {
        Content::new(&self.coding, &self.held, self.limit)
    }
}

/// The far end of a [`Tap`]: what has come by so far.
#[derive(Debug)]
pub(crate) struct Source {
    coding: Coding,
    held: Arc<Mutex<Held>>,
    limit: usize,
}

impl Source {
    /// Hands what there is to `read`; nothing if no byte has come by.
    pub(crate) fn content<T>(&self, read: impl FnOnce(Content<'_>) -> T) -> Option<T> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        (held.total > 0).then(|| read(Content::new(&self.coding, &held, self.limit)))
    }
}

/// Keeps the beginning of a request's body where its record finds it. Whether it is wanted is known with the first byte: a body
/// is not asked for before the request was decided on.
#[derive(Debug)]
pub struct Tap {
    held: Arc<Mutex<Held>>,
    limit: usize,
    level: Level,
    slot: DecisionSlot,
}

impl Tap {
    pub(crate) fn new(headers: &HeaderMap, limit: usize, level: Level, slot: DecisionSlot) -> (Self, Source) {
        let held = Arc::<Mutex<Held>>::default();
        let source = Source { coding: Coding::of(headers), held: held.clone(), limit };
        (Self { held, limit, level, slot }, source)
    }

    fn is_wanted(&self) -> bool {
        level(self.level, &self.slot) >= Level::Request
    }

    fn take(&self, data: &[u8]) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take(data, self.limit);
    }
}

/// What the audit policy says, or the binding if that asks for more.
pub(crate) fn level(said: Level, slot: &DecisionSlot) -> Level {
    match slot.get() {
        Some(Decision::Allow(grant)) => said.max(grant.audit.map_or(Level::None, Level::from)),
        _ => said,
    }
}

/// The body of a request, of which the audit layer may keep the beginning. It passes on unchanged and unhindered.
#[derive(Debug)]
pub struct Tapped<B> {
    inner: B,
    tap: Option<Tap>,
}

impl<B> Tapped<B> {
    pub(crate) fn new(inner: B, tap: Option<Tap>) -> Self {
        Self { inner, tap }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tapped<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(tap) = &self.tap
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match tap.is_wanted() {
                true => tap.take(data),
                false => self.tap = None,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
