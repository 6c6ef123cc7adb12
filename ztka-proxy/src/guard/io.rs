//! The guard as a stream: what a server reads has passed it.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tokio_util::io::poll_read_buf;

use ztka_tunnel::{FloodLimits, FrameGuard};

use super::{Violation, http1::Http1};

/// Method of the request that stands for a refused one, so that its answer comes in order. No client's request has it.
pub(crate) const REFUSED: &str = "ZTKA-REFUSED";
const STAND_IN: &[u8] = b"ZTKA-REFUSED / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

const PIECE: usize = 16 * 1024;
/// Bytes that a client may send ahead of the answer to its request to upgrade.
const EARLY: usize = 64 * 1024;

/// A client that sends on behind the end of its connection has so long, and so many bytes.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

const WAITING: u8 = 0;
const GRANTED: u8 = 1;
const DENIED: u8 = 2;

/// What the server and the guard of its connection tell each other. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Framing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    violation: OnceLock<Violation>,
    broken: AtomicBool,
    upgrade: AtomicU8,
    waker: AtomicWaker,
}

impl Framing {
    /// Why the connection was refused, if it was.
    pub fn violation(&self) -> Option<Violation> {
        self.0.violation.get().copied()
    }

    /// Why the body of the request under way broke off, if it is that which was refused.
    pub fn broken_body(&self) -> Option<Violation> {
        self.violation().filter(|_| self.0.broken.load(Ordering::Acquire))
    }

    /// The answer to the request to upgrade is 101: what comes from now on is not HTTP, bytes that came early first.
    pub fn upgrade_granted(&self) {
        self.decide(GRANTED);
    }

    /// The answer is anything else: whatever comes on this connection is dropped.
    pub fn upgrade_denied(&self) {
        self.decide(DENIED);
    }

    fn decide(&self, answer: u8) {
        let _ = self.0.upgrade.compare_exchange(WAITING, answer, Ordering::AcqRel, Ordering::Acquire);
        self.0.waker.wake();
    }
}

enum Checker {
    Http1(Http1),
    Http2(FrameGuard),
    /// Refused: nothing passes any more, and what comes is dropped.
    Closed,
}

/// A connection of which only well-framed requests can be read. Writes go straight through.
pub struct Guarded<T> {
    io: T,
    checker: Checker,
    /// Bytes read and not handed out; the first `released` may be.
    held: BytesMut,
    released: usize,
    /// Where in `held` the current message begins, if none of it has been handed out.
    message: Option<usize>,
    /// The violation that cannot be answered any more.
    failed: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    head_time: Duration,
    framing: Framing,
    lingering: Option<Lingering>,
}

/// The end of a connection whose peer still sends.
struct Lingering {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl<T> Guarded<T> {
    /// Guards a server of HTTP/1.1. Within 10 s of the first byte a head has to be complete, the first within 10 s of now.
    pub fn http1(io: T) -> Self {
        Self::new(io, Checker::Http1(Http1::default()))
    }

    /// Guards a server of HTTP/2 against its client; preface and header blocks have 10 s.
    pub fn http2_server(io: T, limits: FloodLimits) -> Self {
        Self::new(io, Checker::Http2(FrameGuard::of_client(limits, Instant::now())))
    }

    fn new(io: T, checker: Checker) -> Self {
        let head_time = FrameGuard::HEAD_TIME;
        let deadline = Some(Box::pin(sleep(head_time)));
        let (held, framing) = (BytesMut::new(), Framing::default());
        let (released, message, failed, lingering) = (0, None, false, None);
        Self { io, checker, held, released, message, failed, deadline, head_time, framing, lingering }
    }

    /// The handle by which the server hears of a violation and tells of upgrades.
    pub fn framing(&self) -> Framing {
        self.framing.clone()
    }

    /// Lets pass what may, of what is held.
    fn check(&mut self) {
        let Checker::Http1(checker) = &mut self.checker else { return };
        loop {
            let pending = self.held.get(self.released..).unwrap_or_default();
            if pending.is_empty() {
                return;
            }
            let at_head = checker.at_head();
            match checker.advance(pending) {
                Ok(0) => return,
                Ok(count) => {
                    if at_head {
                        self.message = Some(self.released);
                    }
                    self.released += count;
                }
                Err(violation) => {
                    let begin = if at_head { Some(self.released) } else { self.message };
                    return self.refuse(violation, begin);
                }
            }
        }
    }

    /// Takes back the message that begins at `begin`, and has the server answer in its place if it knows nothing of it.
    fn refuse(&mut self, violation: Violation, begin: Option<usize>) {
        let _ = self.framing.0.violation.set(violation);
        self.checker = Checker::Closed;
        self.deadline = None;
        match begin {
            Some(begin) => {
                self.held.truncate(begin);
                self.held.extend_from_slice(STAND_IN);
            }
            None => {
                self.held.truncate(self.released);
                self.failed = true;
                self.framing.0.broken.store(true, Ordering::Release);
            }
        }
        self.released = self.held.len();
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.released.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
        self.released -= count;
        self.message = self.message.and_then(|begin| begin.checked_sub(count));
        if self.held.is_empty() {
            self.held = BytesMut::new(); // an idle connection holds no memory
        }
    }

