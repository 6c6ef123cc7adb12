//! The tests that every [`ResourceStore`], [`DocumentStore`] and [`ChangeStore`](crate::store::ChangeStore) passes.
#![expect(clippy::unwrap_used, reason = "this is a test suite")]

mod changes;
mod jobs;
mod members;
mod pages;
mod policy;
mod recordings;
mod revocations;

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ztka_authz::{Binding, ClusterSelector, Role, Rule, Scope, Subject};
use ztka_core::{
    Attributes, ClusterId, CredentialId, DocumentKind, InstanceId, OrgId, ProxyId, Revision, SeriesKey, UserId,
};
use ztka_identity::{Credential, IdentityStore, LoginSession, Org, User};

pub use self::{
    changes::{changes, compaction, conditions, replay},
    jobs::jobs,
    members::{authorities, controllers, live_tokens, members},
    pages::pages,
    policy::{bulk_compaction, policy},
    recordings::recordings,
    revocations::revocations,
};
use crate::store::{
    Cluster, Content, DocumentStore, FeedScope, Instance, Overdue, Proxy, Published, ResourceStore, StoreError,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

async fn org(store: &(impl IdentityStore + ?Sized), name: &str) -> OrgId {
    let org = Org { id: OrgId::generate(), name: name.parse().unwrap(), created: at(0), longest_credential: None };
    store.create_org(&org).await.unwrap();
    org.id
}

fn cluster(org: &OrgId, name: &str) -> Cluster {
    let labels = BTreeMap::from([("stage".to_owned(), name.to_owned())]);
    Cluster { id: ClusterId::generate(), org: org.clone(), name: name.parse().unwrap(), labels, created: at(0) }
}

fn role(name: &str) -> Role {
    let rule = Rule {
        verbs: vec!["get".into()],
        api_groups: vec![String::new()],
        resources: vec!["pods".into()],
        ..Rule::default()
    };
    Role { name: name.into(), rules: vec![rule], ..Role::default() }
}

fn binding(name: &str, role: &str) -> Binding {
    Binding {
        name: name.into(),
        subjects: vec![Subject::User("alice".parse().unwrap())],
        role: role.into(),
        clusters: ClusterSelector { all: true, ..ClusterSelector::default() },
        scope: Scope::Namespaces(vec!["shop".into()]),
        ..Binding::default()
    }
}

fn is_exists<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Exists { .. }))
}

fn is_missing<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound { .. }))
}

