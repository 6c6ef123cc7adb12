//! How far streams may be ahead of their readers: far while there is memory, less while others hold it.
//!
//! A stream's window is what its peer may send before somebody reads. Readers that read give it back at once and are
//! never held up by this; readers that do not are a buffer each. So the window of a tunnel's streams, which is one for
//! all of them, follows the memory that is left: of the tunnel's share, and of the server's. It never goes below
//! [`FLOOR`], and the window of the connection is larger than the share and the floor of every stream together:
//! however many readers do not read, nobody else's stream waits for them.
//!
//! Windows are the same for all users, so that they cannot bound what one of them holds. Whoever holds more than a user may
//! loses streams, that which was not read for longest first, see [`overdrawn`](super::overdrawn).
//!
//! What is held is counted now and then, when enough has been received to make a difference, and of streams only that
//! may have much: a small answer costs nothing here.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use h2::{FlowControl, RecvStream, StreamId};
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};
use tokio::time::Instant;
use ztka_core::UserId;

use super::{
    inflow::{Inflow, Slot},
    overdrawn,
};
use crate::{
    Settings,
    figures::{self, Figures, Now, Side},
};

/// Bytes that a stream may be ahead of its reader, however little memory is left.
pub(crate) const FLOOR: u32 = 16 << 10;
/// A body that is announced to be no longer is not counted: it always fits into a window.
const SMALL: u64 = FLOOR as u64;
/// What is held is counted again after so many bytes.
const STEP: u64 = 1 << 20;
/// A stream may take this part of what is left of a tunnel's share, and of the server's.
const OF_TUNNEL: usize = 4;
const OF_SERVER: usize = 16;

/// To whose account it goes what waits on a stream.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Payer {
    /// Of a user that is known.
    User(UserId),
    /// Of whoever has the evidence that a request names, where nobody knows whose that is.
    Evidence(HeaderValue),
}

type Knows = dyn Fn(&HeaderMap) -> Option<UserId> + Send + Sync;

/// Knows users by the headers of their requests.
#[derive(Clone)]
pub(crate) struct Who(Arc<Knows>);

impl Who {
    pub(crate) fn new(who: impl Fn(&HeaderMap) -> Option<UserId> + Send + Sync + 'static) -> Self {
        Self(Arc::new(who))
    }

    /// Who pays for what the request with these headers sends.
    ///
    /// The user, if it can be said: of evidence a user may have as much as they like, by a new session or by another chain of
    /// certificates to the same one.
    pub(crate) fn pays(&self, headers: &HeaderMap) -> Option<Payer> {
        let evidence = || headers.get(&ztka_core::EVIDENCE).cloned().map(Payer::Evidence);
        self.0(headers).map(Payer::User).or_else(evidence)
    }
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Who")
    }
}

/// Bytes by account.
pub(super) type Accounts = HashMap<Payer, usize>;

/// Of one server: all its tunnels together, and its links to other proxies.
#[derive(Debug)]
pub(crate) struct Memory {
    /// By which end the server tells of its users.
    server: Side,
    limit: usize,
    held: AtomicUsize,
    /// What each user may hold, and for how long it may wait if others are held up by it.
    user_limit: usize,
    unread_for: Duration,
    users: Mutex<Accounts>,
    ended: AtomicU64,
    /// The tunnel of each kind that holds most, as far as they have counted, and how much.
    fullest: Mutex<HashMap<Side, (usize, usize)>>,
}

impl Memory {
    pub(crate) fn new(settings: &Settings, server: Side) -> Arc<Self> {
        let Settings { memory: limit, user_memory: user_limit, unread_for, .. } = *settings;
        figures::describe();
        let (held, users, ended) = (AtomicUsize::new(0), Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { server, limit, held, user_limit, unread_for, users, ended, fullest: Mutex::default() })
    }

    /// Bytes received that nobody has read yet, as last counted.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The same of that user who has most.
    pub(crate) fn most_of_a_user(&self) -> usize {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.values().copied().max().unwrap_or(0)
    }

    /// Takes note of what one `tunnel` of `side` holds; the most that any held before, and the most that any does.
    fn compare(&self, side: Side, tunnel: usize, held: usize) -> (usize, usize) {
        let mut all = self.fullest.lock().unwrap_or_else(PoisonError::into_inner);
        let fullest = all.entry(side).or_default();
        let before = fullest.1;
        if fullest.0 == tunnel || fullest.1 <= held {
            *fullest = (tunnel, held);
        }
        (before, fullest.1)
    }

    /// Tells what the fullest tunnel of `side` holds, and the user who has most of all.
    fn tell(&self, side: Side, most: usize) {
        figures::most(side, most);
        figures::most_of_a_user(self.server, self.most_of_a_user());
    }

