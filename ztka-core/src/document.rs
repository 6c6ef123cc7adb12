//! The envelope in which the controller signs what proxies and agents follow.
//!
//! On the wire a document is one JSON object, `{"signed": base64, "key": text, "signature": base64}`. `signed` is itself
//! JSON, `{kind, org, subject, epoch, version, issued, expires, body}`: it is what the signature covers, and it is
//! kept as received and never serialised again.

use std::{collections::HashMap, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{ClusterId, OrgId, Verified};

/// Clocks may disagree by this much before a document counts as issued in the future.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Keeps these signatures apart from anything else that the same key might sign.
const CONTEXT: &[u8] = b"ztka document v1\0";

/// What a document carries.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DocumentKind {
    /// Anchors by role; of the whole installation.
    Trust,
    /// Roles, bindings and clusters of one organisation; the subject is empty, or the cluster whose part of it this is.
    Policy,
    /// The user behind one credential; the subject is the credential.
    Session,
    /// What is no longer believed before its time, of one organisation or of the installation.
    Revocations,
    /// Current version of each, of one organisation; says how fresh the receiver's view is ([`Head`](crate::Head)).
    Head,
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "trust",
            Self::Policy => "policy",
            Self::Session => "session",
            Self::Revocations => "revocations",
            Self::Head => "head",
        })
    }
}

/// Place in a series: by epoch (raised when history starts anew, as after a restore), then by version.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Revision {
    /// Raised by a restore from backup.
    pub epoch: u64,
    /// Grows with every change within an epoch.
    pub version: u64,
}

impl fmt::Display for Revision {
    /// `<epoch>.<version>`, as in the [`POLICY`](crate::POLICY) header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

impl std::str::FromStr for Revision {
    type Err = Rejected;

    fn from_str(text: &str) -> Result<Self, Rejected> {
        let parse = || {
            let (epoch, version) = text.split_once('.')?;
            let (epoch, version) = (epoch.parse().ok()?, version.parse().ok()?);
            Some(Self { epoch, version })
        };
        parse().ok_or(Rejected::Unreadable)
    }
}

/// Names a signing key: SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

/// Documents of one series replace each other.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SeriesKey {
    /// What the body is.
    pub kind: DocumentKind,
    /// Organisation it is for; none for the whole installation.
    pub org: Option<OrgId>,
    /// What it is about, where an organisation has several of the kind (the credential of a session, the cluster of a
    /// projection), else empty.
    #[serde(default)]
    pub subject: String,
}

impl SeriesKey {
    /// The policy of an organisation as a whole.
    pub fn policy(org: OrgId) -> Self {
        Self { kind: DocumentKind::Policy, org: Some(org), subject: String::new() }
    }

    /// The projection of that policy to one cluster.
    pub fn projection(org: OrgId, cluster: &ClusterId) -> Self {
        Self { kind: DocumentKind::Policy, org: Some(org), subject: cluster.as_str().to_owned() }
    }

    /// True for the projection of a policy to a cluster, which the subject names.
    pub fn is_projection(&self) -> bool {
        self.kind == DocumentKind::Policy && !self.subject.is_empty()
    }
}

/// All of a document but its body.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DocumentHeader {
    /// The series it belongs to.
    #[serde(flatten)]
    pub series: SeriesKey,
    /// Its place in the series.
    #[serde(flatten)]
    pub revision: Revision,
    /// When it was signed. The same revision may be signed again later, to be believed longer.
    pub issued: Timestamp,
    /// From when on it is no longer believed.
    pub expires: Timestamp,
}

#[derive(Serialize)]
struct Payload<'a> {
    // Header first: a person reads it at a glance.
    #[serde(flatten)]
    header: &'a DocumentHeader,
    body: &'a RawValue,
}

// `flatten` buffers, which a raw body does not survive; so the body is read on its own.
#[derive(Deserialize)]
struct RawBody<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    signed: String,
    key: KeyId,
    signature: String,
}

/// A document as received: nothing in it may be believed before [`Self::accept`].
#[derive(Clone, Debug)]
pub struct SignedDocument {
    header: DocumentHeader,
    body: Bytes,
    signed: Bytes,
    key: KeyId,
    signature: Bytes,
}

