//! Makes a service that can only dial out reachable: both ends in one program, over TCP on the loopback interface.
//!
//! `cargo run -p ztka-tunnel --example expose` prints what comes back. With [`ztka_tunnel::Tls`] for the connector and a
//! TLS acceptor before `serve` it is what proxies and agents do.
use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceExt as _, service_fn};
use ztka_core::*;
use ztka_tunnel::{ConnectError, Dialer, Dispatch, EVIDENCE_PATH, ProxyAddress, Registry, TunnelPeer, connect_fn};

async fn hello(request: Request<Body>) -> Result<Reply, Infallible> {
    let mut response = Response::new(empty());
    match request.uri().path() {
        EVIDENCE_PATH => *response.status_mut() = StatusCode::NO_CONTENT,
        path => *response.body_mut() = body(format!("{} {path}, from behind the firewall\n", request.method())),
    }
    Ok(Reply::Response(response))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (org, cluster, instance) = ("acme".parse()?, "c1".parse()?, "i1".parse()?);
    let peer = TunnelPeer { org, cluster, instance, not_after: Timestamp::MAX };
    let registry = Registry::new(Arc::new(SystemClock));
    let proxy = registry.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (proxy, peer) = (proxy.clone(), peer.clone());
            tokio::spawn(async move { proxy.serve(socket, peer).await });
        }
    });

    let connect = connect_fn(|to: ProxyAddress| async move {
        let io = TcpStream::connect((to.host(), to.port())).await.map_err(|e| ConnectError::Other(e.into()))?;
        let id = "p1".parse().map_err(|e: InvalidName| ConnectError::Other(e.into()))?;
        Ok((io, Verified::assertion(id)))
    });
    let dialer = Dialer::start(connect, [address.parse()?], service_fn(hello));
    dialer.states().wait_for(|tunnels| tunnels.iter().all(|tunnel| tunnel.proxy.is_some())).await?;

    let (head, content) = Request::get("/version").body(empty())?.into_parts();
    let (user, credential, name) = ("u1".parse()?, "k1".parse()?, "alice".parse()?);
    let session = Session { user, credential, name, groups: vec![], active_until: Timestamp::MAX };
    let alice = Verified::assertion(Principal::new("acme".parse()?, session));
    let access = Authenticated::assertion(Identity::new(alice, "c1".parse()?, Evidence::new("me")), &head, content);
    let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default());
    let grant = Grant { binding: "all".into(), role: "all".into(), policy: Revision::default() };
    let access = Permitted::assertion(access, |_, _, _| Decision::Allow(grant))?;
    let Reply::Response(answer) = Dispatch::new(registry).oneshot(access).await? else { return Ok(()) };
    print!("{}", String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()));
    Ok(())
}
