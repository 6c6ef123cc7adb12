//! A stream's receiving half as a body.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use ztka_core::BoxError;

use super::Inflow;

/// What the peer sends on one stream, with `held` kept until the body is dropped.
///
/// Window is given back as chunks are taken. Dropped early, it resets the stream once nobody else holds it.
pub(crate) struct Received<K> {
    stream: Inflow,
    _held: K,
}

impl<K> Received<K> {
    pub(crate) fn new(stream: Inflow, held: K) -> Self {
        Self { stream, _held: held }
    }
}

impl<K> fmt::Debug for Received<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Received").field(&self.stream).finish()
    }
}

impl<K: Unpin> Body for Received<K> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let stream = &mut self.stream;
        while let Some(data) = ready!(stream.poll_data(cx)) {
            let data = match data {
                Ok(data) => data,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            stream.release(data.len());
            // An empty frame only carried the end.
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        Poll::Ready(match ready!(stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
