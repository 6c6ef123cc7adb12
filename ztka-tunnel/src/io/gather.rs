//! Gathers what one poll of an HTTP/2 connection writes, so that it leaves in one write.
//!
//! h2 flushes small frames one by one, and each would be a TLS record and a system call. Here a flush asked for by h2
//! is only noted; whoever polls the connection calls [`Wire::poll_push`] afterwards, and that is the real one.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{BadFrames, FrameGuard};

/// From here on a write goes to the transport before more is taken.
const HIGH: usize = 64 << 10;
/// A larger buffer is not kept where less than the second number of bytes has moved since the last rest.
const SMALL: usize = 2 << 10;
const OFTEN: u64 = 256 << 10;
/// Never more than this is held.
const MAX: usize = 128 << 10;

#[derive(Debug)]
struct State<T> {
    io: T,
    buffer: BytesMut,
    /// Something was written and no flush has succeeded since. TLS may hold ciphertext though it took every byte, so
    /// an empty buffer alone says nothing.
    owed: bool,
    last_read: Instant,
    /// Bytes in both directions.
    moved: u64,
    /// What it was when the tunnel last rested.
    rested: u64,
    /// Bytes read in all.
    received: u64,
    guard: FrameGuard,
    /// Since when the peer owes the rest of a header block.
    head_since: Option<Instant>,
    refused: Option<BadFrames>,
}

impl<T: AsyncWrite + Unpin> State<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.owed = true;
            self.moved += written as u64;
            self.buffer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        // Of a tunnel on which little happens, what a document needed is free at once for the next one.
        if self.buffer.capacity() > SMALL && self.moved - self.rested < OFTEN {
            self.buffer = BytesMut::new();
        }
        if self.owed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.owed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The transport as h2 sees it.
#[derive(Debug)]
pub(crate) struct Gather<T>(Arc<Mutex<State<T>>>);

/// The transport as the one sees it who polls the connection.
#[derive(Debug)]
pub(crate) struct Wire<T>(Arc<Mutex<State<T>>>);

/// `guard` is shown what is read; where it objects, reading fails and [`Wire::refused`] says why.
pub(crate) fn gather<T>(io: T, guard: FrameGuard) -> (Gather<T>, Wire<T>) {
    let (buffer, last_read, moved) = (BytesMut::new(), Instant::now(), 0);
    let (owed, received, head_since, refused) = (false, 0, None, None);
    let state = State { io, buffer, owed, last_read, moved, rested: 0, received, guard, head_since, refused };
    let state = Arc::new(Mutex::new(state));
    (Gather(state.clone()), Wire(state))
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    /// Writes out what was gathered and flushes. To be called after each poll of the connection, by the same task.
    pub(crate) fn poll_push(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_push(cx)
    }

    /// Gives the buffer back if nothing is in it. To be called now and then: ten thousand quiet connections hold none.
    pub(crate) fn rest(&self) {
        let mut state = lock(&self.0);
        state.rested = state.moved;
        if state.buffer.is_empty() {
            state.buffer = BytesMut::new();
        }
    }

    /// When the peer was last heard of.
    pub(crate) fn last_read(&self) -> Instant {
        lock(&self.0).last_read
    }

    /// Bytes that have come and gone, in all.
    pub(crate) fn moved(&self) -> u64 {
        lock(&self.0).moved
    }

    /// Bytes that have come from the peer in all, how many SETTINGS of ours it has acknowledged, and how many streams reset.
    pub(crate) fn heard(&self) -> (u64, u32, u32) {
        let state = lock(&self.0);
        (state.received, state.guard.acknowledged(), state.guard.resets_seen())
    }

    /// Since when the peer owes the rest of a header block, if it does.
    pub(crate) fn head_since(&self) -> Option<Instant> {
        lock(&self.0).head_since
    }

    /// Why nothing more is read from the peer, if that is so.
    pub(crate) fn refused(&self) -> Option<BadFrames> {
        lock(&self.0).refused
    }
}

impl<T: AsyncRead + Unpin> Wire<T> {
    /// Reads what the peer still sends, for nobody, until it ends or fails.
    ///
    /// A socket that is closed with something unread resets its connection, and what the peer has not read by then is lost
    /// to it (RFC 9112 §9.6 tells of it). To be awaited between the end of a connection and the drop of its transport.
    pub(crate) async fn linger(&self) {
        let mut unread = [0; 4 << 10];
        loop {
            let read = poll_fn(|cx| {
                let mut buf = ReadBuf::new(&mut unread);
                let read = Pin::new(&mut lock(&self.0).io).poll_read(cx, &mut buf);
                read.map_ok(|()| buf.filled().len())
            });
            if !matches!(read.await, Ok(1..)) {
                return;
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        let before = buf.filled().len();
        ready!(Pin::new(&mut state.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            let now = Instant::now();
            state.last_read = now;
            state.moved += read.len() as u64;
            state.received += read.len() as u64;
            if let Err(refused) = state.guard.advance(read, now) {
                state.refused = Some(refused);
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused)));
            }
            state.head_since = state.guard.is_within_head().then(|| state.head_since.unwrap_or(now));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if state.buffer.len() >= HIGH
            && let Poll::Ready(Err(error)) = state.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        if state.buffer.len() >= HIGH {
            return Poll::Pending; // `poll_drain` has left its waker
        }
        let taken = data.len().min(MAX - state.buffer.len());
        state.buffer.extend_from_slice(data.get(..taken).unwrap_or_default());
        Poll::Ready(Ok(taken))
    }

    /// Says yes: [`Wire::poll_push`] does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        ready!(state.poll_push(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Counts, and takes a flush only the second time it is asked, like TLS that still holds ciphertext.
    #[derive(Debug)]
    struct Lazy {
        io: DuplexStream,
        writes: usize,
        flushes: usize,
    }

    fn guard() -> FrameGuard {
        FrameGuard::of_server(crate::FloodLimits::TUNNEL, Instant::now())
    }

    impl AsyncWrite for Lazy {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            Pin::new(&mut self.io).poll_write(cx, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes % 2 == 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn many_writes_leave_as_one_and_a_flush_is_owed_until_it_succeeds() {
        let (near, mut far) = duplex(1 << 20);
        let (mut gather, wire) = gather(Lazy { io: near, writes: 0, flushes: 0 }, guard());
        for _ in 0..10 {
            gather.write_all(b"frame").await.unwrap();
            gather.flush().await.unwrap();
        }
        assert_eq!(lock(&wire.0).io.writes, 0);

        poll_fn(|cx| wire.poll_push(cx)).await.unwrap();
        assert_eq!(lock(&wire.0).io.writes, 1);
        assert_eq!(lock(&wire.0).io.flushes, 2);
        let mut received = [0; 50];
        far.read_exact(&mut received).await.unwrap();

        poll_fn(|cx| wire.poll_push(cx)).await.unwrap();
        assert_eq!(lock(&wire.0).io.flushes, 2, "nothing owed, nothing done");
    }

    #[tokio::test]
    async fn a_full_transport_holds_up_the_writer_and_loses_nothing() {
        let (near, mut far) = duplex(1000);
        let (mut gather, wire) = gather(near, guard());
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let write = async {
            gather.write_all(&sent).await.unwrap();
            assert!(lock(&wire.0).buffer.capacity() <= 2 * MAX);
            gather.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(write, far.read_to_end(&mut received));
        read.unwrap();
        assert_eq!(received, sent);
    }
}
