//! Audit events: one request through the audit layer, and an event as JSON.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may panic")]

use std::{convert::Infallible, hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use ztka_audit::{AuditLayer, Durability, Event, Journal, MemoryJournal, Opening, Recorder};
use ztka_core::{
    Access, Authenticated, Evidence, Identity, Principal, Recorded, Reply, Session, Status, SystemClock, Verified,
};

/// Serialises as a spool does and keeps nothing.
#[derive(Debug)]
struct Serialise;

impl Journal for Serialise {
    fn open(&self, event: &Event, _: Durability) -> Opening {
        self.note(event);
        Opening::now(Ok(()))
    }

    fn note(&self, event: &Event) {
        black_box(event.to_json());
    }
}

fn access() -> Access<Authenticated, ()> {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice@example.org".parse().unwrap(),
        groups: ["dev", "everybody", "oncall"].map(|group| group.parse().unwrap()).to_vec(),
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
    let identity = Identity::new(alice, "c1".parse().unwrap(), Evidence::new("evidence"));
    let identity = identity.from_source(Some([192, 0, 2, 7].into()));
    let request = http::Request::get("/api/v1/namespaces/shop/pods/web-7d4b9c?x=1")
        .header("user-agent", "kubectl/v1.33.0 (linux/amd64) kubernetes/60a317e")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let (head, ()) = request.body(()).unwrap().into_parts();
    Authenticated::assertion(identity, &head, ())
}

fn through(journal: Arc<dyn Journal>, access: Access<Authenticated, ()>) {
    let recorder = Recorder::new(journal, Arc::new(SystemClock));
    let stack =
        ServiceBuilder::new().layer(AuditLayer::new(recorder)).service(service_fn(async |_: Access<Recorded, ()>| {
            Ok::<_, Infallible>(Reply::from(Status::new(http::StatusCode::NOT_FOUND, "no such pod")))
        }));
    // Nothing in it waits.
    drop(stack.oneshot(access).now_or_never());
}

fn events(c: &mut Criterion) {
    let kept = Arc::new(MemoryJournal::default());
    through(kept.clone(), access());
    let events = kept.events();
    assert_eq!(events.len(), 2, "received and complete: {events:?}");
    c.bench_function("Event::to_json, received", |b| b.iter(|| black_box(&events[0]).to_json()));
    c.bench_function("Event::to_json, complete", |b| b.iter(|| black_box(&events[1]).to_json()));
    let journal = Arc::new(Serialise);
    c.bench_function("AuditLayer, one request", |b| {
        b.iter_batched(access, |access| through(journal.clone(), access), BatchSize::SmallInput);
    });
}

criterion_group!(benches, events);
criterion_main!(benches);
