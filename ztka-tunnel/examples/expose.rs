//! Publishes a local HTTP service through a tunnel, both ends in one program: the inner one can only dial out.
//!
//! `cargo run -p ztka-tunnel --example expose -- 127.0.0.1:8000 127.0.0.1:8080`; then `curl http://127.0.0.1:8080/`.
//! With [`ztka_tunnel::Tls`] and a TLS acceptor, as in the example `acceptor`, the ends are in different networks.
use std::{env, sync::Arc};

use futures_util::TryFutureExt as _;
use http::{Request, Response, Version, header::HOST};
use http_body_util::BodyExt as _;
use hyper::{client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;
use ztka_core::{Body, BoxError, InvalidName, Reply, SystemClock, Verified};
use ztka_tunnel::{Bare, ConnectError, Dialer, Egress, ProxyAddress, Registry, TunnelPeer, connect_fn};

/// The inner end: each request goes to the local service.
async fn local(service: String, mut request: Request<Body>) -> Result<Reply, BoxError> {
    let io = TokioIo::new(TcpStream::connect(&service).await?);
    let (mut sender, connection) = client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, service.parse()?);
    Ok(Reply::Response(sender.send_request(request).await?.map(|body| body.map_err(Into::into).boxed_unsync())))
}

/// Publishes `service` on `public`, until an error.
pub(crate) async fn expose(service: String, public: TcpListener) -> Result<(), BoxError> {
    let (registry, tunnels) = (Registry::new(Arc::new(SystemClock)), TcpListener::bind("127.0.0.1:0").await?);
    let (address, accepting) = (tunnels.local_addr()?.to_string().parse()?, registry.clone());
    let peer = TunnelPeer::of("inner")?;
    let bare = Bare::assertion(registry, &peer);
    tokio::spawn(async move {
        while let Ok((socket, _)) = tunnels.accept().await {
            let (accepting, peer) = (accepting.clone(), peer.clone());
            tokio::spawn(async move { accepting.serve(socket, peer).await });
        }
    });
    let connect = connect_fn(|to: ProxyAddress| async move {
        let io = Egress::direct().connect(to.host(), to.port()).await?;
        Ok((io, Verified::assertion("p".parse().map_err(|e: InvalidName| ConnectError::Other(e.into()))?)))
    });
    let _dialer = Dialer::start(connect, [address], tower::service_fn(move |asked| local(service.clone(), asked)));
    loop {
        let io = TokioIo::new(public.accept().await?.0);
        let answer = |reply| if let Reply::Response(answer) = reply { answer } else { Response::default() };
        let bare = bare.clone();
        let ask = move |request: Request<hyper::body::Incoming>| bare.clone().oneshot(request).map_ok(answer);
        tokio::spawn(server::conn::http1::Builder::new().serve_connection(io, service_fn(ask)));
    }
}

/// `expose [SERVICE [PUBLIC]]`, each `host:port`.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), BoxError> {
    let argument = |index, default: &str| env::args().nth(index).unwrap_or(default.into());
    let public = TcpListener::bind(argument(2, "127.0.0.1:8080")).await?;
    println!("http://{}", public.local_addr()?);
    expose(argument(1, "127.0.0.1:8000"), public).await
}
