//! Counts the frames of HTTP/2 (RFC 9113) that carry nothing; h2 itself judges everything else.

use std::time::Duration;

use tokio::time::Instant;

/// RFC 9113 §3.4
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// CONTINUATION frames of one header block: the largest header list fits into 8.
const CONTINUATIONS: u32 = 32;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// How many frames a peer may send that carry nothing (empty DATA, PING, SETTINGS, PRIORITY, unknown), and resets: each
/// kind has a bucket of `burst` that fills again by `per_second`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FloodLimits {
    /// Size of the bucket, in frames.
    pub burst: u32,
    /// What it gains, in frames per second.
    pub per_second: u32,
}

impl FloodLimits {
    /// For a user: a client with 1,000 watches may end them at once, with a PING beside each reset.
    pub const USER: Self = Self { burst: 2_000, per_second: 200 };
    /// For either end of a tunnel, which carries many users.
    pub const TUNNEL: Self = Self { burst: 20_000, per_second: 4_000 };
}

/// A peer of HTTP/2 sends what none needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadFrames {
    /// The connection does not begin with the preface of HTTP/2.
    #[error("the connection does not begin with the preface of HTTP/2")]
    Preface,
    /// More frames of a kind that costs more than it carries than any peer has to send.
    #[error("flood of {0}")]
    Flood(&'static str),
    /// A header block was begun and not finished in time.
    #[error("a header block was not complete in time")]
    SlowHead,
}

#[derive(Debug)]
struct Bucket {
    limits: FloodLimits,
    left: u32,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_millis() * u128::from(self.limits.per_second) / 1000;
        if let Some(gained) = u32::try_from(gained).ok().filter(|gained| *gained > 0) {
            self.left = self.left.saturating_add(gained).min(self.limits.burst);
            self.filled = now;
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}

/// Follows the frames that one peer sends, and counts. No I/O: it is shown all bytes, in pieces of any size.
#[derive(Debug)]
pub struct FrameGuard {
    /// Of the client's preface, still to come.
    preface: &'static [u8],
    header: [u8; FRAME_HEADER],
    /// Bytes of `header` that have come.
    have: usize,
    /// Payload still to come.
    payload: usize,
    /// CONTINUATION frames seen of the header block that is open.
    block: Option<u32>,
    noise: Bucket,
    resets: Bucket,
    /// SETTINGS of ours that the peer has acknowledged.
    acknowledged: u32,
    /// RST_STREAM frames.
    resets_seen: u32,
}

impl FrameGuard {
    /// A peer that begins a head, or should begin the connection with its preface, has this long to finish it.
    pub const HEAD_TIME: Duration = Duration::from_secs(10);

    /// Of what a client sends, its preface included.
    pub fn of_client(limits: FloodLimits, now: Instant) -> Self {
        Self::new(limits, PREFACE, now)
    }

    /// Of what a server sends.
    pub fn of_server(limits: FloodLimits, now: Instant) -> Self {
        Self::new(limits, &[], now)
    }

    fn new(limits: FloodLimits, preface: &'static [u8], now: Instant) -> Self {
        let bucket = || Bucket { limits, left: limits.burst, filled: now };
        let (header, have, payload, block) = ([0; FRAME_HEADER], 0, 0, None);
        let (acknowledged, resets_seen) = (0, 0);
        Self { preface, header, have, payload, block, noise: bucket(), resets: bucket(), acknowledged, resets_seen }
    }

    /// Takes note of the next bytes.
    ///
    /// # Errors
    /// [`BadFrames`], after which the connection has to be closed.
    pub fn advance(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), BadFrames> {
        while !bytes.is_empty() {
            if !self.preface.is_empty() {
                let count = bytes.len().min(self.preface.len());
                let ((is, rest), (should, left)) = (bytes.split_at(count), self.preface.split_at(count));
                if is != should {
                    return Err(BadFrames::Preface);
                }
                (bytes, self.preface) = (rest, left);
            } else if self.payload > 0 {
                bytes = skip(bytes, &mut self.payload);
            } else {
                let (taken, rest) = bytes.split_at(bytes.len().min(FRAME_HEADER - self.have));
                for (to, from) in self.header.iter_mut().skip(self.have).zip(taken) {
                    *to = *from;
                }
                self.have += taken.len();
                bytes = rest;
                if self.have == FRAME_HEADER {
                    self.have = 0;
                    self.frame(now)?;
                }
            }
        }
        Ok(())
    }

    /// True while the peer owes the rest of its preface or of a header block.
    pub fn is_within_head(&self) -> bool {
        !self.preface.is_empty() || self.block.is_some()
    }

