//! What the tunnels tell of themselves by the facade of the crate `metrics`; the table is in the crate's documentation.
//!
//! Whoever embeds this installs a recorder, or none: then a figure costs next to nothing. Nothing is told on the way of a
//! request: a tunnel counts, and tells what has changed with the timer of its PINGs.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Whose end of a tunnel it is: the label `end` of every figure.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Side {
    /// A proxy's, of an agent's tunnel.
    Proxy,
    /// An agent's.
    Agent,
    /// The one that has dialled, of a link between proxies.
    Link,
    /// The other one.
    Peer,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Agent => "agent",
            Self::Link => "link",
            Self::Peer => "peer",
        }
    }
}

/// Says what each figure is, to the recorder that there is.
pub(crate) fn describe() {
    describe_gauge!("ztka_tunnel_tunnels", "Tunnels that are ready");
    describe_gauge!("ztka_tunnel_streams", "Requests and streams that are open");
    describe_gauge!("ztka_tunnel_buffered_bytes", "Bytes received that nobody has read yet");
    describe_gauge!("ztka_tunnel_tunnel_buffered_bytes_max", "The same of the tunnel that has most");
    describe_gauge!("ztka_tunnel_user_buffered_bytes_max", "The same of the user who has most");
    describe_gauge!("ztka_tunnel_window_bytes", "Windows granted to the streams that are counted");
    describe_counter!("ztka_tunnel_requests_total", "Requests begun");
    describe_counter!("ztka_tunnel_unread_ended_total", "Streams ended because their users held too much unread");
    describe_counter!("ztka_tunnel_resets_total", "Streams reset by the peer");
    describe_counter!("ztka_tunnel_handshakes_total", "Tunnels set up (outcome ready), or not (failed)");
    describe_counter!("ztka_tunnel_dials_total", "Attempts to connect, those in the place of lost tunnels among them");
    describe_counter!(
        "ztka_tunnel_redials_total",
        "Attempts in the place of a tunnel that failed, ended or is to be replaced"
    );
    describe_counter!("ztka_tunnel_dial_failures_total", "Attempts that led to no connection");
    describe_counter!("ztka_tunnel_retries_total", "Requests sent into another tunnel, by what the first one has done");
}

/// A tunnel that is ready, until this is dropped.
#[derive(Debug)]
pub(crate) struct Up(Side);

impl Up {
    pub(crate) fn new(side: Side) -> Self {
        gauge!("ztka_tunnel_tunnels", "end" => side.name()).increment(1);
        counter!("ztka_tunnel_handshakes_total", "end" => side.name(), "outcome" => "ready").increment(1);
        Self(side)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        gauge!("ztka_tunnel_tunnels", "end" => self.0.name()).decrement(1);
    }
}

/// A tunnel that does not come to be ready, counted when this is dropped, however that comes: an error, a time-out, or a future
/// that nobody polls to its end.
#[derive(Debug)]
pub(crate) struct SettingUp(Option<Side>);

impl SettingUp {
    pub(crate) fn begin(side: Side) -> Self {
        Self(Some(side))
    }

    /// It is ready after all.
    pub(crate) fn ready(mut self) -> Option<Up> {
        self.0.take().map(Up::new)
    }

    /// It is ready, and somebody else counts that; or nobody wanted it.
    pub(crate) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for SettingUp {
    fn drop(&mut self) {
        if let Some(side) = self.0 {
            counter!("ztka_tunnel_handshakes_total", "end" => side.name(), "outcome" => "failed").increment(1);
        }
    }
}

/// One attempt to connect, which has failed if this is dropped before [`Self::connected`].
#[derive(Debug)]
pub(crate) struct Dialling(Option<Side>);

impl Dialling {
    pub(crate) fn begin(side: Side, is_again: bool) -> Self {
        counter!("ztka_tunnel_dials_total", "end" => side.name()).increment(1);
        if is_again {
            counter!("ztka_tunnel_redials_total", "end" => side.name()).increment(1);
        }
        Self(Some(side))
    }

    /// There is a connection.
    pub(crate) fn connected(mut self) {
        self.0 = None;
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(side) = self.0 {
            counter!("ztka_tunnel_dial_failures_total", "end" => side.name()).increment(1);
        }
    }
}

/// A request goes into another tunnel, since the first one has done nothing (`untouched`) or has broken (`broken`).
pub(crate) fn retried(first: &'static str) {
    counter!("ztka_tunnel_retries_total", "end" => "proxy", "first" => first).increment(1);
}

/// A stream was ended that nobody reads.
pub(crate) fn unread(side: Side, streams: usize) {
    counter!("ztka_tunnel_unread_ended_total", "end" => side.name()).increment(streams as u64);
}

/// What the tunnel of this kind holds that has most.
pub(crate) fn most(side: Side, tunnel: usize) {
    gauge!("ztka_tunnel_tunnel_buffered_bytes_max", "end" => side.name()).set(float(tunnel));
}

/// What the user has who has most, on all tunnels of a server whatever they are.
pub(crate) fn most_of_a_user(server: Side, user: usize) {
    gauge!("ztka_tunnel_user_buffered_bytes_max", "end" => server.name()).set(float(user));
}

/// What one tunnel counts.
#[derive(Debug)]
pub(crate) struct Figures {
    side: Side,
    open: AtomicUsize,
    begun: AtomicU64,
    told: Mutex<Told>,
}

/// What recorders know of it.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    now: Now,
    open: usize,
    begun: u64,
}

/// What is counted elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Bytes that nobody has read.
    pub(crate) buffered: usize,
    /// Bytes of windows.
    pub(crate) windows: usize,
    /// Streams that the peer has reset so far.
    pub(crate) resets: u32,
}

impl Figures {
    pub(crate) fn new(side: Side) -> Self {
        Self { side, open: AtomicUsize::new(0), begun: AtomicU64::new(0), told: Mutex::default() }
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// A request begins.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// It is over.
    pub(crate) fn end(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Tells what has changed since it was told last.
    pub(crate) fn tell(&self, now: Now) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Told { now, open: self.open.load(Relaxed), begun: self.begun.load(Relaxed) };
        let old = std::mem::replace(&mut *told, new);
        let end = self.side.name();
        let level = |name: &'static str, new: usize, old: usize| {
            if new != old {
                gauge!(name, "end" => end).increment(float(new) - float(old));
            }
        };
        level("ztka_tunnel_streams", new.open, old.open);
        level("ztka_tunnel_buffered_bytes", new.now.buffered, old.now.buffered);
        level("ztka_tunnel_window_bytes", new.now.windows, old.now.windows);
        let count = |name: &'static str, more: u64| {
            if more > 0 {
                counter!(name, "end" => end).increment(more);
            }
        };
        count("ztka_tunnel_requests_total", new.begun - old.begun);
        count("ztka_tunnel_resets_total", u64::from(new.now.resets.wrapping_sub(old.now.resets)));
    }
}

impl Drop for Figures {
    /// Nothing is left of it; what it has counted last was not told yet.
    fn drop(&mut self) {
        let resets = self.told.get_mut().unwrap_or_else(PoisonError::into_inner).now.resets;
        *self.open.get_mut() = 0;
        self.tell(Now { buffered: 0, windows: 0, resets });
    }
}

/// One request on a tunnel, until this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Figures>);

impl Running {
    pub(crate) fn begin(figures: &Arc<Figures>) -> Self {
        figures.begin();
        Self(figures.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Exact for anything that a process can hold.
#[expect(clippy::cast_precision_loss, reason = "counts of things in one process")]
fn float(count: usize) -> f64 {
    count as f64
}