/// Runs everything about clusters, proxies, roles and bindings on an empty store. Panics at the first difference.
pub async fn resources(store: &(impl ResourceStore + IdentityStore)) {
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    let (test, prod, foreign) = (cluster(&acme, "test"), cluster(&acme, "prod"), cluster(&other, "test"));
    for cluster in [&test, &prod, &foreign] {
        store.create_cluster(cluster).await.unwrap();
    }
    assert!(is_exists(store.create_cluster(&cluster(&acme, "test")).await));
    assert!(is_missing(store.create_cluster(&cluster(&OrgId::generate(), "test")).await));
    assert_eq!(store.clusters(&acme).await.unwrap(), [prod.clone(), test.clone()], "of one organisation, by name");
    assert_eq!(store.cluster(&test.id).await.unwrap().as_ref(), Some(&test));

    let agent = Instance {
        id: InstanceId::generate(),
        org: acme.clone(),
        cluster: test.id.clone(),
        not_after: at(100),
        renewed: Some(at(0)),
    };
    store.record_instance(&agent).await.unwrap();
    let renewed = Instance { not_after: at(200), renewed: Some(at(20)), ..agent.clone() };
    store.record_instance(&renewed).await.unwrap();
    store.record_instance(&agent).await.unwrap();
    assert_eq!(store.instance(&agent.id).await.unwrap().as_ref(), Some(&renewed), "whenever that is over");
    assert_eq!(store.instance(&InstanceId::generate()).await.unwrap(), None);
    assert_eq!(store.instances(&test.id, at(199)).await.unwrap(), [renewed], "the newest certificate counts");
    assert_eq!(store.instances(&test.id, at(200)).await.unwrap(), []);
    for (second, agents) in [(159, 0), (160, 1), (200, 0)] {
        assert_eq!(store.overdue(at(second)).await.unwrap(), Overdue { agents, proxies: 0 }, "{second}");
    }
    let moved = Instance { cluster: prod.id.clone(), ..agent.clone() };
    assert!(store.record_instance(&moved).await.is_err(), "an agent stays with its cluster");
    let stolen = Instance { id: InstanceId::generate(), org: other.clone(), ..agent.clone() };
    assert!(is_missing(store.record_instance(&stolen).await), "of another organisation");

    assert!(is_missing(store.delete_cluster(&other, &test.id, at(150)).await), "of another organisation");
    store.delete_cluster(&acme, &test.id, at(150)).await.unwrap();
    assert!(is_missing(store.delete_cluster(&acme, &test.id, at(150)).await));
    assert_eq!(store.cluster(&test.id).await.unwrap(), None);
    assert_eq!(store.clusters(&acme).await.unwrap(), [prod]);
    assert!(is_missing(store.record_instance(&agent).await), "no agent enrols or renews after that");
    assert!(is_exists(store.create_cluster(&Cluster { name: "again".parse().unwrap(), ..test.clone() }).await));
    store.create_cluster(&cluster(&acme, "test")).await.unwrap();

    let proxy = Proxy { id: ProxyId::generate(), created: at(0), not_after: None, renewed: None };
    store.create_proxy(&proxy).await.unwrap();
    assert!(is_exists(store.create_proxy(&proxy).await));
    assert!(is_missing(store.record_proxy(&ProxyId::generate(), at(0), at(1)).await));
    store.record_proxy(&proxy.id, at(2), at(20)).await.unwrap();
    store.record_proxy(&proxy.id, at(1), at(10)).await.unwrap();
    let joined = Proxy { not_after: Some(at(20)), renewed: Some(at(2)), ..proxy };
    assert_eq!(store.proxies().await.unwrap(), [joined], "the newer certificate counts");
    // Seven ninths of its eighteen seconds are over at 16.
    for (second, proxies) in [(15, 0), (16, 1), (20, 0)] {
        assert_eq!(store.overdue(at(second)).await.unwrap(), Overdue { agents: 0, proxies }, "{second}");
    }

    roles_and_bindings(store, &acme, &other).await;
    room(store, &acme, &other).await;
}

/// A policy that followers could not take is refused where it comes about.
async fn room(store: &impl ResourceStore, acme: &OrgId, other: &OrgId) {
    let large = |name: &str| {
        let mut role = role(name);
        role.rules.iter_mut().for_each(|rule| rule.resource_names = vec!["x".repeat(1 << 20)]);
        role
    };
    let name = |number: usize| format!("large-{number}");
    let mut made = 0;
    while made <= 11 && store.create_role(acme, &name(made).parse().unwrap(), &large(&name(made))).await.is_ok() {
        made += 1;
    }
    assert_eq!(made, 10, "eleven, with what is around them, are more than 11 MiB");
    assert_eq!(store.roles(acme).await.unwrap().iter().filter(|role| role.name.starts_with("large")).count(), 10);
    let refused = store.create_role(acme, &name(11).parse().unwrap(), &large(&name(11))).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    store.create_role(acme, &"small".parse().unwrap(), &role("small")).await.unwrap();
    let mut wide = binding("wide", "view");
    wide.scope = Scope::Namespaces(vec!["x".repeat(1 << 20)]);
    let refused = store.create_binding(acme, &"wide".parse().unwrap(), &wide, None).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    store.create_role(other, &name(0).parse().unwrap(), &large(&name(0))).await.unwrap();
    store.delete_role(acme, &name(0).parse().unwrap()).await.unwrap();
    store.create_binding(acme, &"wide".parse().unwrap(), &wide, None).await.unwrap();
}

