//! Signed tree heads: what a controller has said of a log, for good.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{KeyId, OrgId};

use crate::Hash;

/// Keeps these signatures apart from those of documents, by the same key.
const CONTEXT: &[u8] = b"ztka tree head v1\0";

/// The log of an organisation at one size.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHead {
    /// The organisation.
    pub org: OrgId,
    /// Of the controllers' database; raised by a restore from backup, which may take leaves away.
    pub epoch: u64,
    /// How many leaves there are.
    pub size: u64,
    /// The root of the tree that they are.
    pub root: Hash,
    /// When that was signed.
    pub time: Timestamp,
}

/// A tree head with its signature, as it is on the wire: one JSON object. Nothing in it may be believed before its
/// signature was checked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// The [`TreeHead`] as JSON: exactly these bytes are signed.
    pub signed: String,
    /// The key that has signed them.
    pub key: KeyId,
    /// Its signature, in base64.
    pub signature: String,
    /// The certificates that lead from that key to the root, in DER as base64, the key's own first; the root is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// Why a signed head is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// It says nothing that is known.
    #[error("the tree head cannot be read, or is of a version that is not known here")]
    Unreadable,
    /// It is not signed by the key that it names.
    #[error("the signature of the tree head is not valid")]
    Signature,
}

impl SignedHead {
    /// Signs a head: `signed` is what `sign` was given, as [`Self::message`] has it.
    pub fn new(signed: String, key: KeyId, signature: &[u8], chain: Vec<String>) -> Self {
        Self { signed, key, signature: BASE64_STANDARD.encode(signature), chain }
    }

    /// What is to be signed: the JSON of a head.
    pub fn text(head: &TreeHead) -> String {
        // Texts and numbers always serialise.
        serde_json::to_string(head).unwrap_or_default()
    }

    /// What a signature over `signed` covers.
    pub fn message(signed: &str) -> Vec<u8> {
        [CONTEXT, signed.as_bytes()].concat()
    }

    /// What it says, believed or not.
    ///
    /// # Errors
    /// [`HeadError::Unreadable`]
    pub fn claimed(&self) -> Result<TreeHead, HeadError> {
        serde_json::from_str(&self.signed).map_err(|_| HeadError::Unreadable)
    }

    /// What it says, if `is_signed`, given key, message and signature, finds that valid.
    ///
    /// # Errors
    /// [`HeadError`]
    pub fn verified(&self, is_signed: impl FnOnce(&KeyId, &[u8], &[u8]) -> bool) -> Result<TreeHead, HeadError> {
        let signature = BASE64_STANDARD.decode(&self.signature).map_err(|_| HeadError::Unreadable)?;
        let head = self.claimed()?;
        if is_signed(&self.key, &Self::message(&self.signed), &signature) {
            Ok(head)
        } else {
            Err(HeadError::Signature)
        }
    }

    /// The certificates in DER.
    ///
    /// # Errors
    /// [`HeadError::Unreadable`]
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>, HeadError> {
        let decoded = self.chain.iter().map(|der| BASE64_STANDARD.decode(der).map_err(|_| HeadError::Unreadable));
        decoded.collect()
    }

    /// Certificates as [`Self::chain`] has them.
    pub fn chain_of<T: AsRef<[u8]>>(certificates: impl IntoIterator<Item = T>) -> Vec<String> {
        certificates.into_iter().map(|der| BASE64_STANDARD.encode(der)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_believed_as_it_was_signed() {
        let head = TreeHead {
            org: "acme".parse().unwrap(),
            epoch: 1,
            size: 7,
            root: Hash::default(),
            time: Timestamp::UNIX_EPOCH,
        };
        let text = SignedHead::text(&head);
        let signature = SignedHead::message(&text);
        let signed = SignedHead::new(text, KeyId("k".into()), &signature, Vec::new());
        let read: SignedHead = serde_json::from_slice(&serde_json::to_vec(&signed).unwrap()).unwrap();
        let check = |key: &KeyId, message: &[u8], signature: &[u8]| key.0 == "k" && message == signature;
        assert_eq!(read.verified(check), Ok(head));
        let changed = SignedHead { signed: read.signed.replace("acme", "evil"), ..read.clone() };
        assert_eq!(changed.verified(check), Err(HeadError::Signature));
        let more = SignedHead { signed: read.signed.replace('{', "{\"more\":1,"), ..read.clone() };
        assert_eq!(more.claimed(), Err(HeadError::Unreadable));
        // A document's signature is over something that begins otherwise.
        assert!(!SignedHead::message(&read.signed).starts_with(b"ztka document v1\0"));
    }
}
