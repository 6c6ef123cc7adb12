//! What both ends do beside polling their HTTP/2 connection: push writes out, and notice a dead peer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use h2::{Ping, PingPong};
use tokio::{
    io::AsyncWrite,
    time::{Instant, Sleep, sleep_until},
};

use crate::{BadFrames, FrameGuard, Settings, TunnelError, io::Wire};

/// Life of one connection.
///
/// Any byte from the peer is a sign of life, so that a slow network full of data is not taken for a dead one; a PING
/// sees to it that a living peer has something to send.
#[derive(Debug)]
pub(crate) struct Link<T> {
    wire: Wire<T>,
    ping: PingPong,
    outstanding: bool,
    pinged: Instant,
    quiet: Arc<AtomicBool>,
    timer: Pin<Box<Sleep>>,
    settings: Settings,
}

impl<T: AsyncWrite + Unpin> Link<T> {
    pub(crate) fn new(wire: Wire<T>, ping: PingPong, settings: Settings) -> Self {
        let now = Instant::now();
        let (timer, quiet) = (Box::pin(sleep_until(now + settings.keepalive)), Arc::default());
        Self { wire, ping, outstanding: false, pinged: now, quiet, timer, settings }
    }

    /// True while the peer owes us a sign of life: it may be dead.
    pub(crate) fn quiet(&self) -> Arc<AtomicBool> {
        self.quiet.clone()
    }

    /// To be called after each poll of the connection, by the same task; ready when the connection is lost.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, TunnelError>> {
        let alive = self.poll_alive(cx);
        if let Poll::Ready(Err(error)) = self.wire.poll_push(cx) {
            return Poll::Ready(Err(error.into()));
        }
        alive
    }

    /// What has become of the connection that failed with `error`.
    pub(crate) fn why(&self, error: h2::Error) -> TunnelError {
        self.wire.refused().map_or_else(|| error.into(), TunnelError::from)
    }

    fn poll_alive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, TunnelError>> {
        loop {
            if self.outstanding && self.ping.poll_pong(cx).is_ready() {
                self.outstanding = false;
            }
            if self.quiet.load(Ordering::Relaxed) && self.wire.last_read() > self.pinged {
                self.quiet.store(false, Ordering::Relaxed);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.wire.head_since().is_some_and(|since| since + FrameGuard::HEAD_TIME <= now) {
                return Poll::Ready(Err(BadFrames::SlowHead.into()));
            }
            let last_read = self.wire.last_read();
            let dead_at = last_read + self.settings.dead_after;
            if dead_at <= now {
                return Poll::Ready(Err(TunnelError::Dead(self.settings.dead_after)));
            }
            let ping_at = self.pinged + self.settings.keepalive;
            let quiet_at = self.pinged + self.settings.quiet_after;
            let next = if self.outstanding && last_read <= self.pinged && quiet_at <= now && now < ping_at {
                self.quiet.store(true, Ordering::Relaxed);
                ping_at
            } else if now < ping_at {
                ping_at
            } else {
                self.pinged = now;
                if !self.outstanding {
                    self.outstanding = self.ping.send_ping(Ping::opaque()).is_ok();
                }
                now + self.settings.quiet_after.min(self.settings.keepalive)
            };
            self.timer.as_mut().reset(dead_at.min(next));
        }
    }
}
