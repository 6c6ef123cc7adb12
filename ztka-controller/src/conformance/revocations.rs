//! The tests that every [`RevocationStore`] passes.

use jiff::SignedDuration;
use ztka_core::{Attributes, KeyId, Subject};
use ztka_pki::{CrlReason, IssuedRecord};

use super::*;
use crate::store::{Certificate, Revocable, Revocation, RevocationStore, StoredCrl};

fn record(issuer: &str, serial: &str, subject: Option<Subject>) -> IssuedRecord {
    IssuedRecord { issuer: KeyId(issuer.into()), serial: serial.into(), subject, issued: at(0), not_after: at(1_000) }
}

fn revocation(org: Option<&OrgId>, what: Revocable, ends: Option<Timestamp>) -> Revocation {
    Revocation { org: org.cloned(), what, since: at(10), ends }
}

/// Runs everything about certificates, revocations and CRLs on an empty store. Panics at the first difference.
pub async fn revocations<S>(store: &S)
where
    S: RevocationStore + DocumentStore + IdentityStore + ResourceStore,
{
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    let alice = User {
        id: UserId::generate(),
        org: acme.clone(),
        name: "alice".parse().unwrap(),
        admin: None,
        attributes: Attributes::new(),
        disabled: None,
        created: at(0),
    };
    store.create_user(&alice).await.unwrap();
    let credential = Credential {
        id: CredentialId::generate(),
        org: acme.clone(),
        user: alice.id.clone(),
        created: at(0),
        not_after: at(1_000),
        renewed: None,
        last_used: None,
        revoked: None,
    };
    let session = LoginSession { credential: credential.id.clone(), active_until: at(1_000) };
    store.create_credential(&credential, &session).await.unwrap();
    let user = |org: &OrgId, credential: &CredentialId| {
        let (org, user, credential) = (org.clone(), alice.id.clone(), credential.clone());
        Subject::User { org, user, credential }
    };
    let (instance, proxy) = (InstanceId::generate(), ProxyId::generate());
    let agent = Subject::Agent { org: acme.clone(), cluster: ClusterId::generate(), instance: instance.clone() };
    let all = [
        record("users", "01", Some(user(&acme, &credential.id))),
        record("users", "02", Some(user(&acme, &CredentialId::generate()))),
        record("users", "03", Some(user(&other, &CredentialId::generate()))),
        record("agents", "04", Some(agent)),
        record("proxies", "05", Some(Subject::Proxy(proxy.clone()))),
        record("servers", "06", None),
    ];
    for _ in 0..2 {
        for record in &all {
            store.record_certificate(record).await.unwrap();
        }
    }
    let found = store.certificates("04", at(5)).await.unwrap();
    assert_eq!(found, [Certificate { org: Some(acme.clone()), record: all.get(3).unwrap().clone() }]);
    assert_eq!(store.certificates("06", at(5)).await.unwrap().first().unwrap().record.subject, None);
    assert_eq!(store.certificates("06", at(1_000)).await.unwrap(), [], "expired");
    assert_eq!(store.certificates("07", at(5)).await.unwrap(), [], "unknown");

    let listed = async |issuer: &str, now: i64| {
        let revoked = store.revoked_certificates(&KeyId(issuer.into()), at(now)).await.unwrap();
        revoked.into_iter().map(|entry| (entry.serial, entry.reason)).collect::<Vec<_>>()
    };
    let none = |serial: &str| (serial.to_owned(), CrlReason::Unspecified);
    let hold = |serial: &str| (serial.to_owned(), CrlReason::CertificateHold);
    assert_eq!(listed("users", 20).await, []);
    let document = async |org: Option<&OrgId>, now: i64| {
        let series = SeriesKey { kind: DocumentKind::Revocations, org: org.cloned(), subject: String::new() };
        let snapshot = store.snapshot(&series, at(now)).await.unwrap().unwrap();
        let Content::Revocations(facts) = snapshot.content else { return (snapshot.revision, Default::default()) };
        (snapshot.revision, facts)
    };

    // One certificate, in the document of its own organisation, until it has expired.
    let (before, _) = document(Some(&acme), 20).await;
    let serial = revocation(Some(&acme), Revocable::Serial("02".into()), Some(at(1_000)));
    store.revoke(&serial).await.unwrap();
    store.revoke(&Revocation { since: at(15), ..serial.clone() }).await.unwrap();
    assert_eq!(
        store.revocations(Some(&acme), at(20)).await.unwrap(),
        std::slice::from_ref(&serial),
        "the first counts"
    );
    assert_eq!(listed("users", 20).await, [none("02")]);
    let (after, facts) = document(Some(&acme), 20).await;
    assert!(after > before, "receivers hear of it");
    assert_eq!(facts.serials, ["02"]);
    assert_eq!(document(Some(&other), 20).await.1.serials, [""; 0], "nobody else's");
    assert_eq!(document(Some(&acme), 1_000).await.1.serials, [""; 0], "it has expired");
    assert_eq!(store.revocations(Some(&acme), at(1_000)).await.unwrap(), []);

    // An agent, a proxy, a credential.
    store.revoke(&revocation(Some(&acme), Revocable::Instance(instance.clone()), Some(at(900)))).await.unwrap();
    assert_eq!(document(Some(&acme), 20).await.1.instances, [instance]);
    assert_eq!(listed("agents", 20).await, [none("04")]);
    store.revoke(&revocation(None, Revocable::Proxy(proxy.clone()), Some(at(900)))).await.unwrap();
    assert_eq!(document(None, 20).await.1.proxies, [proxy]);
    assert_eq!(listed("proxies", 20).await, [none("05")]);
    store.revoke(&revocation(None, Revocable::Serial("06".into()), Some(at(1_000)))).await.unwrap();
    assert_eq!(
        (document(None, 20).await.1.serials, listed("servers", 20).await),
        (vec!["06".into()], vec![none("06")])
    );
    store.revoke_credential(&credential.id, at(12)).await.unwrap();
    assert_eq!(listed("users", 20).await, [none("01"), none("02")]);

    // A whole organisation, and back.
    assert!(is_missing(store.restore_org(&acme).await));
    store.revoke(&revocation(None, Revocable::Org(acme.clone()), None)).await.unwrap();
    store.revoke(&revocation(None, Revocable::Org(other.clone()), None)).await.unwrap();
    assert_eq!(document(None, 5_000).await.1.orgs.len(), 2, "for good");
    assert_eq!(listed("users", 20).await, [none("01"), none("02"), hold("03")]);
    let (before, _) = document(None, 20).await;
    store.restore_org(&other).await.unwrap();
    let (after, facts) = document(None, 20).await;
    assert!(after > before);
    assert_eq!(facts.orgs, [acme]);
    assert_eq!(listed("users", 20).await, [none("01"), none("02")]);

    // A disabled user may come back.
    let bob = User { id: UserId::generate(), name: "bob".parse().unwrap(), ..alice.clone() };
    store.create_user(&bob).await.unwrap();
    let bobs = Credential { id: CredentialId::generate(), user: bob.id.clone(), ..credential.clone() };
    let session = LoginSession { credential: bobs.id.clone(), active_until: at(1_000) };
    store.create_credential(&bobs, &session).await.unwrap();
    store.record_certificate(&record("bobs", "08", Some(user(&other, &bobs.id)))).await.unwrap();
    store.disable_user(&bob.id, at(30)).await.unwrap();
    assert_eq!(listed("bobs", 40).await, [hold("08")]);
    store.enable_user(&bob.id).await.unwrap();
    assert_eq!(listed("bobs", 40).await, []);

    crls(store).await;

    assert_eq!(store.forget_expired(at(999)).await.unwrap(), 0);
    assert_eq!(store.forget_expired(at(1_000)).await.unwrap(), 7);
    assert_eq!(store.revocations(None, at(20)).await.unwrap().len(), 1, "only the organisation is left");
    assert_eq!(listed("users", 20).await, []);
}

async fn crls(store: &impl RevocationStore) {
    let crl = |number: u64| StoredCrl {
        issuer: KeyId("users".into()),
        number,
        entries: format!("{number}"),
        this_update: at(10),
        next_update: at(10) + SignedDuration::from_hours(24),
        der: Bytes::from(vec![0, 1, 2]),
    };
    assert_eq!(store.crl(&crl(1).issuer).await.unwrap(), None);
    assert!(store.keep_crl(&crl(1)).await.unwrap());
    assert!(!store.keep_crl(&crl(1)).await.unwrap(), "two lists of one number");
    assert!(!store.keep_crl(&crl(3)).await.unwrap(), "a number left out");
    assert!(store.keep_crl(&crl(2)).await.unwrap());
    assert_eq!(store.crl(&crl(1).issuer).await.unwrap(), Some(crl(2)));
    let next = StoredCrl { issuer: KeyId("others".into()), ..crl(1) };
    assert!(store.keep_crl(&next).await.unwrap(), "each authority counts for itself");
}
