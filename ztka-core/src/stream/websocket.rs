//! WebSocket frames of one direction (RFC 6455 §5), without extensions.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::Violation;

/// Who sends the bytes: a client masks its frames, a server does not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sender {
    /// The end that asked for the connection.
    Client,
    /// The end that accepted it.
    Server,
}

/// What a frame means, or a piece of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A piece of a text or binary message, unmasked; empty at the end of one if nothing is left to say.
    Message {
        /// The payload.
        bytes: Cow<'a, [u8]>,
        /// The message begins here.
        start: bool,
        /// The message ends here.
        end: bool,
    },
    /// Close, with the status code if there is one. Nothing follows but what was on its way.
    Close(Option<u16>),
    /// Ping or pong: nothing to decide on or to record.
    Other,
}

/// Reads one direction of a connection, from behind the handshake.
#[derive(Debug)]
pub struct Decoder {
    sender: Sender,
    state: State,
    /// Frames of a message have been seen, and not yet its last.
    within: bool,
    /// A piece of the message has been told.
    begun: bool,
}

#[derive(Debug)]
enum State {
    /// Collects the head of a frame.
    Head(Vec<u8>),
    Control {
        head: Head,
        mask: Mask,
        held: Vec<u8>,
    },
    Data {
        mask: Mask,
        left: u64,
        last: bool,
    },
    Broken(Violation),
}

#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    last: bool,
    length: u64,
}

const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
/// Longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

impl Decoder {
    /// Reads what `sender` sends.
    pub fn new(sender: Sender) -> Self {
        Self { sender, state: State::Head(Vec::new()), within: false, begun: false }
    }

    /// Reads from the front of `input`, up to the next event. Says how many bytes that took, at least one if there are
    /// any. At most 139 bytes are taken without an event.
    ///
    /// # Errors
    /// [`Violation`], from then on always.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Violation> {
        let (taken, event) = self.decode_masked(input)?;
        let event = event.map(|event| match event {
            Masked::Message { mut payload, start, end } => {
                Event::Message { bytes: payload.take(usize::MAX), start, end }
            }
            Masked::Close(code) => Event::Close(code),
            Masked::Other => Event::Other,
        });
        Ok((taken, event))
    }

    /// True between two frames that are not parts of one message: here somebody else's frame could stand.
    pub fn is_between_messages(&self) -> bool {
        !self.within && !self.begun && matches!(&self.state, State::Head(held) if held.is_empty())
    }

    /// Bytes left of the payload that is being read, as far as it is known.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.state {
            State::Data { left, .. } => Some(*left),
            _ => None,
        }
    }

    /// As [`Self::decode`], with the payload as it was sent: for whoever looks at a small part of it.
    pub(super) fn decode_masked<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Masked<'a>>), Violation> {
        let mut taken = 0;
        if let State::Head(held) = &mut self.state {
            let sender = self.sender;
            while let Some(&byte) = input.get(taken) {
                held.push(byte);
                taken += 1;
                match read_head(held, sender) {
                    Ok(None) => {}
                    Ok(Some((head, mask))) => {
                        self.begin(head, mask)?;
                        break;
                    }
                    Err(violation) => return self.fail(violation),
                }
            }
        }
        let rest = input.get(taken..).unwrap_or_default();
        match &mut self.state {
            State::Head(_) => Ok((taken, None)),
            State::Broken(violation) => Err(*violation),
            State::Control { head, mask, held } => {
                let missing = usize::try_from(head.length).unwrap_or(usize::MAX).saturating_sub(held.len());
                let bytes = rest.get(..missing).unwrap_or(rest);
                held.extend_from_slice(&mask.apply(bytes));
                taken += bytes.len();
                if bytes.len() < missing {
                    return Ok((taken, None));
                }
                let (kind, held) = (head.kind, std::mem::take(held));
                self.state = State::Head(Vec::new());
                match (kind, held.as_slice()) {
                    (CLOSE, []) => Ok((taken, Some(Masked::Close(None)))),
                    (CLOSE, [a, b, ..]) => Ok((taken, Some(Masked::Close(Some(u16::from_be_bytes([*a, *b])))))),
                    (CLOSE, _) => self.fail(Violation::new("a close frame has half a status code")),
                    _ => Ok((taken, Some(Masked::Other))),
                }
            }
            State::Data { mask, left, last } => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX);
                let bytes = rest.get(..length).unwrap_or(rest);
                *left -= u64::try_from(bytes.len()).unwrap_or(*left);
                let done = *left == 0;
                let end = done && *last;
                let bytes_read = bytes.len();
                let told = bytes_read > 0 || end;
                let payload = Payload { bytes, mask: *mask };
                mask.skip(bytes_read);
                let event = Masked::Message { payload, start: !self.begun, end };
                if done {
                    self.state = State::Head(Vec::new());
                }
                if told {
                    self.begun = !end;
                }
                Ok((taken + bytes_read, told.then_some(event)))
            }
        }
    }

    fn fail<T>(&mut self, violation: Violation) -> Result<T, Violation> {
        self.state = State::Broken(violation);
        Err(violation)
    }

    fn begin(&mut self, head: Head, mask: Mask) -> Result<(), Violation> {
        if head.kind >= CLOSE {
            self.state = State::Control { head, mask, held: Vec::new() };
            return Ok(());
        }
        match (head.kind == CONTINUATION, self.within) {
            (true, false) => return self.fail(Violation::new("a message goes on that has not begun")),
            (false, true) => return self.fail(Violation::new("a message begins within another")),
            _ => self.within = !head.last,
        }
        self.state = State::Data { mask, left: head.length, last: head.last };
        Ok(())
    }
}

