//! How far streams may be ahead of their readers: far while there is memory, less while others hold it.
//!
//! A stream's window is what its peer may send before somebody reads. Readers that read give it back at once and are
//! never held up by this; readers that do not are a buffer each. So the window of a tunnel's streams, which is one for
//! all of them, follows the memory that is left: of the tunnel's share, and of the server's. It never goes below
//! [`FLOOR`], and the window of the connection is larger than the share and the floor of every stream together:
//! however many readers do not read, nobody else's stream waits for them.
//!
//! What is held is counted now and then, when enough has been received to make a difference, and of streams only that
//! may have much: a small answer costs nothing here.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use h2::{FlowControl, RecvStream, StreamId};
use http::{HeaderMap, header::CONTENT_LENGTH};

use crate::Settings;

/// Bytes that a stream may be ahead of its reader, however little memory is left.
pub(crate) const FLOOR: u32 = 16 << 10;
/// A body that is announced to be no longer is not counted: it always fits into a window.
const SMALL: u64 = FLOOR as u64;
/// What is held is counted again after so many bytes.
const STEP: u64 = 1 << 20;
/// A stream may take this part of what is left of a tunnel's share, and of the server's.
const OF_TUNNEL: usize = 4;
const OF_SERVER: usize = 16;

/// Of one server: all its tunnels together.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    held: AtomicUsize,
}

impl Memory {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self { limit: settings.memory, held: AtomicUsize::new(0) })
    }

    /// Bytes received that nobody has read yet, as last counted.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

/// Of one tunnel.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    limit: usize,
    most: u32,
    held: AtomicUsize,
    streams: Mutex<HashMap<StreamId, FlowControl>>,
}

impl Share {
    pub(crate) fn new(memory: Arc<Memory>, settings: &Settings) -> Arc<Self> {
        let (limit, most) = (settings.tunnel_memory, settings.stream_window);
        Arc::new(Self { memory, limit, most, held: AtomicUsize::new(0), streams: Mutex::default() })
    }

    /// Counts what waits on `stream` until the guard is dropped, if its `headers` do not say that it is little.
    pub(crate) fn watch(self: &Arc<Self>, stream: &mut RecvStream, headers: Option<&HeaderMap>) -> Option<Watched> {
        let length = headers
            .and_then(|headers| headers.get(CONTENT_LENGTH))
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length <= SMALL) || stream.is_end_stream() {
            return None;
        }
        let (id, flow) = (stream.stream_id(), stream.flow_control().clone());
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(id, flow);
        Some(Watched { share: self.clone(), id })
    }

    /// Counts what is held now.
    fn count(&self) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let now: usize = streams.values().map(FlowControl::used_capacity).sum();
        drop(streams);
        self.note(now);
    }

    /// Has every stream look whether its peer is to be told of what was read of it.
    ///
    /// h2 tells it once there is enough of it, by the window of that moment. What a smaller window lets through may be
    /// less than that, and then no reading would come to ask again.
    fn nudge(&self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only for more than what is held.
        streams.values_mut().for_each(|stream| drop(stream.release_capacity(0)));
    }

    fn note(&self, now: usize) {
        let before = self.held.swap(now, Relaxed);
        self.memory.held.fetch_add(now, Relaxed);
        self.memory.held.fetch_sub(before, Relaxed);
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
    }
}

/// A stream that is counted.
#[derive(Debug)]
pub(crate) struct Watched {
    share: Arc<Share>,
    id: StreamId,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The last handle of a stream may reset it, which is not for under the lock.
        let flow = self.share.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        drop(flow);
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
    pub(crate) fn wanted(&mut self, (received, acknowledged): (u64, u32), due: bool) -> Option<u32> {
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
        let memory = Memory::new(&settings);
        let (one, other) = (Share::new(memory.clone(), &settings), Share::new(memory.clone(), &settings));
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
