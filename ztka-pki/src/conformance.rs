//! What every implementation of a trait of this crate has to do, as suites that run against any of them.
//!
//! A suite returns the first rule that is broken. It leaves keys and tokens of its own behind.

use std::{fmt, sync::Arc};

use futures_util::{FutureExt as _, future::join_all};
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use ztka_core::{BoxError, InstanceId, KeyId, Subject};

use crate::{
    CaPin, CredentialStore, Enrollee, EnrolmentStore, EnrolmentToken, KeyError, KeyKind, KeyName, KeyStore, Signer,
    SoftwareKey, Spent, StoredCredential, TrustBundle,
};

/// A rule that an implementation breaks.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

fn rule(kept: bool, rule: impl fmt::Display) -> Result<(), Violation> {
    if kept { Ok(()) } else { Err(Violation(rule.to_string())) }
}

fn failed(error: impl Into<BoxError>) -> Violation {
    Violation(format!("an operation failed that should not: {}", error.into()))
}

/// [`Signer`]: what it signs verifies by the key that it names, and nothing else does; also when many sign at once,
/// and after somebody has given up waiting.
///
/// # Errors
/// [`Violation`]
pub async fn signer(signer: &dyn Signer) -> Result<(), Violation> {
    let signature = signer.sign(b"message").await.map_err(failed)?;
    let key = signer.public_key();
    rule(key.is_signed(b"message", &signature), "a signature verifies by the public key")?;
    rule(!key.is_signed(b"another", &signature), "a signature is over its message alone")?;
    let empty = signer.sign(b"").await.map_err(failed)?;
    rule(key.is_signed(b"", &empty), "the empty message can be signed")?;
    let long = vec![b'x'; 64 * 1024];
    let signature = signer.sign(&long).await.map_err(failed)?;
    rule(key.is_signed(&long, &signature), "a long message can be signed")?;
    let _ = signer.sign(b"given up").now_or_never();
    let messages: Vec<[u8; 1]> = (0..16).map(|number| [number]).collect();
    let signatures = join_all(messages.iter().map(|message| signer.sign(message))).await;
    for (message, signature) in messages.iter().zip(signatures) {
        let signature = signature.map_err(failed)?;
        rule(key.is_signed(message, &signature), "signatures that are made at once are each over their own message")?;
    }
    Ok(())
}

/// [`KeyStore`]: names, what is kept, what is destroyed, two that create at once, and every kind of key.
///
/// # Errors
/// [`Violation`]
pub async fn key_store(keys: &dyn KeyStore) -> Result<(), Violation> {
    let name: KeyName = "conformance.first".parse().map_err(failed)?;
    let other: KeyName = "conformance-second".parse().map_err(failed)?;
    let kind = KeyKind::default();
    let absent = |error: Option<KeyError>| matches!(error, Some(KeyError::Absent(_)));
    rule(absent(keys.open(&name).await.err()), "a key that was never made cannot be opened")?;
    rule(absent(keys.destroy(&name).await.err()), "a key that was never made cannot be destroyed")?;
    let made = keys.create(&name, kind).await.map_err(failed)?;
    signer(&*made).await?;
    let opened = keys.open(&name).await.map_err(failed)?;
    rule(opened.public_key() == made.public_key(), "the key opened is the key made")?;
    signer(&*opened).await?;
    let again = keys.create(&name, kind).await.err();
    rule(matches!(again, Some(KeyError::Exists(_))), "a second key of a name is refused")?;
    let opened = keys.open(&name).await.map_err(failed)?;
    rule(opened.public_key() == made.public_key(), "a refused creation leaves the key as it was")?;
    let (one, two) = futures_util::future::join(keys.create(&other, kind), keys.create(&other, kind)).await;
    rule(one.is_ok() != two.is_ok(), "of two that create at once, one does")?;
    let refused = one.as_ref().err().or(two.as_ref().err());
    rule(matches!(refused, Some(KeyError::Exists(_))), "and the other is told that there is one")?;
    let second = keys.open(&other).await.map_err(failed)?;
    let first = one.or(two).map_err(failed)?;
    rule(second.public_key() == first.public_key(), "and it is the first one's that is kept")?;
    rule(second.public_key() != made.public_key(), "two names are two keys")?;
    keys.destroy(&name).await.map_err(failed)?;
    rule(absent(keys.open(&name).await.err()), "a destroyed key cannot be opened")?;
    rule(absent(keys.destroy(&name).await.err()), "a key is destroyed once")?;
    keys.open(&other).await.map_err(failed)?;
    keys.destroy(&other).await.map_err(failed)?;
    let after = keys.create(&name, kind).await.map_err(failed)?;
    rule(after.public_key() != made.public_key(), "a name that is free again gets a new key")?;
    keys.destroy(&name).await.map_err(failed)?;
    for kind in KeyKind::ALL {
        kind_of_key(keys, kind).await?;
    }
    Ok(())
}

