//! One record as bytes: length and CRC32C, then sequence, hash of the record before, kind, id, payload.

use std::{fmt, ops::RangeToInclusive};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ztka_core::AuditId;

/// Longest payload, in bytes; an event is bounded well below it.
pub(crate) const MAX_PAYLOAD: usize = 256 * 1024;

/// Length and checksum.
pub(super) const PREFIX: usize = 8;
/// Sequence, previous, kind, id as text.
const FIXED: usize = 8 + 32 + 1 + 36;

/// SHA-256.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a SHA-256 in hexadecimal")]
pub struct NotAHash;

impl Hash {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<Sha256> for Hash {
    fn from(digest: Sha256) -> Self {
        Self(digest.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| DIGITS.get(usize::from(value & 15)).copied().unwrap_or(b'0');
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, NotAHash> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Err(NotAHash);
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            let pair = text.get(2 * index..2 * index + 2).ok_or(NotAHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(hash))
    }
}

/// What a record is to its request.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The first of a request.
    Open,
    /// A later one.
    Note,
    /// The last one, or one that stands alone.
    Close,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Note => 2,
            Self::Close => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Open, Self::Note, Self::Close].into_iter().find(|kind| kind.code() == code)
    }
}

/// Place of a record in a spool. Ordered.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Byte in the segment.
    pub offset: u64,
}

/// One record of a spool, whole and with a valid checksum.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Where it is in its spool; zero once it has left it.
    pub position: Position,
    /// Its number in the journal, from 0, without holes.
    pub sequence: u64,
    /// [`Self::hash`] of the record before it; zeros for the first.
    pub previous: Hash,
    /// What it is to its request.
    pub kind: Kind,
    /// The request.
    pub id: AuditId,
    /// JSON: an [`Event`](crate::Event) or a [`Receipt`](crate::Receipt).
    pub payload: String,
}

impl Record {
    /// SHA-256 over everything but the place; what the next record names as its `previous`.
    pub fn hash(&self) -> Hash {
        let mut out = Vec::with_capacity(FIXED + self.payload.len());
        body(&mut out, self.sequence, &self.previous, self.kind, self.id, self.payload.as_bytes());
        Hash::of(&out)
    }

    /// Bytes of its frame.
    pub(crate) fn length(&self) -> u64 {
        length(self.payload.len())
    }

    /// Appends its frame.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        framed(out, |out| body(out, self.sequence, &self.previous, self.kind, self.id, self.payload.as_bytes()));
    }

    /// The record whose frame is at the start of `bytes`, if there is one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes, Position::default())
    }
}

/// Bytes that a record with a payload of this many takes.
pub(super) fn length(payload: usize) -> u64 {
    (PREFIX + FIXED + payload) as u64
}

fn body(out: &mut Vec<u8>, sequence: u64, previous: &Hash, kind: Kind, id: AuditId, payload: &[u8]) {
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&previous.0);
    out.push(kind.code());
    out.extend_from_slice(id.to_string().as_bytes());
    out.extend_from_slice(payload);
}

/// Writes length and checksum, and after them what `content` appends.
pub(crate) fn framed(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    content(out);
    let Some((prefix, content)) = out.get_mut(start..).and_then(|frame| frame.split_first_chunk_mut::<PREFIX>()) else {
        return;
    };
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), content).to_le_bytes();
    for (to, from) in prefix.iter_mut().zip(length.into_iter().chain(checksum)) {
        *to = from;
    }
}

/// Appends a record and returns its hash.
pub(super) fn encode(
    out: &mut Vec<u8>,
    sequence: u64,
    previous: &Hash,
    kind: Kind,
    id: AuditId,
    payload: &[u8],
) -> Hash {
    let start = out.len() + PREFIX;
    framed(out, |out| body(out, sequence, previous, kind, id, payload));
    Hash::of(out.get(start..).unwrap_or_default())
}

/// The length that a frame's first bytes claim, if it can be that of a record.
pub(super) fn claimed(prefix: &[u8]) -> Option<usize> {
    let (length, _) = prefix.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (FIXED..=FIXED + MAX_PAYLOAD).contains(&length).then_some(length)
}

/// The content of the frame at the start of `bytes`, if its length is `allowed` and its checksum right, and what comes
/// after it.
pub(crate) fn unframed(bytes: &[u8], allowed: RangeToInclusive<usize>) -> Option<(&[u8], &[u8])> {
    let (length, _) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| allowed.contains(length))?;
    Some((content(bytes, length)?, bytes.get(PREFIX + length..)?))
}

/// The content of a frame of `length` at the start of `bytes`, if its checksum is right.
pub(super) fn content(bytes: &[u8], length: usize) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let content = rest.get(..length)?;
    let right = crc32c::crc32c_append(crc32c::crc32c(head), content) == u32::from_le_bytes(*checksum);
    right.then_some(content)
}

/// The record at the start of `bytes`, if there is one.
pub(super) fn decode(bytes: &[u8], position: Position) -> Option<Record> {
    let content = content(bytes, claimed(bytes)?)?;
    let (sequence, rest) = content.split_first_chunk::<8>()?;
    let (previous, rest) = rest.split_first_chunk::<32>()?;
    let (kind, rest) = rest.split_first()?;
    let (id, payload) = rest.split_first_chunk::<36>()?;
    Some(Record {
        position,
        sequence: u64::from_le_bytes(*sequence),
        previous: Hash(*previous),
        kind: Kind::from_code(*kind)?,
        id: AuditId::parse(std::str::from_utf8(id).ok()?)?,
        payload: std::str::from_utf8(payload).ok()?.to_owned(),
    })
}
