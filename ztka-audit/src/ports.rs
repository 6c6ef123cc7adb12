//! The ports that a port-forward opens, read from what its client sends: they are nowhere else.
//!
//! kubectl names no port in its request. Each connection that it forwards is a pair of SPDY streams whose headers carry
//! the port; over WebSocket the same frames travel inside messages (`k8s.io/client-go/tools/portforward`).

use std::num::NonZeroU16;

use http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};
use ztka_core::{
    Upgrade,
    stream::{
        Violation, spdy,
        websocket::{self, Sender},
    },
};

/// Most different ports of one port-forward; their list fits into an annotation.
const MAX_PORTS: usize = 128;

/// Reads the client's side of one port-forward. Holds the ports and at most one frame's head or header block.
#[derive(Debug)]
pub(crate) struct Ports {
    messages: Option<websocket::Decoder>,
    frames: spdy::Decoder,
    opened: Vec<NonZeroU16>,
}

/// Why the ports of a port-forward cannot be recorded.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the ports of a port-forward cannot be read: {0}")]
    Violation(Violation),
    #[error("a stream of a port-forward names no port from 1 to 65535, or more than one")]
    NotOne,
    #[error("a port-forward opens more than {MAX_PORTS} different ports; start another one for the others")]
    TooMany,
}

impl Ports {
    /// For a port-forward over `upgrade` that was answered with `answer`.
    ///
    /// `None` for the older form of WebSocket, one channel for each port: there the request names the ports, or is
    /// refused by the kubelet (`k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`).
    pub(crate) fn of(upgrade: Upgrade, answer: &HeaderMap) -> Option<Self> {
        let messages = match upgrade {
            Upgrade::Spdy31 => None,
            Upgrade::WebSocket => match answer.get(SEC_WEBSOCKET_PROTOCOL).map(|protocol| protocol.as_bytes()) {
                None | Some(b"v4.channel.k8s.io" | b"v4.base64.channel.k8s.io") => return None,
                // SPDY/3.1+portforward.k8s.io. Anything else that was agreed on would not be read as that.
                Some(_) => Some(websocket::Decoder::new(Sender::Client)),
            },
        };
        Some(Self { messages, frames: spdy::Decoder::default(), opened: Vec::new() })
    }

    /// Reads on. True if ports were opened that had not been before.
    ///
    /// # Errors
    /// [`Unreadable`]: the stream has to end.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<bool, Unreadable> {
        let before = self.opened.len();
        let Self { messages, frames, opened } = self;
        match messages {
            None => read_frames(frames, opened, bytes)?,
            Some(messages) => {
                while !bytes.is_empty() {
                    let (consumed, event) = messages.decode(bytes).map_err(Unreadable::Violation)?;
                    if let Some(websocket::Event::Message { bytes, .. }) = event {
                        read_frames(frames, opened, &bytes)?;
                    }
                    bytes = bytes.get(consumed..).unwrap_or_default();
                }
            }
        }
        Ok(self.opened.len() > before)
    }

    /// The ports in the order in which they were first opened, as the annotation lists them.
    pub(crate) fn list(&self) -> String {
        self.opened.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

fn read_frames(frames: &mut spdy::Decoder, opened: &mut Vec<NonZeroU16>, mut bytes: &[u8]) -> Result<(), Unreadable> {
    while !bytes.is_empty() {
        let (consumed, event) = frames.decode(bytes).map_err(Unreadable::Violation)?;
        if let Some(spdy::Event::Open { headers, .. }) = event {
            let port = headers.one("port").and_then(port).ok_or(Unreadable::NotOne)?;
            if !opened.contains(&port) {
                if opened.len() == MAX_PORTS {
                    return Err(Unreadable::TooMany);
                }
                opened.push(port);
            }
        }
        bytes = bytes.get(consumed..).unwrap_or_default();
    }
    Ok(())
}

/// Decimal digits alone, as Go's `strconv.ParseUint` takes them.
fn port(text: &str) -> Option<NonZeroU16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
pub(crate) mod tests;
