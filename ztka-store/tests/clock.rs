//! The wall clock is set back by an hour, on every controller: nothing that is given out by time is kept back by it.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use jiff::{SignedDuration, Timestamp};
use kit::Place;
use ztka_authz::Role;
use ztka_controller::store::{
    Acknowledgement, ChangeStore as _, DocumentStore as _, JobKind, JobStore as _, MemberStore as _, Published,
    ResourceStore as _, Step,
};
use ztka_core::{ControllerId, DocumentKind, OrgId, ProxyEntry, ProxyId, Revision, SeriesKey, Subject};
use ztka_identity::{IdentityStore as _, Org};
use ztka_store::Store;

kit::on_both!(
    a_job_whose_holder_is_gone_goes_on,
    what_members_confirm_and_announce_counts,
    changes_and_documents_come_out,
);

const LEASE: SignedDuration = SignedDuration::from_secs(30);
const HOUR: i64 = 3600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// Jobs of the migration are none of this.
async fn work_off(store: &Store) {
    while let Some(mut job) = store.take_job("test", at(0), LEASE).await.unwrap() {
        while store.step(&mut job, at(0), LEASE).await.unwrap() == Step::More {}
    }
}

async fn a_job_whose_holder_is_gone_goes_on(place: &Place) {
    let store = place.unlocked().await;
    work_off(&store).await;
    store.add_job(JobKind::DestroyKey, "a", at(-2 * HOUR)).await.unwrap();
    let held = store.take_job("killed", at(0), LEASE).await.unwrap().unwrap();
    // Clocks of two controllers are never quite the same, which lets nobody in.
    for second in [-20, 0, 29] {
        assert_eq!(store.take_job("two", at(second), LEASE).await.unwrap(), None, "{second}");
    }
    let taken = store.take_job("two", at(-HOUR), LEASE).await.unwrap().unwrap();
    assert_eq!(store.finish(&held).await.unwrap(), Step::Lost, "and only one of them has it");
    assert_eq!(store.take_job("three", at(-HOUR + 29), LEASE).await.unwrap(), None);
    assert_eq!(store.finish(&taken).await.unwrap(), Step::Done);
}

async fn what_members_confirm_and_announce_counts(place: &Place) {
    let store = place.open().await;
    let id: ControllerId = "c1".parse().unwrap();
    let member = Subject::Controller(id.clone());
    let said = |version, chain: &str, second| Acknowledgement {
        trust: Revision { epoch: 1, version },
        authorities: Vec::new(),
        server_chain: Some(chain.to_owned()),
        at: at(second),
    };
    let last = async || store.live_controllers(at(-2 * HOUR)).await.unwrap().pop().unwrap().1;
    store.acknowledge(&member, &said(5, "one", 0)).await.unwrap();
    store.acknowledge(&member, &said(5, "late", -10)).await.unwrap();
    assert_eq!(last().await, said(5, "one", 0), "what comes late by another controller changes nothing");
    store.acknowledge(&member, &said(6, "one", -10)).await.unwrap();
    assert_eq!(last().await, said(6, "one", -10), "a newer document was confirmed later, whatever a clock says");
    store.acknowledge(&member, &said(6, "two", -HOUR)).await.unwrap();
    assert_eq!(last().await, said(6, "two", -HOUR));

    let proxy = ProxyId::generate();
    let entry = |address: &str| ProxyEntry {
        id: proxy.clone(),
        zone: None,
        address: Some(address.parse().unwrap()),
        peers: None,
    };
    let announced = async || store.announced(at(-2 * HOUR)).await.unwrap();
    store.announce(&entry("a.example.com:1"), at(0)).await.unwrap();
    store.announce(&entry("late.example.com:1"), at(-10)).await.unwrap();
    assert_eq!(announced().await, [entry("a.example.com:1")]);
    store.announce(&entry("b.example.com:1"), at(-HOUR)).await.unwrap();
    assert_eq!(announced().await, [entry("b.example.com:1")]);
    store.announce(&entry("b.example.com:1"), at(0)).await.unwrap();
    store.withdraw(&proxy, at(-HOUR)).await.unwrap();
    assert_eq!(announced().await, []);
}

async fn changes_and_documents_come_out(place: &Place) {
    let store = place.unlocked().await;
    let acme: OrgId = "acme".parse().unwrap();
    let org = Org { id: acme.clone(), name: "acme".parse().unwrap(), created: at(0), longest_credential: None };
    store.create_org(&org).await.unwrap();
    let policy = SeriesKey { kind: DocumentKind::Policy, org: Some(acme.clone()), subject: String::new() };
    let publish = async |second| {
        let revision = store.snapshot(&policy, at(second)).await.unwrap().unwrap().revision;
        let document = Published { series: policy.clone(), revision, issued: at(second), wire: "{}".into() };
        store.publish(&document).await.unwrap()
    };
    assert!(publish(0).await);
    let (revision, head) = (store.list(Some(&acme)).await.unwrap().revision, store.feed_head().await.unwrap());
    let role = Role { name: "one".into(), rules: Vec::new(), ..Role::default() };
    store.create_role(&acme, &"one".parse().unwrap(), &role).await.unwrap();
    let changes = store.changes(Some(&acme), revision, 10).await.unwrap().changes;
    assert_eq!(changes.iter().map(|change| change.version).collect::<Vec<_>>(), [revision.version + 1]);
    assert!(store.due(at(-2 * HOUR), at(-HOUR), 10).await.unwrap().contains(&policy), "there is something to sign");
    assert!(publish(-HOUR).await, "though it says an earlier time");
    assert!(store.feed_head().await.unwrap() > head);
}
