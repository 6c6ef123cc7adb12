//! A proxy that stops and follows to its end is in nobody's directory, whichever controller it follows.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kit::{Kit, call, peer};
use tower::ServiceExt as _;
use ztka_controller::Controller;
use ztka_core::{ProxyId, Subject};

fn proxy() -> ProxyId {
    "p1".parse().unwrap()
}

/// A feed, after it has said what there is.
async fn follow(controller: &Controller, stops: bool) -> Body {
    let mut request = Request::get("/v1/documents?from=0").header("ztka-proxy-address", "p1.example.com:443");
    if stops {
        request = request.header("ztka-proxy-stops", "1");
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(peer(Subject::Proxy(proxy())));
    let response = controller.proxies().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut feed = response.into_body();
    feed.frame().await.unwrap().unwrap();
    feed
}

async fn announced(kit: &Kit) -> Vec<ProxyId> {
    let announced = kit.stores.members.announced(Timestamp::UNIX_EPOCH).await.unwrap();
    announced.into_iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn a_proxy_that_stops_is_announced_by_no_controller() {
    let kit = Kit::new().await;
    let other = kit.another().await;
    let feed = follow(&kit.controller, false).await;
    assert_eq!(announced(&kit).await, [proxy()]);

    // It is told to stop: begins again, and takes back what was announced.
    let stopping = follow(&kit.controller, true).await;
    drop(feed);
    let withdrawn =
        call(kit.controller.proxies(), Some(peer(Subject::Proxy(proxy()))), "DELETE", "/v1/announcement", "").await;
    assert_eq!(withdrawn.0, StatusCode::NO_CONTENT);
    assert!(announced(&kit).await.is_empty());

    // That controller goes, and another one takes the feed.
    drop(stopping);
    let _stopping = follow(&other, true).await;
    assert!(announced(&kit).await.is_empty());

    // Started again it is there again, also at the controller that knows of the stop.
    let _feed = follow(&kit.controller, false).await;
    assert_eq!(announced(&kit).await, [proxy()]);
}