/// Checks signatures of the `signing` purpose. `ztka-pki` has the cryptography.
pub trait SignatureCheck {
    /// `true` if `signature` over `message` was made by the trusted signing key named `key`.
    fn is_signed(&self, key: &KeyId, message: &[u8], signature: &[u8]) -> bool;
}

/// Why a document was not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Rejected {
    #[error("not a signed document of a known form")]
    Unreadable,
    #[error("signature is not valid, or not by a trusted signing key")]
    Signature,
    #[error("issued in the future; check the clocks of controller and receiver")]
    Future,
    #[error("expired; check that the controller can be reached, and the clocks")]
    Expired,
    #[error("older than the document held")]
    Rollback,
    #[error("meant for another cluster or organisation than this one")]
    Foreign,
}

impl SignedDocument {
    /// Makes a document; `sign` returns the key's name and its signature over the message it is given.
    ///
    /// # Errors
    /// What `sign` returns; a body that is not JSON cannot be given.
    pub fn sign<E>(
        header: DocumentHeader,
        body: &impl Serialize,
        sign: impl FnOnce(&[u8]) -> Result<(KeyId, Vec<u8>), E>,
    ) -> Result<Self, E>
    where
        E: From<serde_json::Error>,
    {
        let body = serde_json::value::to_raw_value(body)?;
        let payload = Payload { header: &header, body: &body };
        let signed = Bytes::from(serde_json::to_vec(&payload)?);
        let (key, signature) = sign(&message(&signed))?;
        let body = Bytes::copy_from_slice(body.get().as_bytes());
        let signature = signature.into();
        Ok(Self { header, body, signed, key, signature })
    }

    /// Reads a document from the wire, believing nothing.
    ///
    /// # Errors
    /// [`Rejected::Unreadable`]
    pub fn from_wire(wire: &[u8]) -> Result<Self, Rejected> {
        fn read<T, E>(read: Result<T, E>) -> Result<T, Rejected> {
            read.map_err(|_| Rejected::Unreadable)
        }
        let wire: Wire = read(serde_json::from_slice(wire))?;
        let signed = Bytes::from(read(BASE64_STANDARD.decode(wire.signed))?);
        let signature = read(BASE64_STANDARD.decode(wire.signature))?.into();
        let header: DocumentHeader = read(serde_json::from_slice(&signed))?;
        let raw: RawBody<'_> = read(serde_json::from_slice(&signed))?;
        let body = signed.slice_ref(raw.body.get().as_bytes());
        Ok(Self { header, body, signed, key: wire.key, signature })
    }

    /// The document in the form that [`Self::from_wire`] reads; one line, without a line feed.
    pub fn to_wire(&self) -> Vec<u8> {
        let wire = Wire {
            signed: BASE64_STANDARD.encode(&self.signed),
            key: self.key.clone(),
            signature: BASE64_STANDARD.encode(&self.signature),
        };
        // Three strings always serialise.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// All but the body, as claimed.
    pub fn header(&self) -> &DocumentHeader {
        &self.header
    }

    /// Accepts a document that is signed, valid at `now` and not older than the one `held` of its series.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn accept(
        self,
        keys: &(impl SignatureCheck + ?Sized),
        held: Option<&Verified<Self>>,
        now: Timestamp,
    ) -> Result<Verified<Self>, Rejected> {
        if !keys.is_signed(&self.key, &message(&self.signed), &self.signature) {
            return Err(Rejected::Signature);
        }
        if now.checked_add(SKEW).is_ok_and(|latest| latest < self.header.issued) {
            return Err(Rejected::Future);
        }
        if self.header.expires <= now {
            return Err(Rejected::Expired);
        }
        let place = |document: &Self| (document.header.revision, document.header.issued);
        if held.is_some_and(|held| place(&self) < place(held)) {
            return Err(Rejected::Rollback);
        }
        Ok(Verified::assertion(self))
    }
}

impl Verified<SignedDocument> {
    /// The content of a document that has been accepted.
    ///
    /// # Errors
    /// [`Rejected::Unreadable`] if it is not of the form asked for.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Rejected> {
        serde_json::from_slice(&self.body).map_err(|_| Rejected::Unreadable)
    }
}

fn message(signed: &[u8]) -> Vec<u8> {
    [CONTEXT, signed].concat()
}

/// The newest accepted document of each series: what a receiver knows.
#[derive(Clone, Debug, Default)]
pub struct DocumentSet(HashMap<SeriesKey, Verified<SignedDocument>>);