async fn roles_and_bindings(store: &impl ResourceStore, acme: &OrgId, other: &OrgId) {
    let (reader, writer) = ("reader".parse().unwrap(), "writer".parse().unwrap());
    store.create_role(acme, &writer, &role("writer")).await.unwrap();
    store.create_role(acme, &reader, &role("reader")).await.unwrap();
    assert!(is_exists(store.create_role(acme, &reader, &role("reader")).await));
    assert!(is_missing(store.create_role(&OrgId::generate(), &reader, &role("reader")).await));
    assert_eq!(store.roles(acme).await.unwrap(), [role("reader"), role("writer")], "by name");
    assert_eq!(store.roles(other).await.unwrap(), []);

    let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
    store.create_binding(acme, &two, &binding("two", "view"), None).await.unwrap();
    store.create_binding(acme, &one, &binding("one", "reader"), Some(&reader)).await.unwrap();
    assert!(is_exists(store.create_binding(acme, &one, &binding("one", "reader"), Some(&reader)).await));
    let (none, no_role) = ("none".parse().unwrap(), "none".parse().unwrap());
    assert!(is_missing(store.create_binding(acme, &none, &binding("none", "none"), Some(&no_role)).await));
    assert!(is_missing(store.create_binding(other, &one, &binding("one", "reader"), Some(&reader)).await));
    assert_eq!(store.bindings(acme).await.unwrap(), [binding("one", "reader"), binding("two", "view")], "by name");
    assert!(matches!(store.delete_role(acme, &reader).await, Err(StoreError::Refused(_))), "a binding gives it");
    assert!(is_missing(store.delete_role(other, &writer).await));
    store.delete_role(acme, &writer).await.unwrap();
    assert!(is_missing(store.delete_binding(other, &one).await));
    store.delete_binding(acme, &one).await.unwrap();
    assert!(is_missing(store.delete_binding(acme, &one).await));
    store.delete_role(acme, &reader).await.unwrap();
    assert!(is_missing(store.delete_role(acme, &reader).await));
}

fn key(kind: DocumentKind, org: Option<&OrgId>, subject: &str) -> SeriesKey {
    SeriesKey { kind, org: org.cloned(), subject: subject.into() }
}

async fn revision(store: &impl DocumentStore, series: &SeriesKey) -> Revision {
    let revision = store.snapshot(series, at(0)).await.unwrap().unwrap().revision;
    assert_eq!(store.revision(series, at(0)).await.unwrap(), Some(revision), "{series:?}");
    revision
}

async fn publish(store: &impl DocumentStore, series: &SeriesKey, issued: i64, wire: &'static str) -> bool {
    let revision = revision(store, series).await;
    let wire = Bytes::from_static(wire.as_bytes());
    store.publish(&Published { series: series.clone(), revision, issued: at(issued), wire }).await.unwrap()
}

async fn due(store: &impl DocumentStore, signed_before: i64) -> Vec<SeriesKey> {
    sorted(store.due(at(signed_before), at(0), 100).await.unwrap())
}

fn sorted(series: impl Into<Vec<SeriesKey>>) -> Vec<SeriesKey> {
    let mut series = series.into();
    series.sort();
    series
}

/// Signs everything that is due.
async fn settle(store: &impl DocumentStore, issued: i64) {
    for series in due(store, issued).await {
        match (series.kind, &series.org) {
            (DocumentKind::Policy, Some(org)) => publish_policy(store, org, issued).await,
            _ => assert!(publish(store, &series, issued, "{}").await),
        }
    }
    assert_eq!(due(store, issued).await, []);
}

