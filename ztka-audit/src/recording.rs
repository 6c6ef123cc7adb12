//! Recordings of sessions: exec and attach as asciicast v3, in chunks that are hashed, encrypted and written while they run.
//!
//! ```text
//!  client ◄──────────── Tap ────────────► cluster
//!                        │ both directions, as they pass
//!                        ▼
//!  Transcript: frames (WebSocket channels, SPDY/3.1) ──► events o, i, r, x ──► lines
//!                        ▼ four times a second, or at 64 KiB
//!  Chunk: SHA-256 over the chunk, which names that of the one before
//!                        ▼ a thread of its own
//!  file of the recording, sealed ──► RecordingSink (the controller), then removed here
//! ```
//!
//! The record of the request says how many chunks there are and the hash of the last one, so that whoever keeps the record
//! knows whether a recording is whole. `docs/recordings.md` says what is recorded, and what is hidden.

pub(crate) mod account;
#[cfg(feature = "recordings")]
mod cast;
#[cfg(feature = "recordings")]
mod chunk;
#[cfg(feature = "recordings")]
mod directory;
#[cfg(feature = "recordings")]
mod echo;
#[cfg(feature = "recordings")]
mod frames;
#[cfg(feature = "recordings")]
mod layer;
#[cfg(feature = "recordings")]
mod sealed;
#[cfg(feature = "recordings")]
mod ship;
#[cfg(feature = "recordings")]
mod spool;
#[cfg(feature = "recordings")]
mod tap;
#[cfg(feature = "recordings")]
mod tape;
#[cfg(feature = "recordings")]
mod transcript;
#[cfg(feature = "recordings")]
mod writer;

#[cfg(feature = "recordings")]
pub use self::{
    chunk::{About, Chunk, Last, MAX_CHUNK, NotAChunk, RecordingChain, RecordingEnd},
    directory::RecordingDirectory,
    layer::{RecordingLayer, SessionRecorder},
    ship::RecordingSink,
    spool::{InterruptedRecording, RecordingOptions, Recordings, RecordingsError},
    transcript::Transcript,
};

/// What of the input is recorded.
#[cfg(feature = "recordings")]
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Nothing.
    Off,
    /// What the terminal shows again; the rest is hidden. Nothing without a terminal.
    #[default]
    Echoed,
    /// Everything, passwords as well.
    All,
}

#[cfg(feature = "recordings")]
impl Input {
    /// Without a terminal nothing is echoed.
    fn of(self, tty: bool) -> Self {
        if self == Self::Echoed && !tty { Self::Off } else { self }
    }
}

#[cfg(test)]
#[cfg(feature = "recordings")]
mod tests;
