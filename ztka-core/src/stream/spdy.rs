//! SPDY/3.1 as Kubernetes uses it for exec, attach and port-forward: frames of one direction.
//!
//! Follows draft-mbelshe-httpbis-spdy-00 and what `github.com/moby/spdystream` accepts, less its leniency: it reads
//! several control frames without regard to their length, so that a wrong length would mean something else to it.

mod dictionary;
mod headers;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use self::dictionary::DICTIONARY;
pub(super) use self::dictionary::ID as DICTIONARY_ID;
pub use self::headers::Headers;
use self::headers::Inflate;
use super::{Violation, u32_at};

/// Longest header block, in bytes, compressed and inflated both.
const MAX_BLOCK: usize = 16 * 1024;
/// Longest SETTINGS frame, in bytes.
const MAX_SETTINGS: usize = 4 * 1024;
pub(super) const HEAD: usize = 8;
const STREAM: u32 = 0x7fff_ffff;
const FIN: u8 = 1;

/// What a frame means, or a piece of one.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// SYN_STREAM: a stream is opened.
    Open {
        /// The new stream; odd if the client opened it. Later ones are higher.
        stream: u32,
        /// What it is for: of a port-forward `streamtype`, `port` and `requestid`; of an exec `streamtype`.
        headers: Headers,
        /// The opener sends nothing on it.
        end: bool,
    },
    /// SYN_REPLY: a stream is accepted.
    Reply {
        /// The stream.
        stream: u32,
        /// What the answer says.
        headers: Headers,
        /// The answerer sends nothing on it.
        end: bool,
    },
    /// HEADERS of an open stream.
    Headers {
        /// The stream.
        stream: u32,
        /// What they say.
        headers: Headers,
        /// Nothing follows in this direction.
        end: bool,
    },
    /// A piece of a data frame, as much of it as was given; empty for an empty frame.
    Data {
        /// The stream.
        stream: u32,
        /// The payload.
        bytes: &'a [u8],
        /// Nothing follows in this direction.
        end: bool,
    },
    /// RST_STREAM.
    Reset {
        /// The stream.
        stream: u32,
        /// Why, in SPDY's codes.
        status: u32,
    },
    /// GOAWAY: no stream will be accepted any more.
    GoAway,
    /// SETTINGS, PING or WINDOW_UPDATE: nothing to decide on or to record.
    Other,
}

/// Reads one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    inflate: Inflate,
    last_opened: u32,
}

#[derive(Debug)]
enum State {
    /// Collects the head of a frame, then the whole of a control frame.
    Frame(Vec<u8>),
    Data {
        stream: u32,
        left: usize,
        end: bool,
    },
    Broken(Violation),
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Frame(Vec::new()), inflate: Inflate::default(), last_opened: 0 }
    }
}

