//! The rules, over the store in memory.

use ztka_core::ManualClock;

use super::*;
use crate::MemoryIdentityStore;

fn directory() -> (Directory, ManualClock) {
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    (Directory::new(Arc::new(MemoryIdentityStore::default()), Arc::new(clock.clone())), clock)
}

#[tokio::test]
async fn a_disabled_user_loses_every_session_and_gets_no_new_one() {
    let (directory, _) = directory();
    let org = directory.create_org("acme".parse().unwrap()).await.unwrap();
    let user = directory.create_user(&org.id, "alice".parse().unwrap(), None).await.unwrap();
    let life = SignedDuration::from_hours(1);
    let one = directory.issue_credential(&user.id, life).await.unwrap();
    let two = directory.issue_credential(&user.id, life).await.unwrap();
    directory.disable(&user.id).await.unwrap();
    for credential in [&one, &two] {
        assert!(matches!(directory.whoami(&user.id, &credential.id).await, Err(NotActive::Disabled)));
    }
    assert!(matches!(directory.issue_credential(&user.id, life).await, Err(StoreError::Refused(_))));
    directory.enable(&user.id).await.unwrap();
    assert!(matches!(directory.whoami(&user.id, &one.id).await, Err(NotActive::Ended)), "ended sessions stay ended");
    let three = directory.issue_credential(&user.id, life).await.unwrap();
    assert_eq!(directory.whoami(&user.id, &three.id).await.unwrap().user.name, user.name);
}

#[tokio::test]
async fn sessions_end_with_time_and_revocation_and_belong_to_one_user() {
    let (directory, clock) = directory();
    let org = directory.create_org("acme".parse().unwrap()).await.unwrap();
    let alice = directory.create_user(&org.id, "alice".parse().unwrap(), None).await.unwrap();
    let bob = directory.create_user(&org.id, "bob".parse().unwrap(), None).await.unwrap();
    let one = directory.issue_credential(&alice.id, SignedDuration::from_hours(1)).await.unwrap();
    let two = directory.issue_credential(&alice.id, SignedDuration::from_hours(2)).await.unwrap();
    assert!(matches!(directory.whoami(&bob.id, &one.id).await, Err(NotActive::Unknown)));
    clock.advance(SignedDuration::from_hours(1));
    assert!(matches!(directory.whoami(&alice.id, &one.id).await, Err(NotActive::Ended)));
    directory.revoke(&two.id).await.unwrap();
    assert!(matches!(directory.whoami(&alice.id, &two.id).await, Err(NotActive::Revoked)));
    for life in [SignedDuration::ZERO, SignedDuration::from_secs(-1), SignedDuration::MAX] {
        assert!(matches!(directory.issue_credential(&bob.id, life).await, Err(StoreError::Refused(_))));
    }
}

#[tokio::test]
async fn system_admins_belong_to_the_installation_and_org_admins_to_their_org() {
    let (directory, _) = directory();
    let own = directory.create_installation().await.unwrap();
    assert!(matches!(directory.create_installation().await, Err(StoreError::Exists { .. })));
    assert!(matches!(directory.create_org("installation".parse().unwrap()).await, Err(StoreError::Exists { .. })));
    let acme = directory.create_org("acme".parse().unwrap()).await.unwrap();
    let other = directory.create_org("other".parse().unwrap()).await.unwrap();
    for (org, admin) in [(&own, None), (&own, Some(AdminRole::OrgAdmin)), (&acme, Some(AdminRole::SystemAdmin))] {
        let made = directory.create_user(&org.id, "eve".parse().unwrap(), admin).await;
        assert!(matches!(made, Err(StoreError::Refused(_))), "{admin:?} of {}", org.name);
    }
    let mut callers = Vec::new();
    for (org, admin) in [(&own, Some(AdminRole::SystemAdmin)), (&acme, Some(AdminRole::OrgAdmin)), (&acme, None)] {
        let name = format!("user{}", callers.len()).parse().unwrap();
        let user = directory.create_user(&org.id, name, admin).await.unwrap();
        let credential = directory.issue_credential(&user.id, SignedDuration::from_hours(1)).await.unwrap();
        callers.push(directory.whoami(&user.id, &credential.id).await.unwrap());
    }
    let rights: Vec<_> = callers
        .iter()
        .map(|caller| (caller.is_system_admin(), caller.administers(&acme.id), caller.administers(&other.id)))
        .collect();
    assert_eq!(rights, [(true, true, true), (false, true, false), (false, false, false)]);
}

#[tokio::test]
async fn a_credential_is_renewed_up_to_the_organisations_limit_and_not_beyond() {
    let (directory, clock) = directory();
    let org = directory.create_org("acme".parse().unwrap()).await.unwrap();
    let alice = directory.create_user(&org.id, "alice".parse().unwrap(), None).await.unwrap();
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    assert_eq!(directory.usual_life(&org.id).await.unwrap(), days(30));
    directory.limit_credentials(&org.id, Some(days(70))).await.unwrap();
    for out_of_bounds in [days(367), SignedDuration::ZERO] {
        let refused = directory.limit_credentials(&org.id, Some(out_of_bounds)).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    assert!(matches!(directory.issue_credential(&alice.id, days(71)).await, Err(StoreError::Refused(_))));
    let made = directory.issue_credential(&alice.id, days(30)).await.unwrap();
    let current = async || directory.store().credential(&made.id).await.unwrap().unwrap().0;
    // 20 days at a time: lives of 30, 30, then what is left of 70.
    for expected in [days(30), days(30), days(10)] {
        clock.advance(days(20));
        let Ok(life) = directory.renewed_life(&current().await).await else {
            // At day 60 the certificate of day 40 lasts until day 70 already.
            assert_eq!(expected, days(10));
            break;
        };
        assert_eq!(life, expected);
        directory.renew(&made.id, clock.now() + life).await.unwrap();
    }
    assert_eq!(current().await.not_after, made.created + days(70));
    directory.limit_credentials(&org.id, Some(days(7))).await.unwrap();
    assert_eq!(directory.usual_life(&org.id).await.unwrap(), days(7));
    directory.revoke(&made.id).await.unwrap();
    assert!(matches!(directory.renewed_life(&current().await).await, Err(StoreError::Refused(_))));
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    crate::conformance::identity(&MemoryIdentityStore::default()).await;
}