async fn kind_of_key(keys: &dyn KeyStore, kind: KeyKind) -> Result<(), Violation> {
    let name: KeyName = format!("conformance.{}", kind.as_str().to_lowercase()).parse().map_err(failed)?;
    let made = match keys.create(&name, kind).await {
        Err(KeyError::Kind(refused)) if refused == kind && kind != KeyKind::default() => {
            let error = keys.open(&name).await.err();
            return rule(matches!(error, Some(KeyError::Absent(_))), "a kind that is refused leaves no key");
        }
        made => made.map_err(failed)?,
    };
    rule(made.public_key().kind() == Some(kind), format_args!("a key asked for as {kind} is of that kind"))?;
    signer(&*made).await?;
    let opened = keys.open(&name).await.map_err(failed)?;
    rule(opened.public_key() == made.public_key(), format_args!("a key of {kind} is opened as it was made"))?;
    signer(&*opened).await?;
    keys.destroy(&name).await.map_err(failed)
}

fn subject() -> Result<Subject, Violation> {
    let (org, cluster) = ("conformance".parse().map_err(failed)?, "c1".parse().map_err(failed)?);
    Ok(Subject::Agent { org, cluster, instance: InstanceId::generate() })
}

fn key_id() -> KeyId {
    // Random enough to be new: the id of a new instance.
    KeyId(format!("conformance{}", InstanceId::generate()))
}

