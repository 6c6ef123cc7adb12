//! Bodies of requests and answers: all at once, the same piece again and again, or one piece and then silence.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A body that costs next to nothing to make.
#[derive(Debug)]
pub struct Payload {
    piece: Bytes,
    left: u64,
    then: Then,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    /// Ends, and the length is known before.
    Known,
    /// Ends, and nobody is told when: chunked, as a log is.
    Ends,
    /// Stays open until the client leaves.
    Quiet,
}

impl Payload {
    /// Nothing at all.
    pub(crate) fn none() -> Self {
        Self::whole(Bytes::new())
    }

    pub(crate) fn whole(piece: Bytes) -> Self {
        Self { left: piece.len() as u64, piece, then: Then::Known }
    }

    /// `piece` over and over until there were `size` bytes.
    pub(crate) fn repeated(piece: Bytes, size: u64) -> Self {
        Self { piece, left: size, then: Then::Ends }
    }

    /// The same with its length said before.
    pub(crate) fn sized(piece: Bytes, size: u64) -> Self {
        Self { piece, left: size, then: Then::Known }
    }

    /// `piece`, then nothing more and no end.
    pub(crate) fn quiet(piece: Bytes) -> Self {
        Self { left: piece.len() as u64, piece, then: Then::Quiet }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return match self.then {
                // The server watches the connection beside, which is all that can still happen.
                Then::Quiet => Poll::Pending,
                Then::Known | Then::Ends => Poll::Ready(None),
            };
        }
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.piece.len());
        self.left -= take as u64;
        Poll::Ready(Some(Ok(Frame::data(self.piece.slice(..take)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.then != Then::Quiet
    }

    fn size_hint(&self) -> SizeHint {
        match self.then {
            Then::Known => SizeHint::with_exact(self.left),
            Then::Ends | Then::Quiet => SizeHint::default(),
        }
    }
}
