//! What every implementation of a trait of this crate has to do, as suites that run against any of them.
//!
//! A suite returns the first rule that is broken. It leaves keys and tokens of its own behind.

use std::{fmt, sync::Arc};

use futures_util::{FutureExt as _, future::join_all};
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use ztka_core::{BoxError, ClusterId, InstanceId, KeyId, OrgId, Subject};

use crate::{
    Admission, CaPin, CredentialStore, Enrollee, EnrolmentStore, EnrolmentToken, KeyError, KeyKind, KeyName, KeyStore,
    Replica, Signer, SoftwareKey, Spent, StoredCredential, TokenId, TokenRecord, TrustBundle, Verdict,
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

    token_life(store, &record).await?;
    replicas(store, now).await?;

    rule(store.bind_key(&mine, &me).await.map_err(failed)?, "a new key is bound")?;
    rule(store.bind_key(&mine, &me).await.map_err(failed)?, "a key is bound to the same name again")?;
    rule(!store.bind_key(&mine, &them).await.map_err(failed)?, "a key is not bound to a second name")?;
    rule(store.bind_key(&theirs, &me).await.map_err(failed)?, "a name may have a second key")
}

/// Listing, revocation and approval; `spent` is a token of the enrollee that is there already.
async fn token_life(store: &dyn EnrolmentStore, spent: &TokenRecord) -> Result<(), Violation> {
    let (enrollee, now, hour) = (spent.enrollee.clone(), spent.created, SignedDuration::from_hours(1));
    let pin: CaPin = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().map_err(failed)?;
    let later = now.checked_add(hour).map_err(failed)?;
    let by = |key: &KeyId, subject: &Subject| Spent {
        key: key.clone(),
        subject: subject.clone(),
        at: later,
        chain: None,
        used: false,
    };
    let add = async |approval: bool| {
        let made = EnrolmentToken::generate(enrollee.clone(), pin, later, hour);
        let (_, record) = made.map_err(failed)?;
        let sources = ["10.0.0.0/8", "2001:db8::/32"].map(str::parse).into_iter().collect::<Result<_, _>>();
        let record = TokenRecord { sources: sources.map_err(failed)?, approval, ..record };
        store.add_token(record.clone()).await.map_err(failed)?;
        Ok::<_, Violation>(record)
    };
    let (plain, asking) = (add(false).await?, add(true).await?);
    let read = async |id: &TokenId| store.token(id).await.map_err(failed);
    rule(read(&asking.id).await? == Some(asking.clone()), "sources and approval are read as they were added")?;
    let listed = store.tokens(&enrollee).await.map_err(failed)?;
    let ids: Vec<_> = listed.iter().map(|record| &record.id).collect();
    let newer = ids.iter().take(2).all(|id| [&plain.id, &asking.id].contains(id));
    rule(newer && ids.get(2) == Some(&&spent.id), "the tokens of an enrollee are listed, newest first")?;
    let other = Enrollee::Proxy { proxy: "conformance".parse().map_err(failed)? };
    rule(store.tokens(&other).await.map_err(failed)?.is_empty(), "and no other's")?;

    let (mine, theirs, me, them) = (key_id(), key_id(), subject()?, subject()?);
    let decide = async |id: &TokenId, key: &KeyId, verdict| store.decide(id, key, verdict).await.map_err(failed);
    let early = decide(&asking.id, &mine, Verdict::Approved).await?;
    rule(early.is_none(), "what nobody has spent is not approved")?;
    store.spend(&asking.id, by(&mine, &me)).await.map_err(failed)?;
    rule(store.keep_answer(&asking.id, "early".into()).await.is_err(), "no answer is kept before the approval")?;
    let foreign = decide(&asking.id, &theirs, Verdict::Approved).await?;
    rule(foreign.is_none(), "a verdict is for the key that has spent the token")?;
    let verdict = decide(&asking.id, &mine, Verdict::Approved).await?;
    rule(verdict == Some(Verdict::Approved), "a verdict is kept")?;
    let verdict = decide(&asking.id, &mine, Verdict::Refused).await?;
    rule(verdict == Some(Verdict::Approved), "the first verdict stays")?;
    let approved = read(&asking.id).await?.and_then(|record| record.verdict);
    rule(approved == Some(Verdict::Approved), "and is read with the token")?;
    let kept = store.keep_answer(&asking.id, "one".into()).await.map_err(failed)?;
    rule(kept == "one", "an approved key's answer is kept")?;
    let refused = add(true).await?;
    store.spend(&refused.id, by(&theirs, &them)).await.map_err(failed)?;
    decide(&refused.id, &theirs, Verdict::Refused).await?;
    rule(store.keep_answer(&refused.id, "no".into()).await.is_err(), "a refused key has no answer")?;
    let unasked = add(false).await?;
    store.spend(&unasked.id, by(&mine, &me)).await.map_err(failed)?;
    let verdict = decide(&unasked.id, &mine, Verdict::Approved).await?;
    rule(verdict.is_none(), "a token that asks for no approval gets none")?;

    let revoke = async |id: &TokenId, at| store.revoke_token(id, at).await.map_err(failed);
    rule(revoke(&plain.id, now).await?, "a token is revoked")?;
    rule(revoke(&plain.id, later).await?, "and may be revoked again")?;
    let revoked = read(&plain.id).await?.and_then(|record| record.revoked);
    rule(revoked == Some(now), "since the first time")?;
    let spend = store.spend(&plain.id, by(&mine, &me)).await.map_err(failed)?;
    rule(spend.is_none(), "a revoked token is not spent")?;
    rule(read(&plain.id).await?.is_some_and(|record| record.spent.is_none()), "nor by the attempt")?;
    revoke(&unasked.id, now).await?;
    let spend = store.spend(&unasked.id, by(&theirs, &them)).await.map_err(failed)?;
    rule(spend.is_some_and(|spent| spent.key == mine), "who has spent a token is known after it is revoked")?;
    rule(store.keep_answer(&unasked.id, "no".into()).await.is_err(), "no answer is kept for a revoked token")?;
    let waiting = add(true).await?;
    store.spend(&waiting.id, by(&mine, &me)).await.map_err(failed)?;
    revoke(&waiting.id, now).await?;
    let verdict = decide(&waiting.id, &mine, Verdict::Approved).await?;
    rule(verdict.is_none(), "a revoked token is not approved")?;
    let unknown = EnrolmentToken::generate(enrollee.clone(), pin, now, hour).map_err(failed)?.1.id;
    rule(!revoke(&unknown, now).await?, "a token that was never added is not revoked")?;
    rule(decide(&unknown, &mine, Verdict::Approved).await?.is_none(), "nor approved")
}

