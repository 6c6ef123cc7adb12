//! A leaf: a salt, and the exact bytes of who reported which event.

use std::{borrow::Cow, fmt};

use sha2::{Digest as _, Sha256};

use super::tree::LEAF;
use crate::Hash;

/// Random bits of one leaf. Without them nobody can find out by trying what a leaf was of, once the event is gone.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Salt([u8; 16]);

/// A text that is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a salt: 32 hexadecimal digits in small letters are expected")]
pub struct NotASalt;

impl Salt {
    /// Its length as text.
    pub const DIGITS: usize = 32;

    /// Of these bytes, which have to be random.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// Reads what its `Display` wrote.
    ///
    /// # Errors
    /// [`NotASalt`]
    pub fn parse(text: &[u8]) -> Result<Self, NotASalt> {
        let mut salt = [0; 16];
        if text.len() != Self::DIGITS {
            return Err(NotASalt);
        }
        for (byte, pair) in salt.iter_mut().zip(text.chunks_exact(2)) {
            let &[high, low] = pair else { return Err(NotASalt) };
            *byte = digit(high).ok_or(NotASalt)? << 4 | digit(low).ok_or(NotASalt)?;
        }
        Ok(Self(salt))
    }
}

fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secret once the event is gone.
        f.write_str("Salt")
    }
}

/// The hash of a leaf: SHA-256 over a zero byte, the salt and the [`entry`].
pub fn leaf_hash(salt: &Salt, entry: &[u8]) -> Hash {
    let mut digest = Sha256::new_with_prefix([LEAF]);
    digest.update(salt.0);
    digest.update(entry);
    digest.into()
}

/// The entry of an event: `{"source":"<SPIFFE id>","event":<as it was sent>}`. `payload` is JSON on [one line](one_line).
pub fn entry(source: &str, payload: &str) -> String {
    // A text always serialises.
    let source = serde_json::to_string(source).unwrap_or_default();
    let mut entry = String::with_capacity(source.len() + payload.len() + 24);
    for part in [r#"{"source":"#, &source, r#","event":"#, payload, "}"] {
        entry.push_str(part);
    }
    entry
}

/// The same JSON on one line, without blanks around it. Ours is that already: texts in JSON have no line ends in them.
pub fn one_line(payload: &str) -> Cow<'_, str> {
    let payload = payload.trim_matches([' ', '\t', '\n', '\r']);
    if payload.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
        Cow::Owned(payload.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(payload)
    }
}

/// A leaf as a store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// Its place in the log.
    pub index: u64,
    /// What it is of; none if that is gone, by retention or with its key.
    pub content: Option<LeafContent>,
}

/// What a leaf is of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeafContent {
    /// Its salt.
    pub salt: Salt,
    /// Its [`entry`].
    pub entry: String,
}

impl LeafContent {
    /// The leaf's hash.
    pub fn hash(&self) -> Hash {
        leaf_hash(&self.salt, self.entry.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_of_json_whatever_was_sent() {
        let sent = " {\n \"a\": \"\\n\"\r\n}\n";
        let line = one_line(sent);
        assert_eq!(line, "{  \"a\": \"\\n\"  }");
        let entry = entry("spiffe://x/\"\n", &line);
        assert!(!entry.contains('\n'));
        let read: serde_json::Value = serde_json::from_str(&entry).unwrap();
        assert_eq!(read["event"], serde_json::from_str::<serde_json::Value>(sent).unwrap());
        assert_eq!(read["source"], "spiffe://x/\"\n");
    }

    #[test]
    fn a_salt_has_one_spelling() {
        let salt = Salt::new([0xa7; 16]);
        assert_eq!(Salt::parse(salt.to_string().as_bytes()).unwrap(), salt);
        for bad in ["", "A7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7", "a7", "+7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7"] {
            assert!(Salt::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        // By another program: printf '\0\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1{}' | sha256sum
        let expected = "8fd4774446fdaa8869afd10052c1fd1bd3c6b9eb6581b3f3f6022630c6dfb1fd";
        assert_eq!(leaf_hash(&Salt::new([1; 16]), b"{}").to_string(), expected);
        assert_ne!(leaf_hash(&salt, b"{}"), leaf_hash(&Salt::new([1; 16]), b"{}"));
    }
}
