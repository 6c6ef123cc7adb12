//! The last words of an upgraded connection whose far side breaks off: a close frame with the reason, in the connection's
//! own protocol.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use ztka_core::{Farewell, Upgrade};

/// Longest reason of a close frame (RFC 6455 §5.5.1).
const MAX_REASON: usize = 123;
/// Close codes (RFC 6455 §7.4.1).
const GOING_AWAY: u16 = 1001;
const INTERNAL_ERROR: u16 = 1011;

/// The far side of an upgraded connection. Where it ends by an error, its reader gets a close frame and then the end, if
/// that can be put behind whole frames; what is written from then on is dropped.
#[derive(Debug)]
pub struct LastWords<T> {
    io: T,
    frames: Frames,
    last: Option<Bytes>,
    said: CancellationToken,
    /// Other errors stay what they are.
    farewells_only: bool,
}

impl<T> LastWords<T> {
    /// Of `io`, which speaks `upgrade`. `said` is cancelled when nothing more will come.
    pub fn new(io: T, upgrade: Option<Upgrade>, said: CancellationToken) -> Self {
        Self { io, frames: Frames::new(upgrade), last: None, said, farewells_only: false }
    }

    /// The same where only the end of a server that stops is told: whatever else fails has to be seen as a failure.
    pub(crate) fn of_farewells(io: T, upgrade: Option<Upgrade>, said: CancellationToken) -> Self {
        Self { farewells_only: true, ..Self::new(io, upgrade, said) }
    }

