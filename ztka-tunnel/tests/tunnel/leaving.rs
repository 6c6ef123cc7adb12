//! A proxy that drains: when its agents have left, though what is open on their tunnels goes on.

use std::time::Duration;

use futures_util::FutureExt as _;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::timeout;
use ztka_core::{BoxError, Reply};

use crate::pair::{Agent, LONG, Net, get, ready, send};

#[tokio::test(start_paused = true)]
async fn agents_have_left_when_no_tunnel_takes_requests_and_not_only_when_all_has_ended() {
    let net = Net::new(2);
    let agent = Agent::new(|_| async {
        let first = futures_util::stream::once(async { Ok::<_, BoxError>(Frame::data("begun".into())) });
        let rest = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        Reply::Response(Response::new(StreamBody::new(rest).boxed_unsync()))
    });
    let dialer = net.dial_one(net.peer("acme", "c1", "i1"), &agent);
    ready(&dialer).await;
    let old = usize::from(net.proxies[0].peers().is_empty());
    let proxy = net.proxies[old].clone();
    let Reply::Response(mut watch) = send(&proxy, get("/api/v1/pods?watch=1")).await else { panic!("upgraded") };
    watch.body_mut().frame().await.unwrap().unwrap();
    assert!(proxy.left().now_or_never().is_none(), "nobody has left");
    let draining = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.drain(Duration::from_secs(60)).await }
    });
    timeout(LONG, proxy.left()).await.expect("they leave");
    assert!(watch.body_mut().frame().now_or_never().is_none(), "what is open goes on");
    drop(watch);
    timeout(LONG, draining).await.expect("and that was the last").unwrap();
    timeout(LONG, proxy.left()).await.expect("nobody is there");
}