/// [`EnrolmentStore`]: a token is spent once, its answer kept once, and a key has one name. The organisation
/// `conformance` with its cluster `c1` has to be there where the store refers to them.
///
/// # Errors
/// [`Violation`]
pub async fn enrolment_store(store: &dyn EnrolmentStore) -> Result<(), Violation> {
    let (org, cluster) = ("conformance".parse().map_err(failed)?, "c1".parse().map_err(failed)?);
    let pin: CaPin = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().map_err(failed)?;
    // Microseconds: what any database can keep.
    let now = Timestamp::from_microsecond(1_900_000_000_123_456).map_err(failed)?;
    let made = EnrolmentToken::generate(Enrollee::Agent { org, cluster }, pin, now, SignedDuration::from_hours(1));
    let (token, record) = made.map_err(failed)?;
    rule(store.token(token.id()).await.map_err(failed)?.is_none(), "a token that was never added is not there")?;
    let spent = |key: &KeyId, subject: &Subject| Spent {
        key: key.clone(),
        subject: subject.clone(),
        at: now,
        chain: None,
        used: false,
    };
    let (mine, theirs, me, them) = (key_id(), key_id(), subject()?, subject()?);
    let early = store.spend(token.id(), spent(&mine, &me)).await.map_err(failed)?;
    rule(early.is_none(), "a token that was never added cannot be spent")?;
    store.add_token(record.clone()).await.map_err(failed)?;
    rule(store.add_token(record.clone()).await.is_err(), "a token is added once")?;
    rule(store.token(token.id()).await.map_err(failed)? == Some(record.clone()), "a token is read as it was added")?;
    rule(store.keep_answer(token.id(), "early".into()).await.is_err(), "no answer is kept for a token nobody spent")?;

    let first = store.spend(token.id(), spent(&mine, &me)).await.map_err(failed)?;
    rule(first == Some(spent(&mine, &me)), "the first to spend a token has it")?;
    let second = store.spend(token.id(), spent(&theirs, &them)).await.map_err(failed)?;
    rule(second == first, "the second is told who was first")?;
    let kept = store.keep_answer(token.id(), "one".into()).await.map_err(failed)?;
    rule(kept == "one", "the first answer is kept")?;
    let kept = store.keep_answer(token.id(), "two".into()).await.map_err(failed)?;
    rule(kept == "one", "the first answer stays")?;
    store.mark_used(&theirs).await.map_err(failed)?;
    let read = store.token(token.id()).await.map_err(failed)?.and_then(|record| record.spent);
    let expected = Spent { chain: Some("one".into()), ..spent(&mine, &me) };
    rule(read.as_ref() == Some(&expected), "another key's use changes nothing")?;
    store.mark_used(&mine).await.map_err(failed)?;
    let read = store.token(token.id()).await.map_err(failed)?.and_then(|record| record.spent);
    rule(read == Some(Spent { used: true, ..expected }), "the use of the key is noted with its token")?;

    rule(store.bind_key(&mine, &me).await.map_err(failed)?, "a new key is bound")?;
    rule(store.bind_key(&mine, &me).await.map_err(failed)?, "a key is bound to the same name again")?;
    rule(!store.bind_key(&mine, &them).await.map_err(failed)?, "a key is not bound to a second name")?;
    rule(store.bind_key(&theirs, &me).await.map_err(failed)?, "a name may have a second key")
}

/// [`CredentialStore`], empty at first: what is saved is loaded, and pending keys are kept by token until then.
///
/// # Errors
/// [`Violation`]
pub async fn credential_store(store: &dyn CredentialStore, provider: Arc<CryptoProvider>) -> Result<(), Violation> {
    use crate::{Hierarchy, Lifetimes, MemoryKeyStore, Names, ValidCsr};
    rule(store.load().await.map_err(failed)?.is_none(), "at first there is no credential")?;
    let pending = SoftwareKey::generate(&provider).map_err(failed)?.to_pem();
    let one = format!("e{:032x}", 1).parse().map_err(failed)?;
    let two = format!("e{:032x}", 2).parse().map_err(failed)?;
    store.keep_pending_key(&one, pending.clone()).await.map_err(failed)?;
    rule(store.pending_key(&one).await.map_err(failed)? == Some(pending), "a pending key is kept")?;
    rule(store.pending_key(&two).await.map_err(failed)?.is_none(), "a pending key belongs to one token")?;

    let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
    let clock = Arc::new(ztka_core::SystemClock);
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await;
    let hierarchy = hierarchy.map_err(failed)?;
    let trust: TrustBundle = hierarchy.trust_bundle();
    for _ in 0..2 {
        let key = SoftwareKey::generate(&provider).map_err(failed)?;
        let csr = ValidCsr::from_der(&key.csr().map_err(failed)?).map_err(failed)?;
        let issued = hierarchy.issue_proxy(&csr, &"p1".parse().map_err(failed)?).await.map_err(failed)?;
        let saved = StoredCredential { key: key.to_pem(), chain: issued.pem(), trust: trust.clone() };
        store.save(&saved).await.map_err(failed)?;
        let loaded = store.load().await.map_err(failed)?;
        let loaded = loaded.ok_or_else(|| Violation("a saved credential is loaded".into()))?;
        let credential = loaded.credential(&provider).map_err(failed)?;
        rule(credential.serial() == issued.serial(), "the credential loaded is the one saved last")?;
        rule(loaded.trust == trust, "the trust loaded is the one saved")?;
    }
    rule(store.pending_key(&one).await.map_err(failed)?.is_none(), "saving forgets pending keys")
}
