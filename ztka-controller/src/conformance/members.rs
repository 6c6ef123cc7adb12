//! What every [`MemberStore`] and [`AuthorityStore`] does.
#![expect(clippy::indexing_slicing, reason = "this is a test suite")]

use std::collections::BTreeMap;

use jiff::SignedDuration;
use ztka_core::{InstanceId, KeyId, ProxyEntry, ProxyId, Revision, Subject};
use ztka_identity::{AdminRole, Credential, IdentityStore, LoginSession, User};
use ztka_pki::{HierarchyState, Names, OrgState, StoredAuthority};

use super::{at, cluster, is_exists, org};
use crate::store::{
    Acknowledgement, AuthorityStore, DocumentStore, Instance, LiveCredential, MemberStore, Proxy, ResourceStore,
};

/// What proxies announce is there until it is too old, and the latest counts.
async fn announcements(store: &impl MemberStore) {
    let entry = |id: &str, zone: Option<&str>, address: Option<&str>| ProxyEntry {
        id: id.parse().unwrap(),
        zone: zone.map(|zone| zone.parse().unwrap()),
        address: address.map(|address| address.parse().unwrap()),
    };
    assert_eq!(store.announced(at(0)).await.unwrap(), []);
    let (one, two) = (entry("p1", Some("eu-1a"), Some("[::1]:443")), entry("p2", None, None));
    store.announce(&two, at(10)).await.unwrap();
    store.announce(&one, at(11)).await.unwrap();
    assert_eq!(store.announced(at(10)).await.unwrap(), [one.clone(), two.clone()]);
    assert_eq!(store.announced(at(11)).await.unwrap(), std::slice::from_ref(&one), "what is too old is gone");
    let moved = entry("p1", Some("eu-1b"), None);
    store.announce(&moved, at(12)).await.unwrap();
    store.announce(&one, at(11)).await.unwrap();
    store.announce(&two, at(13)).await.unwrap();
    assert_eq!(store.announced(at(12)).await.unwrap(), [moved, two], "what was said last counts");
}

/// Runs everything about what members have confirmed on an empty store. Panics at the first difference.
pub async fn members(store: &(impl MemberStore + ResourceStore + IdentityStore)) {
    let acme = org(store, "acme").await;
    let (kept, deleted) = (cluster(&acme, "kept"), cluster(&acme, "deleted"));
    let mut agents = Vec::new();
    for of in [&kept, &deleted] {
        store.create_cluster(of).await.unwrap();
        let id = InstanceId::generate();
        let agent =
            Instance { id: id.clone(), org: acme.clone(), cluster: of.id.clone(), not_after: at(100), renewed: None };
        store.record_instance(&agent).await.unwrap();
        agents.push(Subject::Agent { org: acme.clone(), cluster: of.id.clone(), instance: id });
    }
    store.delete_cluster(&acme, &deleted.id, at(1)).await.unwrap();
    let (proxy, unjoined) = (ProxyId::generate(), ProxyId::generate());
    store
        .create_proxy(&Proxy { id: proxy.clone(), created: at(0), not_after: Some(at(50)), renewed: None })
        .await
        .unwrap();
    store.create_proxy(&Proxy { id: unjoined, created: at(0), not_after: None, renewed: None }).await.unwrap();
    announcements(store).await;
    let live = store.live_members(at(10)).await.unwrap();
    let who: Vec<_> = live.iter().map(|member| member.subject.clone()).collect();
    assert_eq!(who, [agents[0].clone(), Subject::Proxy(proxy.clone())], "of clusters there are, and those who joined");
    assert!(live.iter().all(|member| member.acknowledged.is_none()));

    let said = |version, second| Acknowledgement {
        trust: Revision { epoch: 1, version },
        authorities: vec![KeyId("aa".into()), KeyId("bb".into())],
        server_chain: (version > 5).then(|| "cc".to_owned()),
        at: at(second),
    };
    store.acknowledge(&agents[0], &said(5, 10)).await.unwrap();
    store.acknowledge(&Subject::Proxy(proxy), &said(6, 11)).await.unwrap();
    store.acknowledge(&agents[0], &said(7, 12)).await.unwrap();
    store.acknowledge(&agents[0], &said(4, 11)).await.unwrap();
    let live = store.live_members(at(10)).await.unwrap();
    let confirmed: Vec<_> = live.into_iter().map(|member| (member.not_after, member.acknowledged.unwrap())).collect();
    assert_eq!(confirmed, [(at(100), said(7, 12)), (at(50), said(6, 11))], "what was said last counts");
    assert_eq!(store.live_members(at(50)).await.unwrap().len(), 1);
    assert_eq!(store.live_members(at(100)).await.unwrap(), []);

    let user = User {
        id: ztka_core::UserId::generate(),
        org: acme.clone(),
        name: "alice".parse().unwrap(),
        admin: Some(AdminRole::OrgAdmin),
        disabled: None,
        created: at(0),
    };
    store.create_user(&user).await.unwrap();
    let mut made = Vec::new();
    for second in [10, 20, 30] {
        let id = ztka_core::CredentialId::generate();
        let credential = Credential {
            id: id.clone(),
            org: acme.clone(),
            user: user.id.clone(),
            created: at(second),
            not_after: at(second + 100),
            renewed: None,
            last_used: None,
            revoked: None,
        };
        let session = LoginSession { credential: id.clone(), active_until: at(second + 100) };
        store.create_credential(&credential, &session).await.unwrap();
        made.push(LiveCredential { org: acme.clone(), user: user.id.clone(), id, not_after: at(second + 100) });
    }
    let other = org(store, "other").await;
    assert_eq!(store.live_credentials(None, None, at(20), at(50)).await.unwrap(), made[..2]);
    assert_eq!(store.live_credentials(Some(&acme), Some(at(20)), at(20), at(50)).await.unwrap(), made[1..2]);
    assert_eq!(store.live_credentials(Some(&other), None, at(30), at(50)).await.unwrap(), []);
    assert_eq!(
        store.live_credentials(None, None, at(30), at(120)).await.unwrap(),
        made[2..],
        "those that are not over"
    );
    store.revoke_credential(&made[2].id, at(40)).await.unwrap();
    assert_eq!(store.live_credentials(None, None, at(30), at(50)).await.unwrap(), made[..2], "nor revoked");
}