/// `None` while bytes are missing.
fn read_head(held: &[u8], sender: Sender) -> Result<Option<(Head, Mask)>, Violation> {
    let &[first, ref rest @ ..] = held else { return Ok(None) };
    let (kind, last) = (first & 0xf, first & 0x80 != 0);
    if first & 0x70 != 0 {
        return Err(Violation::new("a frame uses an extension; none was agreed on"));
    }
    if !matches!(kind, 0..=2 | 8..=10) {
        return Err(Violation::new("a frame is of an unknown kind"));
    }
    let &[second, ref rest @ ..] = rest else { return Ok(None) };
    if (second & 0x80 != 0) != (sender == Sender::Client) {
        return Err(Violation::new("a client's frames are masked, a server's are not"));
    }
    let short = u64::from(second & 0x7f);
    if kind >= CLOSE && (short > MAX_CONTROL || !last) {
        return Err(Violation::new("a control frame is longer than 125 bytes or in several parts"));
    }
    let (length, rest) = match short {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        _ => (short, rest),
    };
    let shortest = match short {
        126 => 126,
        127 => 0x1_0000,
        _ => 0,
    };
    if length < shortest || length > u64::MAX >> 1 {
        return Err(Violation::new("a frame's length is not written in its one form"));
    }
    let key = match sender {
        Sender::Server => [0; 4],
        Sender::Client => match rest.first_chunk() {
            Some(key) => *key,
            None => return Ok(None),
        },
    };
    Ok(Some((Head { kind, last, length }, Mask { key })))
}

/// An [`Event`] whose payload is still masked.
#[derive(Debug)]
pub(super) enum Masked<'a> {
    Message { payload: Payload<'a>, start: bool, end: bool },
    Close(Option<u16>),
    Other,
}

/// A payload of which only what is taken is unmasked.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    bytes: &'a [u8],
    mask: Mask,
}

impl<'a> Payload<'a> {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Leaves out the first `count` bytes.
    pub(super) fn skip(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.mask.skip(count);
        self.bytes = self.bytes.get(count..).unwrap_or_default();
    }

    /// The first `count` bytes, or all there are; they are still there afterwards.
    pub(super) fn peek(&self, count: usize) -> Cow<'a, [u8]> {
        let mut mask = self.mask;
        mask.apply(self.bytes.get(..count).unwrap_or(self.bytes))
    }

    /// Takes the first `count` bytes, or all there are.
    fn take(&mut self, count: usize) -> Cow<'a, [u8]> {
        let taken = self.peek(count);
        self.skip(taken.len());
        taken
    }
}

/// The masking key, turned to where the next byte needs it.
#[derive(Clone, Copy, Debug)]
struct Mask {
    key: [u8; 4],
}

impl Mask {
    fn apply<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.key == [0; 4] {
            return Cow::Borrowed(bytes);
        }
        let plain = bytes.iter().zip(self.key.into_iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        self.skip(bytes.len());
        Cow::Owned(plain)
    }

    fn skip(&mut self, count: usize) {
        self.key.rotate_left(count % 4);
    }
}