    fn broke(&mut self, error: io::Error) -> io::Result<()> {
        let tells = !self.farewells_only || Farewell::is(&error);
        let Some(close) = self.frames.close(&error).filter(|_| tells) else { return Err(error) };
        tracing::debug!(%error, "an upgraded connection is closed in its own protocol");
        self.last = Some(close);
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LastWords<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.last.is_none() {
            let before = buf.filled().len();
            match ready!(Pin::new(&mut this.io).poll_read(cx, buf)) {
                Ok(()) => {
                    this.frames.advance(buf.filled().get(before..).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                Err(error) => this.broke(error)?,
            }
        }
        if let Some(last) = &mut this.last {
            let taken = last.len().min(buf.remaining());
            buf.put_slice(last.get(..taken).unwrap_or_default());
            last.advance(taken);
            if taken == 0 {
                this.said.cancel();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for LastWords<T> {
    /// A side that cannot be written to any more is not worth an error: reading it says why, right after.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.last.is_none() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, data)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => self.broke(error)?,
            }
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last.is_none()
            && let Err(error) = ready!(Pin::new(&mut self.io).poll_flush(cx))
        {
            self.broke(error)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last.is_none()
            && let Err(error) = ready!(Pin::new(&mut self.io).poll_shutdown(cx))
        {
            self.broke(error)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Where the frames of one direction end. Payload is skipped, not looked at.
#[derive(Debug)]
struct Frames {
    upgrade: Option<Upgrade>,
    /// Of the header that is not complete.
    header: Vec<u8>,
    /// Of the payload, still to come.
    left: u64,
    /// The far side has closed by itself, and nothing may follow.
    closed: bool,
}

const SPDY_HEADER: usize = 8;
/// Opcode of a WebSocket's close frame.
const CLOSE: u8 = 8;

impl Frames {
    fn new(upgrade: Option<Upgrade>) -> Self {
        Self { upgrade, header: Vec::new(), left: 0, closed: false }
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            self.header.push(*first);
            bytes = rest;
            if let Some(length) = self.length() {
                self.left = length;
                self.closed |=
                    self.upgrade == Some(Upgrade::WebSocket) && self.header.first().map(|b| b & 15) == Some(CLOSE);
                self.header.clear();
            }
        }
    }

    /// Length of the payload, once the header is complete.
    fn length(&self) -> Option<u64> {
        match self.upgrade {
            // RFC 6455 §5.2; a server does not mask, and what masks all the same has four bytes more.
            Some(Upgrade::WebSocket) => {
                let second = *self.header.get(1)?;
                let extended = match second & 0x7f {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                let masked = if second & 0x80 == 0 { 0 } else { 4 };
                let (_, more) = self.header.split_at_checked(2)?;
                let number = more.get(..extended)?;
                (more.len() == extended + masked).then_some(())?;
                Some(match extended {
                    0 => u64::from(second & 0x7f),
                    _ => number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                })
            }
            // Both kinds of frames have their length in 24 bits at the same place (SPDY/3.1 §2.2).
            Some(Upgrade::Spdy31) => match self.header.as_slice() {
                [_, _, _, _, _, a, b, c] => Some(u64::from(u32::from_be_bytes([0, *a, *b, *c]))),
                _ => None,
            },
            None => Some(u64::MAX),
        }
    }

    /// What closes the connection because of `error`, if it is between two frames and not closed.
    fn close(&self, error: &io::Error) -> Option<Bytes> {
        if self.left > 0 || !self.header.is_empty() || self.closed {
            return None;
        }
        let farewell = Farewell::is(error);
        match self.upgrade? {
            Upgrade::WebSocket => {
                let text = error.to_string();
                let end = (0..=text.len().min(MAX_REASON)).rev().find(|end| text.is_char_boundary(*end))?;
                let reason = text.get(..end)?.as_bytes();
                let code = if farewell { GOING_AWAY } else { INTERNAL_ERROR };
                let length = u8::try_from(2 + reason.len()).ok()?;
                Some([&[0x80 | CLOSE, length], &code.to_be_bytes()[..], reason].concat().into())
            }
            // GOAWAY (SPDY/3.1 §2.6.6): every stream was begun with; status OK or INTERNAL_ERROR.
            Upgrade::Spdy31 => {
                let mut frame = vec![0x80, 3, 0, 7, 0, 0, 0, u8::try_from(SPDY_HEADER).ok()?];
                frame.extend_from_slice(&0x7fff_ffff_u32.to_be_bytes());
                frame.extend_from_slice(&(if farewell { 0_u32 } else { 2 }).to_be_bytes());
                Some(frame.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn farewell() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, Farewell::of("the proxy"))
    }

    /// Whether there is a place for a close frame behind each of these pieces.
    fn places(upgrade: Upgrade, bytes: &[u8]) -> Vec<usize> {
        let mut frames = Frames::new(Some(upgrade));
        let mut places = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            frames.advance(&[*byte]);
            if frames.close(&farewell()).is_some() {
                places.push(at + 1);
            }
        }
        // The same in one piece.
        let mut whole = Frames::new(Some(upgrade));
        whole.advance(bytes);
        assert_eq!(whole.close(&farewell()).is_some(), frames.close(&farewell()).is_some());
        places
    }

    #[test]
    fn a_close_frame_comes_only_between_frames() {
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let longer = [&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 2][..], &[7; 2]].concat();
        let masked = [0x82, 0x81, 1, 2, 3, 4, 9];
        let empty = [0x82, 0];
        let all = [&[0x82, 1, 0][..], &empty, &long, &longer, &masked, &[0x88, 2, 3, 0xe8], &empty].concat();
        assert_eq!(places(Upgrade::WebSocket, &all), [3, 5, 265, 277, 284], "none behind a close frame");
        let spdy =
            [&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..], &[0, 0, 0, 1, 0, 0, 0, 0], &[0, 0, 0, 1, 1, 0, 0, 1, 9]];
        assert_eq!(places(Upgrade::Spdy31, &spdy.concat()), [12, 20, 29]);
    }

    #[test]
    fn frames_are_as_their_protocol_has_them() {
        let close = Frames::new(Some(Upgrade::WebSocket)).close(&farewell()).unwrap();
        assert_eq!(&close[..4], [0x88, u8::try_from(close.len()).unwrap() - 2, 3, 0xe9]);
        assert_eq!(&close[4..], b"the proxy stops; connect again");
        let long = io::Error::other("ü".repeat(200));
        let close = Frames::new(Some(Upgrade::WebSocket)).close(&long).unwrap();
        assert_eq!((close.len(), &close[..4]), (4 + 122, &[0x88, 124, 3, 0xf3][..]));
        assert!(std::str::from_utf8(&close[4..]).is_ok());
        let goaway = Frames::new(Some(Upgrade::Spdy31)).close(&farewell()).unwrap();
        assert_eq!(&goaway[..], [0x80, 3, 0, 7, 0, 0, 0, 8, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        assert!(Frames::new(None).close(&farewell()).is_none());
    }
}
