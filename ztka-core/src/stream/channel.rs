//! Kubernetes' channels over WebSocket: the first byte of each message says which (`v4.channel.k8s.io`,
//! `v5.channel.k8s.io`; `k8s.io/apimachinery/pkg/util/remotecommand`).
//!
//! Of exec and attach: 0 standard input, 1 output, 2 errors, 3 the final status, 4 the terminal's size.

use std::borrow::Cow;

use super::{
    Violation,
    websocket::{self, Sender},
};

#[cfg(test)]
mod tests;

/// The final status of exec and attach; a JSON `Status`.
pub const ERROR: u8 = 3;
/// In version 5: the byte behind it names a channel that is closed.
const CLOSE: u8 = 255;

/// The version agreed on in `Sec-WebSocket-Protocol`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// `v4.channel.k8s.io`
    V4,
    /// `v5.channel.k8s.io`: a channel can be closed.
    V5,
}

impl Version {
    /// Reads a name of `Sec-WebSocket-Protocol`; `None` for others, such as a tunnelled port-forward.
    pub fn from_protocol(name: &str) -> Option<Self> {
        match name {
            "v4.channel.k8s.io" => Some(Self::V4),
            "v5.channel.k8s.io" => Some(Self::V5),
            _ => None,
        }
    }
}

/// What is said on a channel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A piece of what goes over a channel; never empty.
    Data {
        /// The channel.
        channel: u8,
        /// The payload.
        bytes: Cow<'a, [u8]>,
    },
    /// A channel is closed in this direction.
    Close(u8),
    /// The connection is closed, with the status code if there is one.
    End(Option<u16>),
}

/// Reads one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    frames: websocket::Decoder,
    version: Version,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// At the first byte of a message.
    Start,
    Channel(u8),
    /// Behind 255.
    Closing,
    /// Behind 255 and a channel: the message ends here.
    Closed,
    Broken(Violation),
}

impl Decoder {
    /// Reads what `sender` sends.
    pub fn new(sender: Sender, version: Version) -> Self {
        Self { frames: websocket::Decoder::new(sender), version, state: State::Start }
    }

    /// Reads from the front of `input`, up to the next event. Says how many bytes that took, at least one if there are
    /// any. No payload is held.
    ///
    /// # Errors
    /// [`Violation`], from then on always.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Violation> {
        if let State::Broken(violation) = self.state {
            return Err(violation);
        }
        let (taken, event) = self.frames.decode(input)?;
        let event = match event {
            None | Some(websocket::Event::Other) => None,
            Some(websocket::Event::Close(code)) => Some(Event::End(code)),
            Some(websocket::Event::Message { bytes, end, .. }) => {
                let read = self.read(bytes, end).inspect_err(|violation| self.state = State::Broken(*violation));
                read?
            }
        };
        Ok((taken, event))
    }

    fn read<'a>(&mut self, mut bytes: Cow<'a, [u8]>, end: bool) -> Result<Option<Event<'a>>, Violation> {
        let mut event = None;
        if self.state == State::Start {
            match bytes.first() {
                Some(&CLOSE) if self.version == Version::V5 => self.state = State::Closing,
                Some(&channel) => self.state = State::Channel(channel),
                None => return Ok(None),
            }
            drop_first(&mut bytes);
        }
        if self.state == State::Closing
            && let Some(&channel) = bytes.first()
        {
            drop_first(&mut bytes);
            self.state = State::Closed;
            event = Some(Event::Close(channel));
        }
        match self.state {
            State::Closing if end => return Err(Violation::new("a message closes no channel")),
            State::Closed if !bytes.is_empty() => return Err(Violation::new("a message closes more than a channel")),
            State::Channel(channel) if !bytes.is_empty() => event = Some(Event::Data { channel, bytes }),
            _ => {}
        }
        if end {
            self.state = State::Start;
        }
        Ok(event)
    }
}

fn drop_first(bytes: &mut Cow<'_, [u8]>) {
    match bytes {
        Cow::Borrowed(bytes) => *bytes = bytes.get(1..).unwrap_or_default(),
        Cow::Owned(bytes) => drop(bytes.drain(..bytes.len().min(1))),
    }
}