    /// Streams that were ended because their users did not read.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// One tunnel's accounts have become what they are `now`; says what of these users is beyond what they may hold.
    fn settle(&self, before: &Accounts, now: &Accounts) -> Accounts {
        if before.is_empty() && now.is_empty() {
            return Accounts::new();
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for (payer, held) in now {
            *users.entry(payer.clone()).or_default() += held;
        }
        for (payer, held) in before {
            if let Some(all) = users.get_mut(payer) {
                *all -= held;
                if *all == 0 {
                    users.remove(payer);
                }
            }
        }
        let beyond = |payer: &Payer| users.get(payer).map_or(0, |all| all.saturating_sub(self.user_limit));
        now.keys().map(|payer| (payer.clone(), beyond(payer))).filter(|(_, beyond)| *beyond > 0).collect()
    }
}

/// A stream that is counted.
#[derive(Debug)]
pub(super) struct Waiting {
    flow: FlowControl,
    pub(super) slot: Arc<Slot>,
    pub(super) payer: Option<Payer>,
    /// Bytes, as last counted.
    pub(super) held: usize,
    /// Nothing was seen to be read from then on.
    pub(super) since: Instant,
}

/// Of one tunnel.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    limit: usize,
    most: u32,
    held: AtomicUsize,
    streams: Mutex<HashMap<StreamId, Waiting>>,
    accounts: Mutex<Accounts>,
    pub(crate) figures: Arc<Figures>,
}

impl Share {
    pub(crate) fn new(memory: Arc<Memory>, settings: &Settings, side: Side) -> Arc<Self> {
        let (limit, most) = (settings.tunnel_memory, settings.stream_window);
        let (held, streams, accounts) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        let figures = Arc::new(Figures::new(side));
        Arc::new(Self { memory, limit, most, held, streams, accounts, figures })
    }

    /// Counts what waits on `stream` for `payer` as long as it is held, if its `headers` do not say that it is little.
    pub(crate) fn watch(
        self: &Arc<Self>,
        mut stream: RecvStream,
        headers: Option<&HeaderMap>,
        payer: impl FnOnce() -> Option<Payer>,
    ) -> Inflow {
        let length = headers
            .and_then(|headers| headers.get(CONTENT_LENGTH))
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length <= SMALL) || stream.is_end_stream() {
            return Inflow::little(stream);
        }
        let (id, flow) = (stream.stream_id(), stream.flow_control().clone());
        let slot = Slot::of(stream);
        let waiting = Waiting { flow, slot: slot.clone(), payer: payer(), held: 0, since: Instant::now() };
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(id, waiting);
        Inflow::counted(self.clone(), id, slot)
    }

    /// The stream is not held any more.
    pub(super) fn forget(&self, id: StreamId) {
        // The last handle of a stream may reset it, which is not for under the lock.
        let waiting = self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        drop(waiting);
    }

    /// Counts what is held now, and ends what is too much of a user's.
    fn count(&self) {
        let now = Instant::now();
        let (mut held, mut accounts) = (0, Accounts::new());
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for waiting in streams.values_mut() {
            let used = waiting.flow.used_capacity();
            if used < waiting.held || used == 0 {
                waiting.since = now;
            }
            waiting.held = used;
            held += used;
            if used > 0
                && let Some(payer) = &waiting.payer
            {
                *accounts.entry(payer.clone()).or_default() += used;
            }
        }
        self.note(held);
        let beyond = self.settle(&accounts);
        let mut ended = overdrawn::beyond(&streams, beyond);
        if self.window() < self.most {
            let before = now.checked_sub(self.memory.unread_for);
            let unread = |waiting: &Waiting| before.is_some_and(|before| waiting.since <= before);
            ended.extend(overdrawn::unread(&streams, &accounts, self.limit, unread));
        }
        let ended: Vec<_> = ended.into_iter().filter_map(|id| streams.remove(&id)).collect();
        drop(streams);
        if ended.is_empty() {
            return;
        }
        self.memory.ended.fetch_add(ended.len() as u64, Relaxed);
        figures::unread(self.figures.side(), ended.len());
        for waiting in ended {
            if let Some(held) = waiting.payer.as_ref().and_then(|payer| accounts.get_mut(payer)) {
                *held -= waiting.held;
            }
            held -= waiting.held;
            tracing::warn!(bytes = waiting.held, "a stream is ended that nobody reads, for its user holds too much");
            waiting.slot.take();
        }
        accounts.retain(|_, held| *held > 0);
        self.note(held);
        self.settle(&accounts);
    }

    /// Tells of it what has changed; streams have this `window`.
    fn tell(&self, window: u32, resets: u32) {
        let buffered = self.held.load(Relaxed);
        let counted = self.streams.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.figures.tell(Now { buffered, windows: counted.saturating_mul(window as usize), resets });
        let side = self.figures.side();
        let (before, most) = self.memory.compare(side, std::ptr::from_ref(self).addr(), buffered);
        if before.max(most) > 0 || self.memory.held() > 0 {
            self.memory.tell(side, most);
        }
    }

    /// Has every stream look whether its peer is to be told of what was read of it.
    ///
    /// h2 tells it once there is enough of it, by the window of that moment. What a smaller window lets through may be
    /// less than that, and then no reading would come to ask again.
    fn nudge(&self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only for more than what is held.
        streams.values_mut().for_each(|stream| drop(stream.flow.release_capacity(0)));
    }

    fn note(&self, now: usize) {
        let before = self.held.swap(now, Relaxed);
        self.memory.held.fetch_add(now, Relaxed);
        self.memory.held.fetch_sub(before, Relaxed);
    }

    fn settle(&self, now: &Accounts) -> Accounts {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let beyond = self.memory.settle(&accounts, now);
        accounts.clone_from(now);
        beyond
    }

    /// The window that there is memory for.
    fn window(&self) -> u32 {
        let tunnel = self.limit.saturating_sub(self.held.load(Relaxed)) / OF_TUNNEL;
        let server = self.memory.limit.saturating_sub(self.memory.held()) / OF_SERVER;
        let most = u32::try_from(tunnel.min(server)).unwrap_or(u32::MAX);
        // In few steps, so that it is seldom another one.
        let mut window = self.most;
        while window > most && window > FLOOR {
            window /= 4;
        }
        window.max(FLOOR.min(self.most))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.note(0);
        self.settle(&Accounts::new());
        let side = self.figures.side();
        let (_, most) = self.memory.compare(side, std::ptr::from_ref(self).addr(), 0);
        self.memory.tell(side, most);
    }
}

