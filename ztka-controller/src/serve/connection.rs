//! One connection: handshake, peer, requests.

use std::{convert::Infallible, future::pending, net::IpAddr, time::Duration};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use ztka_core::{BoxError, Status, Verified};
use ztka_pki::{Peer, PublicKey};

use super::{Arrived, PeerKey, Site, Sites};

/// For the ClientHello and the rest of the handshake, each.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request over HTTP/1.1.
const HEAD: Duration = Duration::from_secs(10);
/// For a request's body and the head of its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// A dead peer is noticed after the sum of the two, over HTTP/2.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WITHIN: Duration = Duration::from_secs(10);
/// Streams of one connection.
const STREAMS: u32 = 128;

pub(super) async fn serve(
    sites: &Sites,
    arrived: Arrived,
    arriving: OwnedSemaphorePermit,
    end: CancellationToken,
) -> Result<(), BoxError> {
    let Arrived { io, client } = arrived;
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
    let start = timeout(HANDSHAKE, acceptor).await??;
    let name = start.client_hello().server_name().map(str::to_owned);
    let Some(site) = sites.find(name.as_deref()) else {
        return Err(format!("no site has the server name {name:?}").into());
    };
    let Ok(_place) = site.places.clone().try_acquire_owned() else {
        return Err(format!("{} has as many connections as it may have", site.name).into());
    };
    drop(arriving);
    let tls = timeout(HANDSHAKE, start.into_stream(site.tls.clone())).await??;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = identify(sites, site, chain)?;
    if let Some((peer, _)) = &peer {
        sites.controller().connected(peer).await;
    }
    let life = peer.is_none().then(|| sites.limits.without_certificate.unsigned_abs());
    let (router, client) = (site.router.clone(), client.map(|client| client.ip()));
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, peer) = (router.clone(), peer.clone());
        async move {
            let request = with_peer(request.map(Body::new), peer, client);
            // Up to the head of the answer: a feed goes on as long as it likes, a slow body does not.
            let answer = timeout(ANSWER, router.oneshot(request)).await;
            let answer = answer.unwrap_or_else(|_| Ok(late()));
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN)
        .max_concurrent_streams(STREAMS);
    let connection = builder.serve_connection(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let over = async {
        match life {
            Some(life) => sleep(life).await,
            None => pending().await,
        }
    };
    tokio::select! {
        done = connection.as_mut() => return done,
        () = end.cancelled() => {}
        () = over => {}
    }
    connection.as_mut().graceful_shutdown();
    match life {
        // What it has asked may be answered; it need not be taken.
        Some(_) => timeout(ANSWER, connection).await?,
        None => connection.await,
    }
}

/// 503 and not 408: members of before take all that is the client's fault for a no, and would give up their certificates.
fn late() -> Response<Body> {
    let status = Status::new(StatusCode::SERVICE_UNAVAILABLE, "the request took longer than 60 s; try again");
    status.retry_after(5).into_response().map(Body::new)
}

/// Whom the certificate was issued to; the handshake has accepted it, so that an error here is a race with a rotation.
fn identify(
    sites: &Sites,
    site: &Site,
    chain: &[CertificateDer<'_>],
) -> Result<Option<(Verified<Peer>, PeerKey)>, BoxError> {
    let Some(leaf) = chain.first() else { return Ok(None) };
    let trust = sites.controller().trust();
    let mut refused = None;
    for purpose in &site.clients {
        match trust.identify(*purpose, chain) {
            Ok(peer) => {
                let spki = webpki::EndEntityCert::try_from(leaf)?.subject_public_key_info();
                let key = PublicKey::from_spki(&spki)?;
                return Ok(Some((peer, PeerKey(key))));
            }
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(None), |error| Err(error.into()))
}

/// The request with what the connection knows, and with nothing of the kind that the client could have put there.
fn with_peer(
    mut request: Request<Body>,
    peer: Option<(Verified<Peer>, PeerKey)>,
    client: Option<IpAddr>,
) -> Request<Body> {
    let extensions = request.extensions_mut();
    if let Some((peer, key)) = peer {
        extensions.insert(peer);
        extensions.insert(key);
    }
    if let Some(client) = client {
        extensions.insert(client);
    }
    request
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn whoever_is_kept_waiting_too_long_is_asked_to_come_again() {
        let late = late();
        assert!(late.status().is_server_error(), "nobody takes it for a refusal: {}", late.status());
        assert!(late.headers().contains_key(header::RETRY_AFTER));
    }
}
