//! The tests that every [`IdentityStore`] passes.
#![expect(clippy::unwrap_used, reason = "this is a test suite")]

use jiff::{SignedDuration, Timestamp};
use ztka_core::{CredentialId, OrgId, UserId};

use crate::{AdminRole, Credential, IdentityStore, LoginSession, Org, StoreError, User};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn user(org: &OrgId, name: &str) -> User {
    User {
        id: UserId::generate(),
        org: org.clone(),
        name: name.parse().unwrap(),
        admin: Some(AdminRole::OrgAdmin),
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
    let org = Org { id: OrgId::generate(), name: "acme".parse().unwrap(), created: at(0) };
    let other = Org { id: OrgId::generate(), name: "other".parse().unwrap(), created: at(0) };
    store.create_org(&other).await.unwrap();
    store.create_org(&org).await.unwrap();
    assert!(is_exists(store.create_org(&Org { id: OrgId::generate(), ..org.clone() }).await), "name is taken");
    assert_eq!(store.orgs().await.unwrap(), [org.clone(), other.clone()], "by name");
    assert_eq!(store.org(&org.id).await.unwrap().as_ref(), Some(&org));
    assert_eq!(store.org(&OrgId::generate()).await.unwrap(), None);

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
    sessions(store, &alice, &bob).await;
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
    let (two, two_session) = credential(alice, 2);
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