/// The window of one connection's streams.
#[derive(Debug)]
pub(crate) struct Windows {
    share: Arc<Share>,
    advertised: u32,
    counted_at: u64,
    acknowledged: u32,
    /// The window has become smaller, and the peer has not acknowledged that.
    shrinking: bool,
    /// It has a while ago.
    shrunk: bool,
}

impl Windows {
    pub(crate) fn new(share: Arc<Share>, settings: &Settings) -> Self {
        Self {
            share,
            advertised: settings.stream_window,
            counted_at: 0,
            acknowledged: 0,
            shrinking: false,
            shrunk: false,
        }
    }

    /// The window to advertise from now on, if it has to be another one. What is held is counted again after some bytes of
    /// those `received` in all, or if it is `due`; when SETTINGS were `acknowledged`, streams take note.
    pub(crate) fn wanted(&mut self, (received, acknowledged, resets): (u64, u32, u32), due: bool) -> Option<u32> {
        if self.shrinking && self.acknowledged != acknowledged {
            self.share.nudge();
            (self.shrinking, self.shrunk) = (false, true);
        } else if due && self.shrunk {
            // h2 may have been a moment behind what it was given to read.
            self.share.nudge();
            self.shrunk = false;
        }
        self.acknowledged = acknowledged;
        if due || received.saturating_sub(self.counted_at) >= STEP {
            self.counted_at = received;
            self.share.count();
        }
        if due {
            self.share.tell(self.advertised, resets);
        }
        Some(self.share.window()).filter(|window| *window != self.advertised)
    }

    /// `window` is advertised.
    pub(crate) fn advertise(&mut self, window: u32) {
        self.shrinking |= window < self.advertised;
        self.advertised = window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_what_is_left_of_both_shares() {
        let settings = Settings::default();
        let memory = Memory::new(&settings, Side::Proxy);
        let share = || Share::new(memory.clone(), &settings, Side::Proxy);
        let (one, other) = (share(), share());
        assert_eq!(one.window(), settings.stream_window);
        let mut last = settings.stream_window;
        for held in (0..=settings.tunnel_memory).step_by(1 << 20) {
            one.note(held);
            assert!(one.window() <= last, "{held}");
            // One more stream that is not read does not go beyond the share, but for the floor.
            assert!(held + one.window() as usize <= settings.tunnel_memory + FLOOR as usize, "{held}");
            last = one.window();
        }
        assert_eq!(last, FLOOR);
        assert_eq!(other.window(), settings.stream_window, "a tunnel's readers are no other tunnel's affair");
        // Of all tunnels together there is an end, too.
        one.note(settings.memory);
        assert_eq!(other.window(), FLOOR);
        drop(one);
        assert_eq!((memory.held(), other.window()), (0, settings.stream_window));
    }

    #[test]
    fn no_number_of_readers_that_do_not_read_uses_up_the_connection() {
        let Settings { max_streams, stream_window, tunnel_memory, connection_window, .. } = Settings::default();
        let most = tunnel_memory as u64 + u64::from(stream_window) + u64::from(FLOOR) * u64::from(max_streams);
        assert!(most < u64::from(connection_window), "{most}");
        // 100 ms at 1 Gbit/s.
        assert!(stream_window >= 1_000_000_000 / 8 / 10);
    }
}
