//! Reading of method and target, once per request in the proxy and once in the agent.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Method, Uri};
use ztka_core::{RequestAttributes, Upgrade};

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("RequestAttributes::parse");
    let requests = [
        ("get", "/api/v1/namespaces/default/configmaps/small", None),
        (
            "list",
            "/apis/apps/v1/namespaces/shop/deployments?limit=500&labelSelector=app%3Dweb%2Ctier+in+%28a%2Cb%29",
            None,
        ),
        ("watch", "/api/v1/pods?watch=true&resourceVersion=12345&timeoutSeconds=411&allowWatchBookmarks=true", None),
        (
            "exec",
            "/api/v1/namespaces/shop/pods/web-7d4b9c/exec?command=sh&command=-c&command=ls+-l&container=main&stdout=true",
            Some(Upgrade::WebSocket),
        ),
        ("discovery", "/openapi/v3/apis/apps/v1?hash=0123456789ABCDEF", None),
    ];
    for (name, target, upgrade) in requests {
        let uri: Uri = target.parse().unwrap();
        group.bench_function(name, |b| {
            b.iter(|| RequestAttributes::parse(black_box(&Method::GET), black_box(&uri), upgrade).unwrap());
        });
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
