//! A recording in pieces: each names the hash of the one before, and the last one says how it ended.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{AuditId, ClusterId, CredentialId, OrgId, UserId, UserName};

use crate::Hash;

/// Longest chunk, in bytes.
pub const MAX_CHUNK: usize = 1 << 20;
/// Bytes of randomness in each chunk: whoever has its hash cannot try out what it says.
const SALT: usize = 16;

/// What a recording is of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct About {
    /// The organisation.
    pub org: OrgId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Who.
    pub user: UserId,
    /// Who, by name.
    pub user_name: UserName,
    /// By which credential.
    pub credential: CredentialId,
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its container, if one was named.
    #[serde(default)]
    pub container: String,
    /// `exec` or `attach`.
    pub kind: String,
    /// The words of the command; none of an attach.
    #[serde(default)]
    pub command: Vec<String>,
    /// There is a terminal.
    pub tty: bool,
    /// It has to be recorded.
    pub required: bool,
    /// When it was asked for.
    pub started: Timestamp,
}

/// How a recording has ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Last {
    /// In which way.
    pub end: RecordingEnd,
    /// Why, where it is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The exit code of the command, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

/// In which way a recording has ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordingEnd {
    /// All of its session is there.
    Complete,
    /// The session was not recorded to its end.
    Failed,
    /// The process that recorded it is gone; at most a second before that is missing.
    Interrupted,
}

impl RecordingEnd {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A piece of a recording.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chunk {
    /// The recording: the Audit-ID of its request.
    pub recording: AuditId,
    /// From 0, without holes.
    pub number: u64,
    /// [`Self::hash`] of the chunk before; zeros for the first.
    pub previous: Hash,
    /// When it was closed.
    pub at: Timestamp,
    /// Of the first one: what the recording is of.
    pub about: Option<About>,
    /// Of the last one: how it has ended.
    pub last: Option<Last>,
    /// Whole lines of asciicast v3; the first line of all is the header.
    pub lines: Bytes,
    hash: Hash,
    wire: Bytes,
}

/// The line in front of the lines.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Head {
    recording: AuditId,
    number: u64,
    previous: Hash,
    salt: String,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<About>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
}

/// Bytes that are no chunk.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a chunk of a recording: {0}")]
pub struct NotAChunk(&'static str);

impl Chunk {
    /// Its media type on the wire.
    pub const MEDIA_TYPE: &'static str = "application/vnd.ztka.recording-chunk";

    /// SHA-256 of [`Self::encoded`].
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// A line of JSON with all but the lines, then these.
    pub fn encoded(&self) -> &Bytes {
        &self.wire
    }

    /// Reads what [`Self::encoded`] gave.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(wire: Bytes) -> Result<Self, NotAChunk> {
        if wire.len() > MAX_CHUNK {
            return Err(NotAChunk("it is too long"));
        }
        let end = wire.iter().position(|byte| *byte == b'\n').ok_or(NotAChunk("it has no head"))?;
        let head: Head = serde_json::from_slice(wire.get(..end).unwrap_or_default())
            .map_err(|_| NotAChunk("its head cannot be read"))?;
        let Head { recording, number, previous, salt: _, at, about, last } = head;
        if about.is_some() != (number == 0) {
            return Err(NotAChunk("the first one, and no other, says what it is of"));
        }
        let lines = wire.slice(end + 1..);
        if lines.last().is_some_and(|byte| *byte != b'\n') || std::str::from_utf8(&lines).is_err() {
            return Err(NotAChunk("it does not consist of lines"));
        }
        Ok(Self { recording, number, previous, at, about, last, lines, hash: Hash::of(&wire), wire })
    }
}

/// Where a recording is: what its next chunk has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordingChain {
    /// Number of the next chunk.
    pub next: u64,
    /// Hash of the last one.
    pub head: Hash,
}

impl RecordingChain {
    /// Of a recording without chunks.
    pub fn start() -> Self {
        Self { next: 0, head: Hash::default() }
    }

    /// True if `chunk` is the next one. Then it is taken.
    pub fn takes(&mut self, chunk: &Chunk) -> bool {
        let fits = chunk.number == self.next && chunk.previous == self.head;
        if fits {
            *self = Self { next: self.next + 1, head: chunk.hash };
        }
        fits
    }

    /// Makes the next chunk: `about` in the first one, `last` in the last one.
    pub fn cut(
        &mut self,
        recording: AuditId,
        at: Timestamp,
        about: Option<About>,
        last: Option<Last>,
        lines: &[u8],
    ) -> Chunk {
        let salt = salt();
        let (number, previous) = (self.next, self.head);
        let head = Head { recording, number, previous, salt, at, about, last };
        // Ids, numbers and texts always serialise.
        let mut wire = serde_json::to_vec(&head).unwrap_or_default();
        wire.push(b'\n');
        let end = wire.len();
        wire.extend_from_slice(lines);
        let wire = Bytes::from(wire);
        let Head { about, last, .. } = head;
        let (lines, hash) = (wire.slice(end..), Hash::of(&wire));
        *self = Self { next: number + 1, head: hash };
        Chunk { recording, number, previous, at, about, last, lines, hash, wire }
    }
}

/// Hexadecimal.
fn salt() -> String {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut salt = [0; SALT];
    // Without randomness from the system TLS would not work either; a salt that is missing takes nothing from the chain.
    let _ = SystemRandom::new().fill(&mut salt);
    salt.iter().map(|byte| format!("{byte:02x}")).collect()
}
