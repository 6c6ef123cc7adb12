//! The tests that every [`IdentityStore`] passes.
#![expect(clippy::unwrap_used, reason = "this is a test suite")]

use jiff::{SignedDuration, Timestamp};
use ztka_core::{Attributes, CredentialId, OrgId, UserId};

use crate::{AdminRole, Credential, Directory, IdentityStore, LoginSession, Org, StoreError, User};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn user(org: &OrgId, name: &str) -> User {
    User {
        id: UserId::generate(),
        org: org.clone(),
        name: name.parse().unwrap(),
        admin: Some(AdminRole::OrgAdmin),
        attributes: Attributes::new(),
        disabled: None,
        created: at(0),
    }
}

fn credential(user: &User, created: i64) -> (Credential, LoginSession) {
    let credential = Credential {
        id: CredentialId::generate(),
        org: user.org.clone(),
        user: user.id.clone(),
        created: at(created),
        not_after: at(created) + SignedDuration::from_hours(1),
        renewed: None,
        last_used: None,
        revoked: None,
    };
    let session = LoginSession { credential: credential.id.clone(), active_until: credential.not_after };
    (credential, session)
}

fn is_exists<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Exists { .. }))
}

fn is_missing<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound { .. }))
}

/// Runs everything on an empty store. Panics at the first difference.
pub async fn identity(store: &dyn IdentityStore) {
    let made = |name: &str| Org {
        id: OrgId::generate(),
        name: name.parse().unwrap(),
        created: at(0),
        longest_credential: None,
    };
    let (org, other) = (made("acme"), made("other"));
    store.create_org(&other).await.unwrap();
    store.create_org(&org).await.unwrap();
    assert!(is_exists(store.create_org(&Org { id: OrgId::generate(), ..org.clone() }).await), "name is taken");
    assert_eq!(store.orgs().await.unwrap(), [org.clone(), other.clone()], "by name");
    assert_eq!(store.org(&org.id).await.unwrap().as_ref(), Some(&org));
    assert_eq!(store.org(&OrgId::generate()).await.unwrap(), None);
    for longest in [Some(SignedDuration::from_hours(9)), None] {
        store.limit_credentials(&org.id, longest).await.unwrap();
        assert_eq!(store.org(&org.id).await.unwrap().unwrap().longest_credential, longest);
        assert_eq!(store.org(&other.id).await.unwrap().unwrap().longest_credential, None, "another's");
    }
    assert!(is_missing(store.limit_credentials(&OrgId::generate(), None).await));

    let bob = user(&org.id, "bob");
    let alice = user(&org.id, "alice");
    let foreign = user(&other.id, "alice");
    for user in [&bob, &alice, &foreign] {
        store.create_user(user).await.unwrap();
    }
    assert!(is_exists(store.create_user(&user(&org.id, "alice")).await));
    assert!(is_missing(store.create_user(&user(&OrgId::generate(), "zoe")).await));
    assert_eq!(store.users(&org.id).await.unwrap(), [alice.clone(), bob.clone()], "of one organisation, by name");
    assert_eq!(store.user(&alice.id).await.unwrap().as_ref(), Some(&alice));
    assert_eq!(store.user_named(&other.id, &alice.name).await.unwrap().as_ref(), Some(&foreign));
    assert_eq!(store.user_named(&org.id, &"zoe".parse().unwrap()).await.unwrap(), None);

    groups(store, &org.id, &alice, &bob, &foreign).await;
    attributes(store, &bob, &foreign).await;
    renewals(store, &user(&org.id, "rita")).await;
    sessions(store, &alice, &bob).await;
    many(store, &user(&org.id, "many")).await;
}

