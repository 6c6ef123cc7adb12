//! What every [`MemberStore`] and [`AuthorityStore`] does.
#![expect(clippy::indexing_slicing, reason = "this is a test suite")]

use std::collections::BTreeMap;

use jiff::SignedDuration;
use ztka_core::{Attributes, ControllerId, InstanceId, KeyId, ProxyEntry, ProxyId, Revision, Subject};
use ztka_identity::{AdminRole, Credential, IdentityStore, LoginSession, User};
use ztka_pki::{
    Enrollee, EnrolmentStore, HierarchyState, Names, OrgState, Spent, StoredAuthority, TokenId, TokenRecord,
};

use super::{at, cluster, is_exists, org};
use crate::store::{
    Acknowledgement, AuthorityStore, DocumentStore, Instance, LiveCredential, MemberStore, Proxy, ResourceStore,
};

/// What proxies announce is there until it is too old, and the latest counts.
async fn announcements(store: &impl MemberStore) {
    let entry = |id: &str, zone: Option<&str>, address: Option<&str>| ProxyEntry {
        peers: address.map(|_| "10.0.0.7:8444".parse().unwrap()),
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
    assert_eq!(store.announced(at(12)).await.unwrap(), [moved, two.clone()], "what was said last counts");
    store.withdraw(&two.id, at(12)).await.unwrap();
    assert_eq!(store.announced(at(13)).await.unwrap(), std::slice::from_ref(&two), "it has come back since");
    store.withdraw(&two.id, at(13)).await.unwrap();
    assert_eq!(store.announced(at(13)).await.unwrap(), [], "one that stops is gone at once");
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
        attributes: Attributes::new(),
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

/// Runs everything about enrolment tokens that are waited for on an empty store. Panics at the first difference.
pub async fn live_tokens(store: &(impl MemberStore + ResourceStore + IdentityStore + EnrolmentStore)) {
    let acme = org(store, "acme").await;
    let (kept, deleted) = (cluster(&acme, "kept"), cluster(&acme, "deleted"));
    let mut ids = Vec::new();
    let mut record = async |enrollee: Enrollee, created, expires| {
        let id: TokenId = format!("e{:032x}", ids.len() + 1).parse().unwrap();
        ids.push(id.clone());
        let record = TokenRecord {
            id: id.clone(),
            secret_hash: [7; 32],
            enrollee,
            created: at(created),
            expires: at(expires),
            sources: Vec::new(),
            approval: false,
            verdict: None,
            revoked: None,
            spent: None,
        };
        store.add_token(record).await.unwrap();
        id
    };
    for of in [&kept, &deleted] {
        store.create_cluster(of).await.unwrap();
    }
    let agent = |of: &crate::store::Cluster| Enrollee::Agent { org: acme.clone(), cluster: of.id.clone() };
    let proxy = ProxyId::generate();
    let unused = record(agent(&kept), 10, 100).await;
    let of_proxy = record(Enrollee::Proxy { proxy: proxy.clone() }, 20, 90).await;
    let later = record(agent(&kept), 30, 100).await;
    let revoked = record(agent(&kept), 10, 100).await;
    record(agent(&deleted), 10, 100).await;
    record(agent(&kept), 10, 40).await; // over
    let (used, answered) = (record(agent(&kept), 10, 100).await, record(agent(&kept), 10, 100).await);
    store.revoke_token(&revoked, at(40)).await.unwrap();
    store.delete_cluster(&acme, &deleted.id, at(40)).await.unwrap();
    for (token, used, key) in [(&used, true, "aa"), (&answered, false, "bb")] {
        let subject = Subject::Agent { org: acme.clone(), cluster: kept.id.clone(), instance: InstanceId::generate() };
        let by = Spent { key: KeyId(key.into()), subject, at: at(40), chain: None, used };
        store.spend(token, by).await.unwrap().unwrap();
    }
    let live = async |from: Option<i64>, until| {
        let live = store.live_tokens(from.map(at), at(until), at(50)).await.unwrap();
        live.into_iter().map(|live| (live.id, live.expires)).collect::<Vec<_>>()
    };
    let of_all = [(unused, at(100)), (of_proxy.clone(), at(90)), (later, at(100)), (answered, at(100))];
    assert_eq!(live(None, 50).await, of_all, "that may be used, or whose answer may be asked for");
    assert_eq!(live(Some(20), 20).await, [(of_proxy, at(90))], "the ends of the time count");
    assert_eq!(live(Some(31), 50).await, []);
}

/// Runs everything about controllers that confirm on an empty store. Panics at the first difference.
pub async fn controllers(store: &impl MemberStore) {
    let (one, two) = (ControllerId::generate(), ControllerId::generate());
    let said = |version, second| Acknowledgement {
        trust: Revision { epoch: 1, version },
        authorities: vec![KeyId("aa".into())],
        server_chain: Some("cc".to_owned()),
        at: at(second),
    };
    assert_eq!(store.live_controllers(at(0)).await.unwrap(), []);
    store.acknowledge(&Subject::Controller(one.clone()), &said(1, 10)).await.unwrap();
    store.acknowledge(&Subject::Controller(two.clone()), &said(1, 20)).await.unwrap();
    store.acknowledge(&Subject::Controller(two.clone()), &said(2, 30)).await.unwrap();
    let mut both = vec![(one.clone(), said(1, 10)), (two.clone(), said(2, 30))];
    both.sort_by(|one, two| one.0.as_str().cmp(two.0.as_str()));
    assert_eq!(store.live_controllers(at(10)).await.unwrap(), both);
    assert_eq!(store.live_controllers(at(11)).await.unwrap(), [(two.clone(), said(2, 30))], "who was heard since");
    // Those of long ago are forgotten, and one that has said goodbye.
    store.acknowledge(&Subject::Controller(two.clone()), &said(3, 2 * 86_400)).await.unwrap();
    assert_eq!(store.live_controllers(at(0)).await.unwrap().len(), 1);
    store.forget_controller(&two).await.unwrap();
    assert_eq!(store.live_controllers(at(0)).await.unwrap(), []);
    assert_eq!(store.live_members(at(0)).await.unwrap(), [], "they are no members");
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
    assert!(!store.exchange_org_authority(&made("two"), &made("three")).await.unwrap(), "another is kept");
    assert_eq!(store.org_authority(&acme).await.unwrap(), Some(made("one")));
    assert!(store.exchange_org_authority(&made("one"), &made("two")).await.unwrap());
    assert_eq!(store.org_authority(&acme).await.unwrap(), Some(made("two")));
    let (before, after) = (made("two"), [made("one"), made("three")]);
    let (one, two) = futures_util::join!(
        store.exchange_org_authority(&before, &after[0]),
        store.exchange_org_authority(&before, &after[1])
    );
    assert!(one.unwrap() != two.unwrap(), "of two at once, one");
    let kept = store.org_authority(&acme).await.unwrap().unwrap();
    assert!(store.exchange_org_authority(&kept, &made("one")).await.unwrap());
    assert!(!store.replace_hierarchy(&state(2), Some(&made("four"))).await.unwrap(), "of another generation");
    assert_eq!(store.org_authority(&acme).await.unwrap(), Some(made("one")), "all of it or nothing");
    assert!(store.replace_hierarchy(&state(3), Some(&made("three"))).await.unwrap());
    assert_eq!(store.org_authority(&acme).await.unwrap(), Some(made("three")));
    assert_eq!(store.org_authorities().await.unwrap(), [made("three")]);
}