fn state(generation: u64) -> HierarchyState {
    serde_json::from_value(serde_json::json!({
        "names": Names::of("example.com"), "generation": generation,
        "root": StoredAuthority::default(), "purposes": BTreeMap::<String, StoredAuthority>::new(),
    }))
    .unwrap()
}

/// Runs everything about stored certificate authorities on an empty store. Panics at the first difference.
pub async fn authorities(store: &(impl AuthorityStore + DocumentStore + IdentityStore)) {
    assert_eq!(store.hierarchy().await.unwrap(), None);
    assert!(!store.replace_hierarchy(&state(1), None).await.unwrap(), "there is nothing to replace");
    store.create_hierarchy(&state(0)).await.unwrap();
    assert!(is_exists(store.create_hierarchy(&state(0)).await));
    let series = ztka_core::SeriesKey { kind: ztka_core::DocumentKind::Trust, org: None, subject: String::new() };
    let now = at(0) + SignedDuration::from_secs(1);
    let before = store.snapshot(&series, now).await.unwrap().unwrap().revision;
    assert!(!store.replace_hierarchy(&state(2), None).await.unwrap(), "none is left out");
    assert!(!store.replace_hierarchy(&state(0), None).await.unwrap(), "none comes twice");
    assert_eq!(
        store.snapshot(&series, now).await.unwrap().unwrap().revision,
        before,
        "what is refused changes nothing"
    );
    assert!(store.replace_hierarchy(&state(1), None).await.unwrap());
    assert!(store.snapshot(&series, now).await.unwrap().unwrap().revision > before);
    assert_eq!(store.hierarchy().await.unwrap(), Some(state(1)));
    // Of many at once, one.
    let (second, third) = (state(2), state(2));
    let (one, two) = futures_util::join!(store.replace_hierarchy(&second, None), store.replace_hierarchy(&third, None));
    assert!(one.unwrap() != two.unwrap(), "of two at once, one");

    let acme = org(store, "acme").await;
    let made = |key: &str| OrgState {
        org: acme.clone(),
        agents: StoredAuthority { key: key.into(), ..StoredAuthority::default() },
        users: StoredAuthority::default(),
    };
    assert_eq!(store.create_org_authority(&made("one")).await.unwrap(), made("one"));
    assert_eq!(store.create_org_authority(&made("two")).await.unwrap(), made("one"), "the first stays");
    assert!(!store.replace_hierarchy(&state(2), Some(&made("four"))).await.unwrap(), "of another generation");
    assert_eq!(store.org_authority(&acme).await.unwrap(), Some(made("one")), "all of it or nothing");
    assert!(store.replace_hierarchy(&state(3), Some(&made("three"))).await.unwrap());
    assert_eq!(store.org_authority(&acme).await.unwrap(), Some(made("three")));
    assert_eq!(store.org_authorities().await.unwrap(), [made("three")]);
}