/// Each is a document that every proxy holds, and users make them by themselves.
async fn many(store: &dyn IdentityStore, user: &User) {
    store.create_user(user).await.unwrap();
    for _ in 0..Directory::MOST_CREDENTIALS {
        let (credential, session) = credential(user, 1);
        store.create_credential(&credential, &session).await.unwrap();
    }
    let (late, late_session) = credential(user, 2);
    let refused = store.create_credential(&late, &late_session).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    let held = store.credentials(&user.id).await.unwrap();
    store.revoke_credential(&held.first().unwrap().id, at(3)).await.unwrap();
    let refused = store.create_credential(&late, &late_session).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "a revocation is said until the certificate is over");
    let (next, next_session) = credential(user, 4000);
    store.create_credential(&next, &next_session).await.unwrap();
}

async fn renewals(store: &dyn IdentityStore, rita: &User) {
    store.create_user(rita).await.unwrap();
    let ((one, one_session), (two, mut two_session)) = (credential(rita, 1), credential(rita, 2));
    two_session.active_until = at(100);
    store.create_credential(&one, &one_session).await.unwrap();
    store.create_credential(&two, &two_session).await.unwrap();
    for id in [&one.id, &two.id] {
        store.renew_credential(id, at(60), at(9_000)).await.unwrap();
    }
    let (renewed, session) = store.credential(&one.id).await.unwrap().unwrap();
    assert_eq!((renewed.renewed, renewed.not_after, renewed.created), (Some(at(60)), at(9_000), at(1)));
    assert_eq!(session.active_until, at(9_000), "as long as the certificate, as before");
    let (_, session) = store.credential(&two.id).await.unwrap().unwrap();
    assert_eq!(session.active_until, at(100), "a login is not prolonged by a certificate");
    assert!(is_missing(store.renew_credential(&CredentialId::generate(), at(60), at(9_000)).await));

    let unknown = CredentialId::generate();
    store.note_uses(&[(one.id.clone(), at(70)), (unknown, at(71)), (one.id.clone(), at(65))]).await.unwrap();
    store.note_uses(&[(one.id.clone(), at(50))]).await.unwrap();
    store.note_uses(&[]).await.unwrap();
    let uses: Vec<_> = store.credentials(&rita.id).await.unwrap().into_iter().map(|used| used.last_used).collect();
    assert_eq!(uses, [None, Some(at(70))], "newest credential first; the latest use counts");

    store.revoke_credential(&one.id, at(80)).await.unwrap();
    let refused = store.renew_credential(&one.id, at(81), at(9_500)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "revoked: {refused:?}");
    store.disable_user(&rita.id, at(90)).await.unwrap();
    let refused = store.renew_credential(&two.id, at(91), at(9_500)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "disabled: {refused:?}");
}

async fn attributes(store: &dyn IdentityStore, bob: &User, foreign: &User) {
    let none = Attributes::new();
    let team = |name: &str| Attributes::from([("team".to_owned(), name.to_owned())]);
    for (before, after, done) in [
        (&team("pay"), &team("shop"), false),
        (&none, &team("pay"), true),
        (&none, &team("shop"), false),
        (&team("pay"), &team("shop"), true),
        (&team("shop"), &team("shop"), true),
    ] {
        assert_eq!(store.set_attributes(&bob.id, before, after).await.unwrap(), done, "{before:?} to {after:?}");
    }
    let now = User { attributes: team("shop"), ..bob.clone() };
    assert_eq!(store.user(&bob.id).await.unwrap().unwrap(), now);
    assert_eq!(store.user_named(&bob.org, &bob.name).await.unwrap().unwrap(), now);
    assert!(store.users(&bob.org).await.unwrap().contains(&now));
    assert_eq!(store.user(&foreign.id).await.unwrap().unwrap(), *foreign);
    assert!(store.set_attributes(&bob.id, &team("shop"), &none).await.unwrap());
    assert_eq!(store.user(&bob.id).await.unwrap().unwrap(), *bob);
    assert!(is_missing(store.set_attributes(&UserId::generate(), &none, &none).await));
    // One that is made with some has them.
    let made = User { attributes: team("pay"), ..user(&bob.org, "mia") };
    store.create_user(&made).await.unwrap();
    assert_eq!(store.user(&made.id).await.unwrap().unwrap(), made);
}

