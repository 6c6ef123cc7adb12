//! Bytes that were read for what they mean before they go on.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::Io;

/// What was taken from a writer and has not gone on yet.
///
/// Whoever reads bytes on their way has to take all that it has read: a writer may come back with other bytes, and what was
/// read once must not be read again. What the far side does not take at once waits here; it is never more than was written
/// at a time.
#[derive(Debug, Default)]
pub struct Backlog {
    held: Vec<u8>,
    start: usize,
}

impl Backlog {
    /// Sends on what is held; to be asked before more is read.
    ///
    /// # Errors
    /// That of the far side.
    pub fn poll_drain(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.held.get(self.start..) {
            match ready!(io.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.start += written,
            }
        }
        self.held.clear();
        self.start = 0;
        Poll::Ready(Ok(()))
    }

    /// Sends on all of `piece`, now or later.
    ///
    /// # Errors
    /// That of the far side.
    pub fn write(&mut self, io: &mut Io, cx: &mut Context<'_>, piece: &[u8]) -> io::Result<()> {
        let written = match io.as_mut().poll_write(cx, piece) {
            Poll::Pending => 0,
            Poll::Ready(written) => written?,
        };
        self.held.extend_from_slice(piece.get(written..).unwrap_or_default());
        Ok(())
    }
}