impl DocumentSet {
    /// Accepts `document` if it is signed, valid at `now` and newer than the one held.
    ///
    /// `Ok(None)` for the very document that is held already.
    ///
    /// # Errors
    /// The first rule that it breaks; the set is as before then.
    pub fn accept(
        &mut self,
        document: SignedDocument,
        keys: &(impl SignatureCheck + ?Sized),
        now: Timestamp,
    ) -> Result<Option<&Verified<SignedDocument>>, Rejected> {
        let series = document.header.series.clone();
        let held = self.0.get(&series);
        let place = |document: &SignedDocument| (document.header.revision, document.header.issued);
        if held.is_some_and(|held| place(held) == place(&document)) {
            return Ok(None);
        }
        let accepted = document.accept(keys, held, now)?;
        self.0.insert(series.clone(), accepted);
        Ok(self.0.get(&series))
    }

    /// The document held of `series`, if it has not expired at `now`.
    pub fn current(&self, series: &SeriesKey, now: Timestamp) -> Option<&Verified<SignedDocument>> {
        self.0.get(series).filter(|held| now < held.header.expires)
    }

    /// The document held of `series`, expired or not.
    pub fn held(&self, series: &SeriesKey) -> Option<&Verified<SignedDocument>> {
        self.0.get(series)
    }

    /// Everything held, expired or not, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Verified<SignedDocument>> {
        self.0.values()
    }

    /// Forgets the document of `series`, and its place against a rollback; false if there is none.
    pub fn remove(&mut self, series: &SeriesKey) -> bool {
        self.0.remove(series).is_some()
    }

    /// Forgets expired documents of `kind`; the others keep their place against a rollback.
    pub fn forget_expired(&mut self, kind: DocumentKind, now: Timestamp) {
        self.0.retain(|series, held| series.kind != kind || now < held.header.expires);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Any;

    impl SignatureCheck for Any {
        fn is_signed(&self, key: &KeyId, message: &[u8], signature: &[u8]) -> bool {
            key.0 == "k" && message == signature
        }
    }

    fn series() -> SeriesKey {
        SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse().unwrap()), subject: String::new() }
    }

    fn policy(epoch: u64, version: u64) -> SignedDocument {
        let header = DocumentHeader {
            series: series(),
            revision: Revision { epoch, version },
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
        };
        let sign = |message: &[u8]| Ok::<_, serde_json::Error>((KeyId("k".into()), message.to_vec()));
        SignedDocument::sign(header, &"body", sign).unwrap()
    }

    #[test]
    fn neither_rolls_back_nor_outlives_its_time() {
        let now = Timestamp::UNIX_EPOCH;
        let mut set = DocumentSet::default();
        assert!(set.accept(policy(2, 5), &Any, now).unwrap().is_some());
        assert!(set.accept(policy(2, 5), &Any, now).unwrap().is_none());
        assert_eq!(set.accept(policy(1, 9), &Any, now).err(), Some(Rejected::Rollback));
        assert!(set.accept(policy(3, 0), &Any, now).is_ok());
        assert_eq!(policy(3, 1).accept(&Any, None, Timestamp::MAX).err(), Some(Rejected::Expired));
        assert_eq!(policy(3, 1).accept(&Any, None, Timestamp::MIN).err(), Some(Rejected::Future));
        assert!(set.current(&series(), now).is_some());
        assert!(set.current(&series(), Timestamp::MAX).is_none());
    }

    #[test]
    fn wire_form_is_read_back_and_any_change_is_noticed() {
        let now = Timestamp::UNIX_EPOCH;
        let wire = policy(1, 1).to_wire();
        let read = SignedDocument::from_wire(&wire).unwrap();
        let accepted = read.accept(&Any, None, now).unwrap();
        assert_eq!(accepted.body::<String>().unwrap(), "body");
        assert_eq!(accepted.header().revision.to_string(), "1.1");

        let mut changed = SignedDocument::from_wire(&wire).unwrap();
        changed.signed = String::from_utf8(changed.signed.to_vec()).unwrap().replace("acme", "evil").into();
        assert_eq!(changed.accept(&Any, None, now).err(), Some(Rejected::Signature));
        assert_eq!(SignedDocument::from_wire(b"{}").err(), Some(Rejected::Unreadable));
    }
}