async fn groups(store: &dyn IdentityStore, org: &OrgId, alice: &User, bob: &User, foreign: &User) {
    let dev = "dev".parse().unwrap();
    let ops = "ops".parse().unwrap();
    store.create_group(org, &ops).await.unwrap();
    store.create_group(org, &dev).await.unwrap();
    assert!(is_exists(store.create_group(org, &dev).await));
    assert!(is_missing(store.create_group(&OrgId::generate(), &dev).await));
    for _ in 0..2 {
        store.add_member(org, &dev, &alice.id).await.unwrap();
    }
    store.add_member(org, &dev, &bob.id).await.unwrap();
    store.add_member(org, &ops, &alice.id).await.unwrap();
    assert!(is_missing(store.add_member(org, &"none".parse().unwrap(), &alice.id).await));
    assert!(is_missing(store.add_member(org, &dev, &foreign.id).await), "of another organisation");
    assert!(is_missing(store.add_member(&foreign.org, &dev, &foreign.id).await), "group of another organisation");
    assert_eq!(store.groups_of(&alice.id).await.unwrap(), [dev.clone(), ops.clone()]);
    let all = store.groups(org).await.unwrap();
    let names: Vec<_> = all.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["dev", "ops"]);
    let mut members = [alice.id.clone(), bob.id.clone()];
    members.sort();
    assert_eq!(all.first().unwrap().members, members);
    for _ in 0..2 {
        store.remove_member(org, &dev, &alice.id).await.unwrap();
    }
    assert!(is_missing(store.remove_member(org, &dev, &UserId::generate()).await));
    assert_eq!(store.groups_of(&alice.id).await.unwrap(), [ops]);
}

async fn sessions(store: &dyn IdentityStore, alice: &User, bob: &User) {
    let (one, one_session) = credential(alice, 1);
    let (mut two, two_session) = credential(alice, 2);
    two.renewed = Some(at(5));
    let (bobs, bobs_session) = credential(bob, 3);
    for (credential, session) in [(&one, &one_session), (&two, &two_session), (&bobs, &bobs_session)] {
        store.create_credential(credential, session).await.unwrap();
    }
    assert!(is_exists(store.create_credential(&one, &one_session).await));
    let (stray, stray_session) = credential(&user(&alice.org, "zoe"), 1);
    assert!(is_missing(store.create_credential(&stray, &stray_session).await));
    assert_eq!(store.credential(&one.id).await.unwrap(), Some((one.clone(), one_session)));
    assert_eq!(store.credential(&stray.id).await.unwrap(), None);
    assert_eq!(store.credentials(&alice.id).await.unwrap(), [two.clone(), one.clone()], "newest first");

    for second in [10, 20] {
        store.revoke_credential(&one.id, at(second)).await.unwrap();
    }
    let (revoked, ended) = store.credential(&one.id).await.unwrap().unwrap();
    assert_eq!((revoked.revoked, ended.active_until), (Some(at(10)), at(10)), "the first revocation counts");
    assert!(is_missing(store.revoke_credential(&stray.id, at(10)).await));

    for second in [30, 40] {
        store.disable_user(&alice.id, at(second)).await.unwrap();
    }
    assert!(is_missing(store.disable_user(&UserId::generate(), at(30)).await));
    assert_eq!(store.user(&alice.id).await.unwrap().unwrap().disabled, Some(at(30)));
    for (id, end) in [(&one.id, at(10)), (&two.id, at(30)), (&bobs.id, bobs_session.active_until)] {
        assert_eq!(store.credential(id).await.unwrap().unwrap().1.active_until, end);
    }
    let (late, late_session) = credential(alice, 50);
    assert!(matches!(store.create_credential(&late, &late_session).await, Err(StoreError::Refused(_))));
    store.enable_user(&alice.id).await.unwrap();
    assert!(is_missing(store.enable_user(&UserId::generate()).await));
    assert_eq!(store.user(&alice.id).await.unwrap().unwrap().disabled, None);
    assert_eq!(store.credential(&two.id).await.unwrap().unwrap().1.active_until, at(30), "stays ended");
    store.create_credential(&late, &late_session).await.unwrap();
}