    /// How many SETTINGS of ours the peer has acknowledged.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// How many streams it has reset.
    pub(crate) fn resets_seen(&self) -> u32 {
        self.resets_seen
    }

    fn frame(&mut self, now: Instant) -> Result<(), BadFrames> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.payload = usize::try_from(length).unwrap_or(usize::MAX);
        let what = match kind {
            DATA if flags & END_STREAM != 0 || (length > 0 && (flags & PADDED == 0 || length > 256)) => return Ok(()),
            WINDOW_UPDATE => return Ok(()),
            HEADERS | PUSH_PROMISE => {
                self.block = (flags & END_HEADERS == 0).then_some(0);
                return Ok(());
            }
            CONTINUATION => {
                let seen = self.block.map_or(1, |seen| seen + 1);
                self.block = (flags & END_HEADERS == 0).then_some(seen);
                return match seen <= CONTINUATIONS {
                    true => Ok(()),
                    false => Err(BadFrames::Flood("CONTINUATION frames")),
                };
            }
            RST_STREAM => {
                self.resets_seen = self.resets_seen.wrapping_add(1);
                return match self.resets.take(now) {
                    true => Ok(()),
                    false => Err(BadFrames::Flood("RST_STREAM frames")),
                };
            }
            DATA => "empty DATA frames",
            SETTINGS => {
                self.acknowledged = self.acknowledged.wrapping_add(u32::from(flags & ACK != 0));
                "SETTINGS frames"
            }
            6 => "PING frames",
            _ => "frames that carry nothing",
        };
        match self.noise.take(now) {
            true => Ok(()),
            false => Err(BadFrames::Flood(what)),
        }
    }
}

fn skip<'a>(bytes: &'a [u8], left: &mut usize) -> &'a [u8] {
    let count = bytes.len().min(*left);
    *left -= count;
    bytes.get(count..).unwrap_or_default()
}
#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn flood(kind: u8, flags: u8, payload: &[u8], count: usize) -> Result<(), BadFrames> {
        let now = Instant::now();
        let mut guard = FrameGuard::of_client(FloodLimits::USER, now);
        guard.advance(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now)?;
        let frames = frame(kind, flags, payload).repeat(count);
        frames.chunks(7).try_for_each(|piece| guard.advance(piece, now))
    }

    #[test]
    fn storms_of_empty_frames_end_the_connection() {
        for (kind, payload) in [(DATA, &[][..]), (6, &[0; 8]), (4, &[]), (2, &[0; 5]), (RST_STREAM, &[0; 4]), (99, &[])]
        {
            assert_eq!(flood(kind, 0, payload, 1_000), Ok(()), "{kind}");
            assert!(matches!(flood(kind, 0, payload, 3_000), Err(BadFrames::Flood(_))), "{kind}");
        }
        assert!(matches!(flood(CONTINUATION, 0, &[], 40), Err(BadFrames::Flood(_))));
        assert!(matches!(flood(DATA, PADDED, &[3, 0, 0, 0], 3_000), Err(BadFrames::Flood(_))));
        assert_eq!(flood(DATA, 0, b"x", 10_000), Ok(()));
        assert_eq!(flood(WINDOW_UPDATE, 0, &[0, 0, 0, 1], 10_000), Ok(()));
        assert_eq!(flood(HEADERS, END_HEADERS | END_STREAM, b"x", 10_000), Ok(()));
    }

    #[test]
    fn the_preface_is_that_of_http2() {
        let now = Instant::now();
        for (bytes, good) in
            [(&PREFACE[..], true), (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false), (b"PRI * HTTP/1", false)]
        {
            for size in [1, 5, 100] {
                let mut guard = FrameGuard::of_client(FloodLimits::USER, now);
                let passed = bytes.chunks(size).try_for_each(|piece| guard.advance(piece, now));
                assert_eq!(passed, if good { Ok(()) } else { Err(BadFrames::Preface) });
            }
        }
        let mut guard = FrameGuard::of_client(FloodLimits::USER, now);
        guard.advance(&PREFACE[..10], now).unwrap();
        assert!(guard.is_within_head());
        guard.advance(&PREFACE[10..], now).unwrap();
        assert!(!guard.is_within_head());
    }

    #[test]
    fn a_bucket_fills_again() {
        let now = Instant::now();
        let mut guard = FrameGuard::of_server(FloodLimits::USER, now);
        let pings = frame(6, 0, &[0; 8]).repeat(200);
        for second in 0..60 {
            guard.advance(&pings, now + Duration::from_secs(second)).unwrap();
        }
    }
}
