//! Records on their way to another place, and the hash chain that shows what is missing.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ztka_core::{AuditId, BoxError};

use crate::{
    Finding, Hash, Record,
    spool::{framed, unframed},
};

/// What a batch on its way begins with: kind and version.
const MAGIC: &[u8; 8] = b"ZTKABAT1";
/// Longest header; one has an id and a signature.
const MAX_HEADER: usize = 4096;

/// Keeps these signatures apart from anything else that the same key might sign.
const CONTEXT: &[u8] = b"ztka audit batch v1\0";

/// Records of one journal in order.
///
/// On its way it is the eight bytes `ZTKABAT1`, a frame with a header in JSON, and a frame for each record, just as it
/// is in a spool's segment ([`Spool`](crate::Spool)): receivers check the same bytes that were written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// The journal: the chain that the records are of.
    pub journal: AuditId,
    /// The records.
    pub records: Vec<Record>,
    /// By the sender's key over [`Self::message`], in base64.
    pub signature: Option<String>,
}

/// What stands before the records.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Header {
    journal: AuditId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// Bytes that are no batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotABatch {
    /// They begin otherwise.
    #[error("not a batch of audit records, or of a version that is not known here")]
    Magic,
    /// The header is cut short, spoilt, or says something else.
    #[error("the header of the batch cannot be read")]
    Header,
    /// A record is cut short or spoilt.
    #[error("record {index} of the batch cannot be read")]
    Record {
        /// Which, from 0.
        index: usize,
    },
}

impl Batch {
    /// The media type of [`Self::encode`]'s bytes.
    pub const MEDIA_TYPE: &str = "application/vnd.ztka.audit-batch";

    /// The batch as bytes. Where its records lie in the sender's spool is not among them.
    pub fn encode(&self) -> Vec<u8> {
        let records: u64 = self.records.iter().map(Record::length).sum();
        let mut out = Vec::with_capacity(usize::try_from(records).unwrap_or_default() + 512);
        out.extend_from_slice(MAGIC);
        let header = Header { journal: self.journal, signature: self.signature.clone() };
        // An id and a text always serialise.
        let header = serde_json::to_vec(&header).unwrap_or_default();
        framed(&mut out, |out| out.extend_from_slice(&header));
        for record in &self.records {
            record.encode(&mut out);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`NotABatch`]; it is all or nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotABatch> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(NotABatch::Magic)?;
        let (header, mut rest) = unframed(rest, ..=MAX_HEADER).ok_or(NotABatch::Header)?;
        let Header { journal, signature } = serde_json::from_slice(header).map_err(|_| NotABatch::Header)?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let record = Record::decode(rest).ok_or(NotABatch::Record { index: records.len() })?;
            rest = usize::try_from(record.length()).ok().and_then(|length| rest.get(length..)).unwrap_or_default();
            records.push(record);
        }
        Ok(Self { journal, records, signature })
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Kind, Position};

    fn batch(payloads: &[String]) -> Batch {
        let mut previous = Hash::default();
        let records = payloads.iter().enumerate().map(|(sequence, payload)| {
            let (sequence, id, payload) = (sequence as u64, AuditId::generate(), payload.clone());
            let record = Record { position: Position::default(), sequence, previous, kind: Kind::Open, id, payload };
            previous = record.hash();
            record
        });
        Batch { records: records.collect(), journal: AuditId::generate(), signature: None }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(payloads: Vec<String>, signature: Option<String>, flip: usize) {
            let batch = Batch { signature, ..batch(&payloads) };
            let mut bytes = batch.encode();
            prop_assert_eq!(Batch::decode(&bytes).unwrap(), batch.clone());
            // Cut short, or with another byte in it, it is not another batch.
            let at = flip % bytes.len();
            prop_assert!(Batch::decode(&bytes[..at]).map_or(true, |cut| cut.records.len() < batch.records.len()));
            bytes[at] ^= 0x40;
            prop_assert!(Batch::decode(&bytes).is_err());
        }
    }

    #[test]
    fn other_bytes_are_told_apart() {
        assert!(matches!(Batch::decode(b""), Err(NotABatch::Magic)));
        assert!(matches!(Batch::decode(b"{\"journal\": \"\"}"), Err(NotABatch::Magic)));
        assert!(matches!(Batch::decode(MAGIC), Err(NotABatch::Header)));
        let mut long = MAGIC.to_vec();
        framed(&mut long, |out| out.extend_from_slice(&[b' '; MAX_HEADER + 1]));
        assert!(matches!(Batch::decode(&long), Err(NotABatch::Header)));
        let mut bytes = batch(&["a".into(), "b".into()]).encode();
        bytes.pop();
        assert!(matches!(Batch::decode(&bytes), Err(NotABatch::Record { index: 1 })));
    }
}