/// Runs everything about documents on an empty store. Panics at the first difference.
pub async fn documents(store: &(impl DocumentStore + ResourceStore + IdentityStore)) {
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    store.touch_trust().await.unwrap();
    settle(store, 0).await;
    assert_eq!(store.unrecorded_epoch().await.unwrap(), None, "nothing was restored");
    let (trust, policy) = (key(DocumentKind::Trust, None, ""), key(DocumentKind::Policy, Some(&acme), ""));
    let revocations = key(DocumentKind::Revocations, Some(&acme), "");
    assert_eq!(store.snapshot(&trust, at(0)).await.unwrap().unwrap().content, Content::Trust);

    // A change raises the version of exactly what it touches.
    let test = cluster(&acme, "test");
    let before = revision(store, &policy).await;
    store.create_cluster(&test).await.unwrap();
    assert!(before < revision(store, &policy).await);
    let projection = SeriesKey::projection(acme.clone(), &test.id);
    assert_eq!(revision(store, &projection).await, revision(store, &policy).await, "made with its cluster");
    assert_eq!(due(store, 0).await, std::slice::from_ref(&policy));
    store.create_role(&acme, &"reader".parse().unwrap(), &role("reader")).await.unwrap();
    let named = "one".parse().unwrap();
    store.create_binding(&acme, &named, &binding("one", "reader"), None).await.unwrap();
    let snapshot = store.snapshot(&policy, at(0)).await.unwrap().unwrap();
    let Content::Policy(content) = snapshot.content else { unreachable!("asked for a policy") };
    assert_eq!((content.roles, content.bindings), (vec![role("reader")], vec![binding("one", "reader")]));
    let listed = ztka_authz::Cluster::new(test.id.clone(), "test");
    let listed = ztka_authz::Cluster { labels: test.labels.clone(), ..listed };
    assert_eq!(content.clusters, [listed]);
    assert!(publish(store, &policy, 1, "{\"policy\":1}").await);
    projections(store, &acme, &test).await;

    // The same revision again: later ones count, others do not.
    assert!(!publish(store, &policy, 1, "{}").await);
    assert!(!publish(store, &policy, 0, "{}").await);
    let old = Published { series: policy.clone(), revision: before, issued: at(5), wire: Bytes::new() };
    assert!(!store.publish(&old).await.unwrap(), "older than what is published");
    assert!(publish(store, &policy, 2, "{\"policy\":2}").await);
    assert_eq!(due(store, 0).await, []);
    assert!(due(store, 1).await.contains(&trust), "signed too long ago");
    assert!(!due(store, 1).await.contains(&policy));

    sessions(store, &acme, &policy).await;
    settle(store, 3).await;

    let agent = Instance {
        id: InstanceId::generate(),
        org: acme.clone(),
        cluster: test.id.clone(),
        not_after: at(500),
        renewed: None,
    };
    store.record_instance(&agent).await.unwrap();
    let deleted = store.delete_cluster(&acme, &test.id, at(3)).await;
    deleted.unwrap();
    assert_eq!(due(store, 0).await, sorted([policy.clone(), revocations.clone()]));
    let projection = SeriesKey::projection(acme.clone(), &test.id);
    assert_eq!(store.revision(&projection, at(0)).await.unwrap(), None, "it goes with its cluster");
    assert!(!store.projections(&acme, at(500)).await.unwrap().contains(&test.id));
    let stray = Published { series: projection, revision: before, issued: at(9), wire: Bytes::new() };
    assert_eq!(store.publish_all(&[stray]).await.unwrap(), 0, "and does not come back");
    let revoked = |now| async move {
        let series = key(DocumentKind::Revocations, Some(&test.org), "");
        let Content::Revocations(facts) = store.snapshot(&series, at(now)).await.unwrap().unwrap().content else {
            unreachable!("asked for revocations")
        };
        facts.instances
    };
    assert_eq!(revoked(499).await, [agent.id]);
    settle(store, 4).await;

    // The feed.
    let all = store.feed(&FeedScope::Installation, 0, 100).await.unwrap();
    let head = store.feed_head().await.unwrap();
    assert_eq!(all.last().unwrap().feed, head);
    assert!(all.windows(2).all(|pair| pair.first().unwrap().feed < pair.last().unwrap().feed));
    assert!(publish(store, &policy, 9, "{\"policy\":9}").await);
    let news = store.feed(&FeedScope::Installation, head, 100).await.unwrap();
    assert_eq!(news.len(), 1, "a document replaces the one before it");
    assert_eq!(news.first().unwrap().wire, "{\"policy\":9}");
    assert_eq!(store.feed(&FeedScope::Installation, 0, 2).await.unwrap().len(), 2);
    let agents = FeedScope::Cluster(acme.clone(), test.id.clone());
    assert_eq!(store.feed(&agents, head, 100).await.unwrap(), [], "no policy as a whole");
    let head = store.feed_head().await.unwrap();
    let (one, two) = (cluster(&acme, "one"), cluster(&acme, "two"));
    for made in [&one, &two] {
        store.create_cluster(made).await.unwrap();
    }
    publish_policy(store, &acme, 10).await;
    let of = |org: &OrgId, cluster: &Cluster| FeedScope::Cluster(org.clone(), cluster.id.clone());
    assert_eq!(store.feed(&of(&acme, &one), head, 100).await.unwrap().len(), 1, "its own projection");
    assert_eq!(store.feed(&of(&other, &one), head, 100).await.unwrap(), [], "of another organisation");
    // Trust, revocations of the installation and of its own organisation, its own projection.
    assert_eq!(store.feed(&of(&acme, &one), 0, 100).await.unwrap().len(), 4);
    assert_eq!(store.feed(&of(&acme, &one), 0, 2).await.unwrap().len(), 2);
    assert_eq!(store.feed(&FeedScope::Installation, head, 100).await.unwrap().len(), 1, "the policy");
    let of_all = store.clusters(&acme).await.unwrap().len();
    assert_eq!(store.feed(&FeedScope::Proxies, head, 100).await.unwrap().len(), 1 + of_all, "and all its projections");
}

