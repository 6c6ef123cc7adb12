//! Port-forwards: which ports a client opens, read from what it sends, and how it is told that one is refused.
//!
//! kubectl names no port in its request. Each connection that it forwards is a pair of SPDY streams whose headers carry
//! the port; over WebSocket the same frames travel inside messages (`k8s.io/client-go/tools/portforward`). All that a
//! client opens shares one compression of headers, so that a refused stream cannot be taken out of what goes on: a
//! [`Refusal`] answers it and the connection ends.

mod refusal;
#[cfg(test)]
mod tests;

use std::num::NonZeroU16;

use http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};

pub use self::refusal::{Answers, Refusal};
use super::{
    Violation, spdy,
    websocket::{self, Masked, Sender},
};
use crate::Upgrade;

/// Most different ports of one port-forward.
pub const MAX_PORTS: usize = 128;
/// What is offered and agreed on for SPDY inside WebSocket.
pub const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// Unmasked at once to look for a frame.
const LOOK: usize = 256;

/// Why it cannot be told which ports a port-forward opens.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not what was agreed on.
    #[error("the ports of a port-forward cannot be read: {0}")]
    Violation(Violation),
    /// Kubernetes would take it for something else, or for nothing.
    #[error("a stream of a port-forward names no port from 1 to 65535, or more than one")]
    NotOne,
    /// More than [`MAX_PORTS`].
    #[error("a port-forward opens more than {MAX_PORTS} different ports; start another one for the others")]
    TooMany,
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The client reads from it why its connection failed, if it did.
    Error,
    /// The forwarded connection itself.
    Data,
    /// Kubernetes knows no other; its servers refuse it.
    Other,
}

/// A stream that the client opens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// Its number.
    pub stream: u32,
    /// What it is for.
    pub kind: Kind,
    /// The pod's port.
    pub port: NonZeroU16,
    /// The same of both streams of a connection.
    pub request: String,
}

/// Reads the client's side of a port-forward. Holds at most one frame's head or header block, and no payload.
#[derive(Debug)]
pub struct Requests {
    messages: Option<websocket::Decoder>,
    frames: spdy::Decoder,
    broken: Option<Unreadable>,
}

impl Requests {
    /// For a port-forward over `upgrade` that was answered with the headers `answer`.
    ///
    /// `None` for the older form of WebSocket, one channel for each port: there the request names the ports, or is
    /// refused by the kubelet (`k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`).
    pub fn of(upgrade: Upgrade, answer: &HeaderMap) -> Option<Self> {
        let messages = match upgrade {
            Upgrade::Spdy31 => None,
            Upgrade::WebSocket => match answer.get(SEC_WEBSOCKET_PROTOCOL).map(|protocol| protocol.as_bytes()) {
                None | Some(b"v4.channel.k8s.io" | b"v4.base64.channel.k8s.io") => return None,
                // [`TUNNELLED`]. Anything else that was agreed on would not be read as that.
                Some(_) => Some(websocket::Decoder::new(Sender::Client)),
            },
        };
        Some(Self { messages, frames: spdy::Decoder::default(), broken: None })
    }

    /// Reads on, and tells `opened` of each stream. Payload of forwarded connections is neither copied nor unmasked.
    ///
    /// # Errors
    /// [`Unreadable`], from then on always: the connection has to end. Streams before it have been told.
    pub fn read(&mut self, bytes: &[u8], opened: impl FnMut(Open)) -> Result<(), Unreadable> {
        if let Some(unreadable) = self.broken {
            return Err(unreadable);
        }
        let read = self.read_on(bytes, opened);
        self.broken = read.err();
        read
    }

    fn read_on(&mut self, mut bytes: &[u8], mut opened: impl FnMut(Open)) -> Result<(), Unreadable> {
        let Self { messages, frames, .. } = self;
        let Some(messages) = messages else {
            while !bytes.is_empty() {
                let consumed = read_frame(frames, bytes, &mut opened)?;
                bytes = bytes.get(consumed..).unwrap_or_default();
            }
            return Ok(());
        };
        while !bytes.is_empty() {
            let (consumed, event) = messages.decode_masked(bytes).map_err(Unreadable::Violation)?;
            if let Some(Masked::Message { mut payload, .. }) = event {
                while payload.len() > 0 {
                    let skipped = frames.skip(payload.len());
                    payload.skip(skipped);
                    let plain = payload.peek(LOOK);
                    if !plain.is_empty() {
                        payload.skip(read_frame(frames, &plain, &mut opened)?);
                    }
                }
            }
            bytes = bytes.get(consumed..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads up to the next event, and says how many bytes that took.
fn read_frame(frames: &mut spdy::Decoder, bytes: &[u8], opened: &mut impl FnMut(Open)) -> Result<usize, Unreadable> {
    let (consumed, event) = frames.decode(bytes).map_err(Unreadable::Violation)?;
    if let Some(spdy::Event::Open { stream, headers, .. }) = event {
        let port = headers.one("port").and_then(port).ok_or(Unreadable::NotOne)?;
        let kind = match headers.one("streamtype") {
            Some("error") => Kind::Error,
            Some("data") => Kind::Data,
            _ => Kind::Other,
        };
        let request = headers.one("requestid").unwrap_or_default().to_owned();
        opened(Open { stream, kind, port, request });
    }
    Ok(consumed)
}

/// A port as Go's `strconv.ParseUint` takes it: decimal digits alone, from 1 to 65535.
pub fn port(text: &str) -> Option<NonZeroU16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The different ports that one port-forward has opened, in the order in which they came.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ports(Vec<NonZeroU16>);

impl Ports {
    /// Adds a port. True if it was not there before.
    ///
    /// # Errors
    /// [`Unreadable::TooMany`] beyond [`MAX_PORTS`].
    pub fn note(&mut self, port: NonZeroU16) -> Result<bool, Unreadable> {
        if self.0.contains(&port) {
            return Ok(false);
        }
        if self.0.len() == MAX_PORTS {
            return Err(Unreadable::TooMany);
        }
        self.0.push(port);
        Ok(true)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = NonZeroU16> {
        self.0.iter().copied()
    }

    /// Separated by commas.
    pub fn list(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}