    /// Whether a head has been begun and is not complete.
    fn owes_head(&self) -> bool {
        match &self.checker {
            Checker::Http1(checker) => checker.at_head() && self.held.len() > self.released,
            Checker::Http2(checker) => checker.is_within_head(),
            Checker::Closed => false,
        }
    }

    /// Sets the time limit of a head, or takes it back.
    fn watch_head(&mut self) {
        if !self.owes_head() {
            self.deadline = None;
        } else if self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(self.head_time)));
        }
    }

    /// Ready when a head is overdue.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        self.deadline = None;
        match &self.checker {
            Checker::Http1(_) if self.owes_head() => self.refuse(Violation::SlowHead, Some(self.released)),
            Checker::Http2(_) if self.owes_head() => return Poll::Ready(Err(self.fail(Violation::SlowHead))),
            // Nothing was asked at all: end of stream.
            _ => self.checker = Checker::Closed,
        }
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self, violation: Violation) -> io::Error {
        let _ = self.framing.0.violation.set(violation);
        self.checker = Checker::Closed;
        self.failed = true;
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }
}

impl<T: AsyncRead + Unpin> Guarded<T> {
    /// Reads without a copy where the bytes need only be counted.
    fn poll_free(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        match &mut self.checker {
            Checker::Http2(checker) => match checker.advance(read, Instant::now()) {
                Ok(()) => self.watch_head(),
                Err(violation) => {
                    buf.set_filled(before);
                    return Poll::Ready(Err(self.fail(violation.into())));
                }
            },
            Checker::Http1(checker) => {
                let free = usize::try_from(checker.free()).unwrap_or(usize::MAX);
                let (body, rest) = read.split_at(read.len().min(free));
                self.message = None;
                let passed = checker.advance(body).unwrap_or(0); // counting bytes breaks no rule
                self.held.extend_from_slice(rest);
                buf.set_filled(before + passed);
                self.check();
                self.watch_head();
            }
            Checker::Closed => {}
        }
        Poll::Ready(Ok(()))
    }

    /// True if a client of HTTP/1.1 may be within a message of which nothing more will be read.
    fn is_interrupted(&self) -> bool {
        let is_http = self.framing.0.upgrade.load(Ordering::Acquire) != GRANTED;
        match &self.checker {
            Checker::Http1(checker) => is_http && !(checker.at_head() && self.held.is_empty()),
            Checker::Http2(_) => false,
            Checker::Closed => is_http && self.framing.violation().is_some(),
        }
    }

    /// Reads what the peer still sends, for nobody, until it ends: a socket that is closed with something unread resets its
    /// connection, and the answer would be lost to who has not read it yet (RFC 9112 §9.6). With bounds, for it may never end.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let start = || Lingering { until: Box::pin(sleep(LINGER)), left: LINGER_BYTES };
        let lingering = self.lingering.get_or_insert_with(start);
        let mut scrap = [0; 4096];
        while lingering.left > 0 {
            let mut scrap = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.io).poll_read(cx, &mut scrap) {
                Poll::Ready(Ok(())) if !scrap.filled().is_empty() => {
                    lingering.left = lingering.left.saturating_sub(scrap.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => return lingering.until.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }

    /// Reads and drops, until the peer ends.
    fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scrap = [0; 4096];
        loop {
            let mut scrap = ReadBuf::new(&mut scrap);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut scrap))?;
            if scrap.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.released > 0 {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            if this.failed {
                let violation = this.framing.violation().unwrap_or(Violation::Malformed("refused"));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
            }
            let Checker::Http1(checker) = &mut this.checker else {
                if matches!(this.checker, Checker::Closed) {
                    // End of stream would have the server give up the answer that it is writing.
                    return match this.framing.violation() {
                        Some(_) => this.poll_drop(cx),
                        None => Poll::Ready(Ok(())),
                    };
                }
                return match this.poll_free(cx, buf) {
                    Poll::Pending => match this.poll_deadline(cx) {
                        Poll::Ready(overdue) => Poll::Ready(overdue),
                        Poll::Pending => Poll::Pending,
                    },
                    done => done,
                };
            };
            if checker.is_upgrading() {
                this.framing.0.waker.register(cx.waker());
                match this.framing.0.upgrade.load(Ordering::Acquire) {
                    GRANTED => {
                        checker.switched();
                        this.check();
                        continue;
                    }
                    DENIED => return this.poll_drop(cx),
                    _ if this.held.len() >= EARLY => return Poll::Pending,
                    _ => {}
                }
            } else if checker.free() > 0 && this.held.is_empty() {
                ready!(this.poll_free(cx, buf))?;
                return Poll::Ready(Ok(()));
            }
            if this.held.capacity() - this.held.len() < PIECE / 4 {
                this.held.reserve(PIECE);
            }
            match poll_read_buf(Pin::new(&mut this.io), cx, &mut this.held) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(read) => {
                    read?;
                    this.check();
                    this.watch_head();
                }
                Poll::Pending => ready!(this.poll_deadline(cx))?,
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends our direction, and waits a moment for the peer where it may be in the middle of something.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if !self.is_interrupted() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests;
