//! What proves to an agent who a user is.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Names one [`Evidence`]: SHA-256 of its bytes, in lower-case hexadecimal.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(transparent)]
pub struct EvidenceId(String);

impl EvidenceId {
    /// Reads an id from a header; `None` unless it is 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EvidenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Certificate chain and session document of a user, opaque to whoever carries them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Evidence {
    id: EvidenceId,
    bytes: Bytes,
}

impl Evidence {
    /// Names these bytes by their digest.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let id = EvidenceId(hex(&Sha256::digest(&bytes)));
        Self { id, bytes }
    }

    /// The digest.
    pub fn id(&self) -> &EvidenceId {
        &self.id
    }

    /// What is carried.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
