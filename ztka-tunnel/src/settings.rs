//! Limits and times of a tunnel, and the HTTP/2 settings made of them.

use std::time::Duration;

use crate::{FloodLimits, Refusals};

/// Limits and times of one tunnel. The defaults suit both ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Requests and streams at once on one tunnel, advertised by the agent and kept to by the proxy. Default 16,384.
    pub max_streams: u32,
    /// Bytes that a stream may be ahead of its reader while there is memory. Default 12 MiB: 1 Gbit/s at 100 ms. Less where
    /// readers that do not read hold a good part of `tunnel_memory` or `memory`, down to 16 KiB.
    pub stream_window: u32,
    /// Bytes that all streams of a tunnel together should be ahead of their readers at the most. Default 128 MiB.
    pub tunnel_memory: usize,
    /// The same of all tunnels of a registry, with the links beside it, or of a dialer. Default 512 MiB.
    pub memory: usize,
    /// Bytes that the streams of one user may be ahead of their readers, on all tunnels of a registry or a dialer (which takes each
    /// evidence for a user of its own unless it is [told](crate::Dialer::start_for_users) whose that is). Beyond it, and
    /// 16 KiB for each stream, those that were not read for longest are ended. Default 192 MiB.
    pub user_memory: usize,
    /// Where readers that do not read make windows smaller than `stream_window`, a user may leave more than a quarter of
    /// `tunnel_memory` unread for so long; then streams are ended until it is a quarter. Default 30 s.
    pub unread_for: Duration,
    /// Bytes that all streams of a tunnel together can be ahead of their readers. Default 448 MiB: more than `tunnel_memory`
    /// and 16 KiB for each of `max_streams`, for readers who do not read must not be able to use it up. Then the tunnel
    /// would stand still for everybody.
    pub connection_window: u32,
    /// Bytes of a header list as HPACK counts them, path included. Default 192 KiB: 128 KiB in 500 lines.
    pub max_header_list: u32,
    /// A PING is sent this often. Default 5 s.
    pub keepalive: Duration,
    /// A peer that has sent nothing for so long is dead. Default 12 s, so that a dead peer is noticed in under 15 s.
    pub dead_after: Duration,
    /// A peer that leaves a PING unanswered for so long, while next to nothing else is sent either way, does not hear us:
    /// what we send is lost, though what it sends arrives. Default 9 s: with the wait for the next PING under 15 s.
    pub deaf_after: Duration,
    /// A peer from which nothing has come for so long after a PING gets new requests only if there is no other. Default 2 s.
    pub quiet_after: Duration,
    /// Bound on set-up, from the first byte of HTTP/2 until users' requests may come. Default 15 s.
    pub setup: Duration,
    /// Bound on one answer to a request of the tunnel's own (evidence, a document). Default 10 s.
    pub answer: Duration,
    /// A tunnel that takes no new streams is ended after this time even if it still has some. Default 24 h.
    pub max_drain: Duration,
    /// The form of answers of our own. Default: problem details (RFC 9457).
    pub refusals: Refusals,
    /// Frames that the peer may send and that carry nothing. Default [`FloodLimits::TUNNEL`].
    pub floods: FloodLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_streams: 16_384,
            stream_window: 12 << 20,
            tunnel_memory: 128 << 20,
            memory: 512 << 20,
            user_memory: 192 << 20,
            unread_for: Duration::from_secs(30),
            connection_window: 448 << 20,
            max_header_list: 192 << 10,
            keepalive: Duration::from_secs(5),
            dead_after: Duration::from_secs(12),
            deaf_after: Duration::from_secs(9),
            quiet_after: Duration::from_secs(2),
            setup: Duration::from_secs(15),
            answer: Duration::from_secs(10),
            max_drain: Duration::from_secs(24 * 3600),
            refusals: Refusals::default(),
            floods: FloodLimits::TUNNEL,
        }
    }
}

/// Large frames mean fewer of them; beyond this nothing is gained.
const FRAME: u32 = 64 << 10;
/// Bytes that one stream may have waiting for the wire.
const SEND_BUFFER: usize = 512 << 10;
/// Streams that we reset are remembered, so that frames under way for them are known to be harmless.
const REMEMBERED_RESETS: usize = 4096;
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Stream errors over the life of a connection before the peer counts as broken, or as one that makes us reset what it
/// has begun (CVE-2025-8671). High, for a tunnel lives for weeks and carries many users.
const STREAM_ERRORS: usize = 10_000;

impl Settings {
    pub(crate) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(FRAME)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(0) // the agent opens none
            .initial_max_send_streams(1) // until the agent's own limit is known
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR)
            .max_local_error_reset_streams(Some(STREAM_ERRORS))
            .data_frame_budget(self.connection_window as usize)
            .enable_push(false);
        builder
    }

    pub(crate) fn server(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(FRAME)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(self.max_streams)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR)
            .max_local_error_reset_streams(Some(STREAM_ERRORS))
            // Many users' clients may leave at the same moment; that is no attack of the proxy's.
            .max_pending_accept_reset_streams(self.max_streams as usize)
            .data_frame_budget(self.connection_window as usize)
            .enable_connect_protocol();
        builder
    }
}