/// Agents on the word of another one: a name for each key, up to a number, and none on the word of those.
async fn replicas(store: &dyn EnrolmentStore, now: Timestamp) -> Result<(), Violation> {
    let hour = SignedDuration::from_hours(1);
    let ends = now.checked_add(hour).map_err(failed)?;
    let (org, cluster): (OrgId, ClusterId) = ("conformance".parse().map_err(failed)?, "c1".parse().map_err(failed)?);
    let first = InstanceId::generate();
    let replica = |let_in: &InstanceId, key: KeyId| Replica {
        org: org.clone(),
        cluster: cluster.clone(),
        instance: InstanceId::generate(),
        let_in: let_in.clone(),
        key,
        now,
        ends,
    };
    let add = async |asked: &Replica, most| store.add_replica(asked, most).await.map_err(failed);
    let one = replica(&first, key_id());
    rule(add(&one, 2).await? == Admission::Admitted, "a further agent is admitted")?;
    let again = replica(&first, one.key.clone());
    rule(add(&again, 2).await? == Admission::Known(one.instance.clone()), "the same key has the same name again")?;
    rule(store.bind_key(&one.key, &one.subject()).await.map_err(failed)?, "its key is bound to its name")?;
    rule(!store.bind_key(&one.key, &subject()?).await.map_err(failed)?, "and to no other")?;
    let other = replica(&InstanceId::generate(), one.key.clone());
    rule(add(&other, 9).await? == Admission::KeyBound, "another agent's word does not name it again")?;
    let bound = key_id();
    store.bind_key(&bound, &subject()?).await.map_err(failed)?;
    rule(add(&replica(&first, bound), 9).await? == Admission::KeyBound, "a key with a name gets no other")?;
    let child = replica(&one.instance, key_id());
    rule(add(&child, 9).await? == Admission::NotByToken, "who is there on another's word lets nobody in")?;
    let two = replica(&first, key_id());
    rule(add(&two, 2).await? == Admission::Admitted, "as many are admitted as may be")?;
    let three = replica(&first, key_id());
    rule(add(&three, 2).await? == Admission::Full, "and no more")?;
    rule(add(&again, 2).await? == Admission::Known(one.instance), "who is there may ask again")?;
    let later = Replica { now: ends, ends: ends.checked_add(hour).map_err(failed)?, ..three };
    rule(add(&later, 2).await? == Admission::Admitted, "those whose certificates have ended do not count")?;
    let racers: Vec<_> = (0..8).map(|_| Replica { now: ends, ends: later.ends, ..replica(&first, key_id()) }).collect();
    let admitted = join_all(racers.iter().map(|racer| store.add_replica(racer, 4))).await;
    let admitted = admitted.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let count = admitted.iter().filter(|admission| **admission == Admission::Admitted).count();
    rule(count == 3, format_args!("of eight that come at once for three places, three are admitted, not {count}"))
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
    let kept = store.keep_pending_key(&one, pending.clone()).await.map_err(failed)?;
    rule(kept == pending, "a pending key is kept")?;
    let other = SoftwareKey::generate(&provider).map_err(failed)?.to_pem();
    let kept = store.keep_pending_key(&one, other).await.map_err(failed)?;
    rule(kept == pending, "the first pending key of a token stays")?;
    rule(store.pending_key(&one).await.map_err(failed)? == Some(pending), "and is read")?;
    rule(store.pending_key(&two).await.map_err(failed)?.is_none(), "a pending key belongs to one token")?;

    let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
    let clock = Arc::new(ztka_core::SystemClock);
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await;
    let hierarchy = hierarchy.map_err(failed)?;
    let trust: TrustBundle = hierarchy.trust_bundle();
    for token in [Some(one.clone()), None] {
        let key = SoftwareKey::generate(&provider).map_err(failed)?;
        let csr = ValidCsr::from_der(&key.csr().map_err(failed)?).map_err(failed)?;
        let issued = hierarchy.issue_proxy(&csr, &"p1".parse().map_err(failed)?).await.map_err(failed)?;
        let saved = StoredCredential { key: key.to_pem(), chain: issued.pem(), trust: trust.clone(), token };
        store.save(&saved).await.map_err(failed)?;
        let loaded = store.load().await.map_err(failed)?;
        let loaded = loaded.ok_or_else(|| Violation("a saved credential is loaded".into()))?;
        let credential = loaded.credential(&provider).map_err(failed)?;
        rule(credential.serial() == issued.serial(), "the credential loaded is the one saved last")?;
        rule(loaded.trust == trust, "the trust loaded is the one saved")?;
        rule(loaded.token.as_ref() == Some(&one), "the token stays that of the first")?;
    }
    rule(store.pending_key(&one).await.map_err(failed)?.is_none(), "saving what a token gave forgets pending keys")?;
    let late = SoftwareKey::generate(&provider).map_err(failed)?.to_pem();
    let kept = store.keep_pending_key(&one, late.clone()).await.map_err(failed)?;
    rule(kept == late, "a key for a token that is done with is returned")?;
    rule(store.pending_key(&one).await.map_err(failed)?.is_none(), "and not kept")?;
    // Somebody may wait for an approval with it while what is there is renewed.
    let pending = SoftwareKey::generate(&provider).map_err(failed)?.to_pem();
    store.keep_pending_key(&two, pending.clone()).await.map_err(failed)?;
    let kept = store.load().await.map_err(failed)?.ok_or_else(|| Violation("a saved credential is loaded".into()))?;
    store.save(&StoredCredential { token: None, ..kept }).await.map_err(failed)?;
    rule(store.pending_key(&two).await.map_err(failed)? == Some(pending), "a renewal leaves pending keys")
}
