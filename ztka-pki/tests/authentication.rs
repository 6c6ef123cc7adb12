//! The layer that admits requests of somebody who is known.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use http::{Request, StatusCode, request::Parts};
use jiff::Timestamp;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use ztka_core::{
    Access, Authenticated, Evidence, Identity, Principal, Reason, Refusal, RefusalSink, Reply, Session, Verified, empty,
};
use ztka_pki::{AuthenticateLayer, Authenticator};

#[derive(Clone, Debug)]
struct ByHeader;

impl Authenticator for ByHeader {
    fn authenticate(&self, head: &Parts) -> Result<Identity, Reason> {
        let name = head.headers.get("x-name").ok_or_else(|| Reason::Unauthenticated("log in".into()))?;
        let session = Session {
            user: "u1".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: name.to_str().unwrap().parse().unwrap(),
            groups: Vec::new(),
            active_until: Timestamp::MAX,
        };
        let principal = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
        Ok(Identity::new(principal, "c1".parse().unwrap(), Evidence::new("")))
    }
}

#[derive(Debug, Default)]
struct Refusals(Mutex<Vec<(String, Option<IpAddr>, String)>>);

impl RefusalSink for Refusals {
    fn refused(&self, refusal: Refusal<'_>) {
        let target = refusal.target.unwrap().to_string();
        self.0.lock().unwrap().push((target, refusal.source, refusal.reason.to_string()));
    }
}

#[tokio::test]
async fn the_unknown_are_answered_and_reported_and_reach_nothing() {
    let (refusals, reached) = (Arc::new(Refusals::default()), Arc::new(Mutex::new(Vec::new())));
    let inner = service_fn(|access: Access<Authenticated, ()>| {
        reached.lock().unwrap().push(access.principal().name().to_string());
        async { Ok::<_, Infallible>(Reply::Response(http::Response::new(empty()))) }
    });
    let layer = AuthenticateLayer::new(ByHeader, refusals.clone());
    let service = ServiceBuilder::new().layer(layer).service(inner);

    let known = Request::get("/api").header("x-name", "alice").body(()).unwrap();
    let Reply::Response(answer) = service.clone().oneshot(known).await.unwrap() else { panic!() };
    assert_eq!(answer.status(), StatusCode::OK);
    let source: IpAddr = "192.0.2.7".parse().unwrap();
    let unknown = Request::get("/api/v1/secrets").extension(source).body(()).unwrap();
    let Reply::Response(answer) = service.oneshot(unknown).await.unwrap() else { panic!() };
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(*reached.lock().unwrap(), ["alice"]);
    assert_eq!(*refusals.0.lock().unwrap(), [("/api/v1/secrets".to_owned(), Some(source), "log in".to_owned())]);
}
