//! Decisions of the policy engine, by the number of bindings; once per request in the proxy and once in the agent.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a bench may panic")]

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{Method, Uri};
use jiff::Timestamp;
use serde_json::json;
use ztka_authz::Engine;
use ztka_core::{
    ClusterId, Decision, DocumentHeader, DocumentKind, KeyId, Principal, RequestAttributes, Revision, SeriesKey,
    Session, SignatureCheck, SignedDocument, SystemClock,
};

struct Any;

impl SignatureCheck for Any {
    fn is_signed(&self, _: &KeyId, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

/// So many bindings of groups and users over 20 clusters and 50 namespaces; the last one is alice's.
fn engine(bindings: usize) -> Engine {
    let clusters: Vec<_> = (0..20)
        .map(|n| {
            let stage = if n % 2 == 0 { "prod" } else { "test" };
            json!({"id": format!("c{n}"), "name": format!("cluster-{n}"), "labels": {"stage": stage}})
        })
        .collect();
    let other = |n: usize| {
        json!({
            "name": format!("b{n}"), "subjects": [{"group": format!("team-{n}")}, {"user": format!("user-{n}")}],
            "role": "edit", "clusters": {"matchLabels": {"stage": "prod"}},
            "scope": {"namespaces": [format!("ns-{}", n % 50)]},
        })
    };
    let alice = json!({
        "name": "alice", "subjects": [{"group": "dev"}], "role": "view",
        "clusters": {"matchLabels": {"stage": "prod"}}, "scope": {"namespaces": ["shop"]},
    });
    let bindings: Vec<_> = (1..bindings).map(other).chain([alice]).collect();
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse().unwrap()), subject: String::new() };
    let (issued, expires) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
    let header = DocumentHeader { series, revision: Revision::default(), issued, expires };
    let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId(String::new()), Vec::new()));
    let document = SignedDocument::sign(header, &json!({"clusters": clusters, "bindings": bindings}), sign).unwrap();
    let engine = Engine::new(Arc::new(SystemClock));
    engine.apply(&document.accept(&Any, None, issued).unwrap()).unwrap();
    engine
}

fn alice() -> Principal {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: ["dev", "everybody", "oncall"].map(|group| group.parse().unwrap()).to_vec(),
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    Principal::new("acme".parse().unwrap(), session)
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("Engine::decide");
    let (alice, cluster): (_, ClusterId) = (alice(), "c0".parse().unwrap());
    for bindings in [10, 1000] {
        let engine = engine(bindings);
        for (name, path, allowed) in [
            ("allowed", "/api/v1/namespaces/shop/pods/web", true),
            ("denied", "/api/v1/namespaces/prod/secrets/key", false),
        ] {
            let asked = RequestAttributes::parse(&Method::GET, &Uri::from_static(path), None).unwrap();
            let decision = engine.decide(&alice, &cluster, &asked);
            assert_eq!(matches!(decision, Decision::Allow(_)), allowed, "{decision:?}");
            group.bench_function(BenchmarkId::new(name, bindings), |b| {
                b.iter(|| engine.decide(black_box(&alice), black_box(&cluster), black_box(&asked)));
            });
        }
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
