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
    Access, Authenticated, Caller, Evidence, Identity, Principal, Reason, Refusal, RefusalSink, Reply, Session,
    Verified, empty,
};
use ztka_pki::{AuthenticateLayer, Authenticator, NotAuthenticated};

#[derive(Clone, Debug)]
struct ByHeader;

impl Authenticator for ByHeader {
    fn authenticate(&self, head: &Parts) -> Result<Identity, NotAuthenticated> {
        let name = head.headers.get("x-name").ok_or_else(|| Reason::Unauthenticated("log in".into()))?;
        let session = Session {
            user: "u1".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: name.to_str().unwrap().parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        };
        let principal = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
        if head.uri.path() == "/elsewhere" {
            return Err(NotAuthenticated::by(Caller::Principal(principal), Reason::Misdirected("not here")));
        }
        Ok(Identity::new(principal, "c1".parse().unwrap(), Evidence::new("")))
    }
}

/// Target, source, reason and caller.
type Seen = (String, Option<IpAddr>, String, Option<String>);

#[derive(Debug, Default)]
struct Refusals(Mutex<Vec<Seen>>);

impl RefusalSink for Refusals {
    fn refused(&self, refusal: Refusal<'_>) {
        let target = refusal.target.unwrap().to_string();
        let who = refusal.principal.map(|who| match who {
            Caller::Principal(who) => who.name().to_string(),
            Caller::Certificate(id) => id.to_string(),
        });
        self.0.lock().unwrap().push((target, refusal.source, refusal.reason.to_string(), who));
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
    let Reply::Response(answer) = service.clone().oneshot(unknown).await.unwrap() else { panic!() };
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let astray = Request::get("/elsewhere").header("x-name", "alice").body(()).unwrap();
    let Reply::Response(answer) = service.oneshot(astray).await.unwrap() else { panic!() };
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(*reached.lock().unwrap(), ["alice"]);
    let unknown = ("/api/v1/secrets".to_owned(), Some(source), "log in".to_owned(), None);
    let astray = ("/elsewhere".to_owned(), None, "not here".to_owned(), Some("alice".to_owned()));
    assert_eq!(*refusals.0.lock().unwrap(), [unknown, astray]);
}