/// Publishes a policy with its projections.
async fn publish_policy(store: &impl DocumentStore, org: &OrgId, issued: i64) {
    for cluster in store.projections(org, at(issued)).await.unwrap() {
        assert!(publish(store, &SeriesKey::projection(org.clone(), &cluster), issued, "{}").await);
    }
    // It may be as new as that already.
    publish(store, &SeriesKey::policy(org.clone()), issued, "{}").await;
}

/// The projections of a policy: raised with it, published in one piece with it.
async fn projections(store: &(impl DocumentStore + ResourceStore), acme: &OrgId, test: &Cluster) {
    let (policy, projection) = (SeriesKey::policy(acme.clone()), SeriesKey::projection(acme.clone(), &test.id));
    let clusters = || async { store.projections(acme, at(0)).await.unwrap() };
    assert_eq!(due(store, 0).await, std::slice::from_ref(&policy), "for its projections");
    assert_eq!(clusters().await, std::slice::from_ref(&test.id));
    let other = cluster(acme, "other");
    store.create_cluster(&other).await.unwrap();
    let newest = revision(store, &policy).await;
    assert_eq!(revision(store, &projection).await, newest);
    assert_eq!(clusters().await, sorted_ids([&test.id, &other.id]));
    let Content::Policy(content) = store.snapshot(&projection, at(0)).await.unwrap().unwrap().content else {
        unreachable!("asked for a policy")
    };
    assert_eq!(content.clusters.iter().map(|known| &known.id).collect::<Vec<_>>(), [&test.id]);
    let stranger = SeriesKey::projection(acme.clone(), &ClusterId::generate());
    assert_eq!(store.snapshot(&stranger, at(0)).await.unwrap(), None);

    let signed = |series: &SeriesKey, issued| Published {
        series: series.clone(),
        revision: newest,
        issued: at(issued),
        wire: Bytes::from_static(b"{}"),
    };
    let before = store.feed_head().await.unwrap();
    let of_other = SeriesKey::projection(acme.clone(), &other.id);
    let all = [signed(&projection, 1), signed(&stranger, 1), signed(&of_other, 1), signed(&policy, 1)];
    assert_eq!(store.publish_all(&all).await.unwrap(), 3, "that of nobody is left out");
    assert_eq!(store.publish_all(&all).await.unwrap(), 0, "once");
    assert_eq!(store.publish_all(&[]).await.unwrap(), 0);
    let places: Vec<_> =
        store.feed(&FeedScope::Proxies, before, 9).await.unwrap().iter().map(|entry| entry.feed).collect();
    let wholes = store.feed(&FeedScope::Installation, before, 9).await.unwrap();
    assert_eq!((places.len(), wholes.len()), (3, 1));
    assert_eq!(places.last(), wholes.first().map(|entry| &entry.feed), "the policy comes behind them");
    assert_eq!((clusters().await, due(store, 0).await), (vec![], vec![]));
    // Signed too long ago.
    assert_eq!(store.projections(acme, at(2)).await.unwrap(), sorted_ids([&test.id, &other.id]));
    assert!(due(store, 2).await.contains(&policy));
}

fn sorted_ids<const N: usize>(ids: [&ClusterId; N]) -> Vec<ClusterId> {
    let mut ids: Vec<_> = ids.into_iter().cloned().collect();
    ids.sort();
    ids
}

