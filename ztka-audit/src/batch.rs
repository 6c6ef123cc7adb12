//! Records on their way to another place, and the hash chain that shows what is missing.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ztka_core::{AuditId, BoxError};

use crate::{Finding, Hash, Record};

/// Keeps these signatures apart from anything else that the same key might sign.
const CONTEXT: &[u8] = b"ztka audit batch v1\0";

/// Records of one journal in order. As JSON it is the body in which journals are sent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The journal: the chain that the records are of.
    pub journal: AuditId,
    /// The records.
    pub records: Vec<Record>,
    /// By the sender's key over [`Self::message`], in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl Batch {
    /// What a signature covers: the journal, and every record by its hash.
    pub fn message(&self) -> Vec<u8> {
        let mut message = CONTEXT.to_vec();
        message.extend_from_slice(self.journal.to_string().as_bytes());
        let mut digest = Sha256::new();
        for record in &self.records {
            digest.update(record.hash().as_bytes());
        }
        message.extend_from_slice(Hash::from(digest).as_bytes());
        message
    }

    /// Adds the signature that `sign` makes.
    ///
    /// # Errors
    /// What `sign` returns.
    pub fn signed(mut self, sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, BoxError>) -> Result<Self, BoxError> {
        self.signature = Some(BASE64_STANDARD.encode(sign(&self.message())?));
        Ok(self)
    }

    /// True if there is a signature and `verify`, given message and signature, finds it valid.
    pub fn is_signed(&self, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
        let signature = self.signature.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        signature.is_some_and(|signature| verify(&self.message(), &signature))
    }
}

/// How much of a journal has been seen: what its receiver keeps between batches.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Sequence of the next record.
    pub next: u64,
    /// Hash of the last one.
    pub head: Hash,
}

impl Chain {
    /// A journal of which nothing has been seen.
    pub fn start() -> Self {
        Self { next: 0, head: Hash::default() }
    }

    /// Follows the journal through `batch` and reports holes and broken links.
    ///
    /// Records that have been seen already are passed over, but they have to lead to the one that was last.
    pub fn follow(&mut self, batch: &Batch) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut link: Option<(u64, Hash)> = None;
        for record in &batch.records {
            let hash = record.hash();
            let sequence = record.sequence;
            // Within a batch every record follows from the one before.
            let expected = link.replace((sequence, hash));
            if expected.is_some_and(|(before, hash)| before.checked_add(1) == Some(sequence) && record.previous != hash)
            {
                findings.push(Finding::BrokenChain { sequence });
            } else if sequence > self.next {
                findings.push(Finding::Hole { from: self.next, to: sequence });
            } else if sequence == self.next && record.previous != self.head
                || sequence.checked_add(1) == Some(self.next) && hash != self.head
            {
                findings.push(Finding::BrokenChain { sequence });
            }
            if sequence >= self.next {
                *self = Self { next: sequence.saturating_add(1), head: hash };
            }
        }
        findings
    }
}
