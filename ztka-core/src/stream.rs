//! Decoders of what passes over upgraded connections: fed with bytes as they come, they say what the bytes mean.
//!
//! They do no I/O and hold no payload, so whoever splices a connection can look on, one decoder for each direction, and
//! hold back what has not been decided yet. Memory is bounded, and what two readers could take differently is a
//! [`Violation`]: after it a decoder says nothing else, and the connection has to end.
//!
//! ```
//! use ztka_core::stream::spdy::{Decoder, Event};
//!
//! let mut decoder = Decoder::default();
//! let mut bytes: &[u8] = &[0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i'];
//! let mut seen = Vec::new();
//! while !bytes.is_empty() {
//!     let (consumed, event) = decoder.decode(bytes)?;
//!     if let Some(Event::Data { stream: 1, bytes, .. }) = event {
//!         seen.extend_from_slice(bytes);
//!     }
//!     bytes = &bytes[consumed..];
//! }
//! assert_eq!(seen, b"hi");
//! # Ok::<(), ztka_core::stream::Violation>(())
//! ```
pub mod channel;
pub mod forward;
pub mod spdy;
pub mod websocket;

/// Bytes that are not what the connection was opened for, or that two readers could take differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the stream is not well-formed and has to end: {0}")]
pub struct Violation(&'static str);

impl Violation {
    pub(crate) fn new(what: &'static str) -> Self {
        Self(what)
    }

    /// What is wrong.
    pub fn what(&self) -> &'static str {
        self.0
    }
}

/// Big-endian number at the front of `bytes`, and what follows it.
fn u32_at(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}