async fn sessions(store: &(impl DocumentStore + IdentityStore), acme: &OrgId, policy: &SeriesKey) {
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
        not_after: at(1000),
        renewed: None,
        last_used: None,
        revoked: None,
    };
    let until = LoginSession { credential: credential.id.clone(), active_until: at(900) };
    store.create_credential(&credential, &until).await.unwrap();
    let session = key(DocumentKind::Session, Some(acme), credential.id.as_str());
    assert_eq!(due(store, 0).await, std::slice::from_ref(&session));
    settle(store, 2).await;
    let dev = "dev".parse().unwrap();
    store.create_group(acme, &dev).await.unwrap();
    assert_eq!(due(store, 0).await, [], "an empty group is nobody's");
    store.add_member(acme, &dev, &alice.id).await.unwrap();
    assert_eq!(due(store, 0).await, std::slice::from_ref(&session));
    let content = store.snapshot(&session, at(0)).await.unwrap().unwrap().content;
    let Content::Session(body) = content else { unreachable!("asked for a session") };
    assert_eq!((&body.user, &body.credential, &body.name), (&alice.id, &credential.id, &alice.name));
    assert_eq!((body.groups, body.active_until), (vec![dev.clone()], at(900)));
    settle(store, 2).await;
    let team = Attributes::from([("team".to_owned(), "shop".to_owned())]);
    assert!(!store.set_attributes(&alice.id, &team, &Attributes::new()).await.unwrap());
    assert_eq!(due(store, 0).await, [], "nothing has changed");
    assert!(store.set_attributes(&alice.id, &Attributes::new(), &team).await.unwrap());
    assert_eq!(due(store, 0).await, std::slice::from_ref(&session));
    let content = store.snapshot(&session, at(0)).await.unwrap().unwrap().content;
    let Content::Session(body) = content else { unreachable!("asked for a session") };
    assert_eq!(body.attributes, team);
    let foreign = key(DocumentKind::Session, Some(&OrgId::generate()), credential.id.as_str());
    assert_eq!(store.snapshot(&foreign, at(0)).await.unwrap(), None);
    settle(store, 2).await;

    let revocations = key(DocumentKind::Revocations, Some(acme), "");
    store.disable_user(&alice.id, at(50)).await.unwrap();
    store.revoke_credential(&credential.id, at(60)).await.unwrap();
    assert_eq!(due(store, 0).await, sorted([session.clone(), revocations.clone()]));
    let Content::Session(body) = store.snapshot(&session, at(0)).await.unwrap().unwrap().content else {
        unreachable!("asked for a session")
    };
    assert_eq!(body.active_until, at(50));
    let facts = |now| async move {
        let series = key(DocumentKind::Revocations, Some(acme), "");
        let Content::Revocations(facts) = store.snapshot(&series, at(now)).await.unwrap().unwrap().content else {
            unreachable!("asked for revocations")
        };
        facts
    };
    let revoked = facts(61).await;
    assert_eq!((revoked.credentials, revoked.users), (vec![credential.id.clone()], vec![alice.id.clone()]));
    store.enable_user(&alice.id).await.unwrap();
    assert_eq!(facts(61).await.users, []);
    settle(store, 2).await;

    // Feeds of agents have no sessions, and sessions end with the certificate.
    let nobody = FeedScope::Cluster(acme.clone(), ClusterId::generate());
    assert_eq!(store.feed(&nobody, 0, 100).await.unwrap().len(), 3, "trust, and two of revocations");
    assert_eq!(facts(1000).await.credentials, [], "the certificate has expired");
    assert_eq!(store.snapshot(&session, at(1000)).await.unwrap(), None);
    let later = store.due(at(0) - SignedDuration::from_secs(9), at(1000), 100).await.unwrap();
    assert!(!later.contains(policy) && !later.contains(&session));
    assert_eq!(store.snapshot(&session, at(0)).await.unwrap(), None, "forgotten");
    let stray = Published {
        series: session,
        revision: Revision { epoch: 1, version: u64::from(u32::MAX) },
        issued: at(2000),
        wire: Bytes::new(),
    };
    assert!(!store.publish(&stray).await.unwrap());
}