impl Decoder {
    /// Reads from the front of `input`, up to the next event. Says how many bytes that took, at least one if there are
    /// any; all that were taken since the last event belong to this one.
    ///
    /// No event: the rest of a control frame is missing. At most 16 KiB and a frame's head are taken so.
    ///
    /// # Errors
    /// [`Violation`], from then on always.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Violation> {
        let read = match &mut self.state {
            State::Frame(_) => self.read_frame(input),
            State::Data { stream, left, end } => {
                let bytes = input.get(..*left).unwrap_or(input);
                *left -= bytes.len();
                let event = Event::Data { stream: *stream, bytes, end: *end && *left == 0 };
                if *left == 0 {
                    self.state = State::Frame(Vec::new());
                }
                Ok((bytes.len(), (!bytes.is_empty()).then_some(event)))
            }
            State::Broken(violation) => Err(*violation),
        };
        read.inspect_err(|violation| self.state = State::Broken(*violation))
    }

    /// Passes over what is left of a data frame's payload, up to `most` bytes, unseen. Says how many.
    pub(super) fn skip(&mut self, most: usize) -> usize {
        let State::Data { left, .. } = &mut self.state else { return 0 };
        let skipped = most.min(*left);
        *left -= skipped;
        if *left == 0 {
            self.state = State::Frame(Vec::new());
        }
        skipped
    }

    fn read_frame<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Violation> {
        let State::Frame(held) = &mut self.state else { return Ok((0, None)) };
        let mut taken = take(held, HEAD, input);
        let Some((head, _)) = held.split_first_chunk::<HEAD>() else { return Ok((taken, None)) };
        let head = Head::read(head)?;
        if let Kind::Data { stream } = head.kind {
            let end = head.flags == FIN;
            self.state = match head.length {
                0 => State::Frame(Vec::new()),
                left => State::Data { stream, left, end },
            };
            return Ok((taken, (head.length == 0).then_some(Event::Data { stream, bytes: &[], end })));
        }
        let wanted = HEAD + head.length;
        taken += take(held, wanted, input.get(taken..).unwrap_or_default());
        if held.len() < wanted {
            return Ok((taken, None));
        }
        let State::Frame(held) = std::mem::replace(&mut self.state, State::Frame(Vec::new())) else {
            return Ok((taken, None));
        };
        let payload = held.get(HEAD..).unwrap_or_default();
        self.read_control(&head, payload).map(|event| (taken, Some(event)))
    }

    fn read_control(&mut self, head: &Head, payload: &[u8]) -> Result<Event<'static>, Violation> {
        const SHORT: Violation = Violation("a control frame is too short");
        let end = head.flags & FIN != 0;
        let event = match head.kind {
            Kind::Other => Event::Other,
            Kind::Settings => {
                let (count, entries) = u32_at(payload).ok_or(SHORT)?;
                let expected = usize::try_from(count).ok().and_then(|count| count.checked_mul(8));
                match expected == Some(entries.len()) {
                    true => Event::Other,
                    false => return Err(Violation::new("SETTINGS have another length than their number says")),
                }
            }
            Kind::GoAway => Event::GoAway,
            Kind::Reset => {
                let (stream, rest) = stream_at(payload)?;
                Event::Reset { stream, status: u32_at(rest).ok_or(SHORT)?.0 }
            }
            Kind::Open => {
                let (stream, rest) = stream_at(payload)?;
                // Behind it: associated stream, priority, slot.
                let (_, block) = rest.split_first_chunk::<6>().ok_or(SHORT)?;
                if stream <= self.last_opened {
                    return Err(Violation::new("a stream is opened under a number that was used already"));
                }
                self.last_opened = stream;
                Event::Open { stream, headers: self.inflate.block(block)?, end }
            }
            Kind::Reply | Kind::Headers => {
                let (stream, block) = stream_at(payload)?;
                let headers = self.inflate.block(block)?;
                match head.kind {
                    Kind::Reply => Event::Reply { stream, headers, end },
                    _ => Event::Headers { stream, headers, end },
                }
            }
            Kind::Data { .. } => return Err(SHORT),
        };
        Ok(event)
    }
}

/// Moves bytes from `input` until `held` has `wanted`.
fn take(held: &mut Vec<u8>, wanted: usize, input: &[u8]) -> usize {
    let missing = wanted.saturating_sub(held.len());
    let bytes = input.get(..missing).unwrap_or(input);
    held.extend_from_slice(bytes);
    bytes.len()
}

fn stream_at(payload: &[u8]) -> Result<(u32, &[u8]), Violation> {
    match u32_at(payload) {
        Some((stream @ 1..=STREAM, rest)) => Ok((stream, rest)),
        Some(_) => Err(Violation::new("a frame names no valid stream")),
        None => Err(Violation::new("a control frame is too short")),
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Data { stream: u32 },
    Open,
    Reply,
    Headers,
    Reset,
    GoAway,
    Settings,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    kind: Kind,
    flags: u8,
    length: usize,
}

impl Head {
    fn read(head: &[u8; HEAD]) -> Result<Self, Violation> {
        let [a, b, c, d, flags, lengths @ ..] = *head;
        let [e, f, g] = lengths;
        let length = usize::try_from(u32::from_be_bytes([0, e, f, g])).unwrap_or(usize::MAX);
        let word = u32::from_be_bytes([a, b, c, d]);
        if word & !STREAM == 0 {
            return match (word, flags) {
                (0, _) => Err(Violation::new("a frame names no valid stream")),
                (stream, 0 | FIN) => Ok(Self { kind: Kind::Data { stream }, flags, length }),
                _ => Err(Violation::new("a data frame has unknown flags")),
            };
        }
        if word >> 16 != 0x8003 {
            return Err(Violation::new("a frame is not of SPDY/3.1"));
        }
        // Kind, flags it may have, lengths it may have.
        let (kind, known, lengths) = match word & 0xffff {
            1 => (Kind::Open, FIN | 2, 10..=10 + MAX_BLOCK),
            2 => (Kind::Reply, FIN, 4..=4 + MAX_BLOCK),
            3 => (Kind::Reset, 0, 8..=8),
            4 => (Kind::Settings, 1, 4..=MAX_SETTINGS),
            6 => (Kind::Other, 0, 4..=4),
            7 => (Kind::GoAway, 0, 8..=8),
            8 => (Kind::Headers, FIN, 4..=4 + MAX_BLOCK),
            9 => (Kind::Other, 0, 8..=8),
            _ => return Err(Violation::new("a control frame is of an unknown type")),
        };
        if flags & !known != 0 {
            return Err(Violation::new("a control frame has unknown flags"));
        }
        if !lengths.contains(&length) {
            return Err(Violation::new("a control frame has a length that its type cannot have"));
        }
        Ok(Self { kind, flags, length })
    }
}
