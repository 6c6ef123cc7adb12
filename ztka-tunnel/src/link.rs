//! What both ends do beside polling their HTTP/2 connection: push writes out, and notice a dead peer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{
    BadFrames, FrameGuard, Settings, TunnelError,
    io::Wire,
    stream::memory::{Share, Windows},
};

/// Where less than this has come and gone since a PING, it or its answer is not behind all the rest on a slow network.
const BUSY: u64 = 64 << 10;

/// The next look is put off in steps of at least this length: a timer costs something to set.
const COARSE: Duration = Duration::from_secs(1);
/// A peer that does not end its side of a connection that has ended well is not waited for any longer.
const LINGER: Duration = Duration::from_secs(30);

/// Life of one connection.
///
/// Any byte from the peer is a sign of life, so that a slow network full of data is not taken for a dead one; a PING
/// sees to it that a living peer has something to send. That it hears us as well says its answer to the PING: packets may
/// be dropped in one direction alone.
///
/// One end asks all the time, and the other, which may have ten thousand of these, while it has something to lose: as long
/// as it is asked it knows of the peer, and a peer that does not hear its answers closes.
#[derive(Debug)]
pub(crate) struct Link<T> {
    wire: Wire<T>,
    ping: PingPong,
    asked: Option<Asked>,
    pinged: Instant,
    /// Nothing before counts against the peer: until then we did not run ourselves.
    absent_until: Instant,
    quiet: Arc<AtomicBool>,
    timer: Pin<Box<Sleep>>,
    /// It had something to lose at some time since the last look.
    busy: bool,
    windows: Windows,
    count: bool,
    settings: Settings,
}

/// A PING that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    /// What had come and gone by then.
    moved: u64,
}

impl<T: AsyncWrite + Unpin> Link<T> {
    pub(crate) fn new(wire: Wire<T>, ping: PingPong, share: Arc<Share>, settings: Settings) -> Self {
        let now = Instant::now();
        let (timer, quiet) = (Box::pin(sleep_until(now + settings.keepalive)), Arc::default());
        let (windows, count) = (Windows::new(share, &settings), false);
        let (asked, busy) = (None, false);
        Self { wire, ping, asked, pinged: now, absent_until: now, quiet, timer, busy, windows, count, settings }
    }

    /// True while the peer owes us a sign of life: it may be dead.
    pub(crate) fn quiet(&self) -> Arc<AtomicBool> {
        self.quiet.clone()
    }

    /// To be called after each poll of the connection, by the same task; ready when the connection is lost. What `asks` says
    /// may change at any time: true if the peer is to be asked for signs of life before its silence is conspicuous.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, asks: bool) -> Poll<Result<Infallible, TunnelError>> {
        let alive = self.poll_alive(cx, asks);
        if let Poll::Ready(Err(error)) = self.wire.poll_push(cx) {
            return Poll::Ready(Err(error.into()));
        }
        alive
    }

    /// Has `set` advertise another window for streams where memory asks for it. To be called after each poll of the
    /// connection; what `set` refuses, since the peer has not acknowledged the one before, comes again.
    pub(crate) fn adjust(&mut self, cx: &Context<'_>, set: impl FnOnce(u32) -> Result<(), h2::Error>) {
        let wanted = self.windows.wanted(self.wire.heard(), std::mem::take(&mut self.count));
        if let Some(window) = wanted
            && set(window).is_ok()
        {
            self.windows.advertise(window);
            cx.waker().wake_by_ref(); // the connection has something to send
        }
    }

    /// Gives the peer time to read what it was sent last; to be awaited when the connection has ended well.
    pub(crate) async fn linger(&self)
    where
        T: AsyncRead,
    {
        let _ = timeout(LINGER, self.wire.linger()).await;
    }

    /// What has become of the connection that failed with `error`.
    pub(crate) fn why(&self, error: h2::Error) -> TunnelError {
        self.wire.refused().map_or_else(|| error.into(), TunnelError::from)
    }

    fn poll_alive(&mut self, cx: &mut Context<'_>, asks: bool) -> Poll<Result<Infallible, TunnelError>> {
        self.busy |= asks;
        self.plan();
        loop {
            if self.asked.is_some() && self.ping.poll_pong(cx).is_ready() {
                self.asked = None;
            }
            if self.quiet.load(Ordering::Relaxed) && self.wire.last_read() > self.pinged {
                self.quiet.store(false, Ordering::Relaxed);
            }
            let planned = self.timer.deadline();
            ready!(self.timer.as_mut().poll(cx));
            self.count = true;
            let now = Instant::now();
            if now.duration_since(planned) > self.settings.keepalive {
                // The process was stopped, or its machine slept. What was not read meanwhile is not the peer's fault.
                self.absent_until = now;
            }
            let next = self.look(now)?;
            self.wire.rest();
            self.timer.as_mut().reset(next);
            self.busy = asks;
        }
    }

    /// Puts off the next look for as long as the peer asks, while there is nothing to lose; no longer once there is.
    fn plan(&mut self) {
        if self.asked.is_some() {
            return;
        }
        let (planned, due) = (self.timer.deadline(), self.pinged + self.settings.keepalive);
        if self.busy && due < planned {
            self.timer.as_mut().reset(due);
        } else if !self.busy {
            let silent_at = self.silent_at();
            if planned + COARSE < silent_at {
                self.timer.as_mut().reset(silent_at);
            }
        }
    }

    /// When the peer, which asks as often as we would and may be somewhat late, has conspicuously not asked.
    fn silent_at(&self) -> Instant {
        self.wire.last_read() + self.settings.keepalive + self.settings.quiet_after / 2
    }

    /// Judges the peer, and says when to look again.
    fn look(&mut self, now: Instant) -> Result<Instant, TunnelError> {
        if self.wire.head_since().is_some_and(|since| since + FrameGuard::HEAD_TIME <= now) {
            return Err(BadFrames::SlowHead.into());
        }
        let last_read = self.wire.last_read();
        let dead_at = last_read.max(self.absent_until) + self.settings.dead_after;
        if dead_at <= now {
            return Err(TunnelError::Dead(self.settings.dead_after));
        }
        let deaf_after = self.settings.deaf_after;
        let moved = self.wire.moved();
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.at.max(self.absent_until) + deaf_after <= now) {
            if moved - asked.moved < BUSY {
                return Err(TunnelError::Deaf(deaf_after));
            }
            *asked = Asked { at: now, moved };
        }
        let keepalive = self.settings.keepalive;
        let (ping_at, silent_at) = (self.pinged + keepalive, self.silent_at());
        let quiet_at = self.pinged + self.settings.quiet_after;
        let next = if self.asked.is_some() && last_read <= self.pinged && quiet_at <= now && now < ping_at {
            self.quiet.store(true, Ordering::Relaxed);
            ping_at
        } else if now < ping_at {
            ping_at
        } else if !self.busy && now < silent_at && self.asked.is_none() {
            silent_at
        } else {
            self.pinged = now;
            if self.asked.is_none() && self.ping.send_ping(Ping::opaque()).is_ok() {
                self.asked = Some(Asked { at: now, moved });
            }
            now + self.settings.quiet_after.min(keepalive)
        };
        let deaf_at = self.asked.map(|asked| asked.at.max(self.absent_until) + deaf_after);
        Ok(deaf_at.map_or(next, |deaf_at| deaf_at.min(next)).min(dead_at))
    }
}
