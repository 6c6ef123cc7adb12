//! A proxy that stops goes on to follow, and says so each time it begins.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use ztka_pki::{ClientAuth, Credential, CredentialSource, Purpose, SoftwareKey, TrustSource, ValidCsr, tls};

use super::{Stage, bookmark};
use crate::{Channel, Follower};

/// What a controller was asked, and whether by one that stops.
type Asked = (Method, bool);

/// A controller that has nothing to say and keeps its feeds open, until it is told to break off.
async fn controller(stage: &Stage) -> (Channel, mpsc::UnboundedReceiver<Asked>, Arc<Notify>) {
    let key = SoftwareKey::generate(&stage.provider).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let issued = stage.hierarchy.issue_controller(&csr, &"c1".parse().unwrap()).await.unwrap();
    let credential = CredentialSource::new(Credential::new(issued.chain().to_vec(), &key).unwrap());
    let (provider, bundle) = (stage.provider.clone(), stage.hierarchy.trust_bundle());
    let trust = TrustSource::new(bundle, provider.clone(), Arc::new(stage.clock.clone())).unwrap();
    let server = tls::server(provider.clone(), credential, ClientAuth::None, trust.clone(), &[b"h2"]).unwrap();
    let client = tls::client(provider, trust, None, Purpose::Controllers, &[b"h2"]).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, heard) = mpsc::unbounded_channel();
    let breaks = Arc::new(Notify::new());
    let breaking = breaks.clone();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(server);
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(acceptor.accept(tcp).await.unwrap()).await.unwrap();
            let mut feeds = Vec::new();
            loop {
                let accepted = tokio::select! {
                    accepted = connection.accept() => accepted,
                    () = breaking.notified() => break,
                };
                let Some(Ok((request, mut respond))) = accepted else { break };
                let mut response = Response::new(());
                match request.method() {
                    &Method::DELETE => {
                        *response.status_mut() = StatusCode::NO_CONTENT;
                        respond.send_response(response, true).unwrap();
                    }
                    _ => {
                        let mut feed = respond.send_response(response, false).unwrap();
                        feed.send_data(Bytes::from([bookmark(0), b"\n".to_vec()].concat()), false).unwrap();
                        feeds.push(feed);
                    }
                }
                asked.send((request.method().clone(), request.headers().contains_key("ztka-proxy-stops"))).unwrap();
            }
        }
    });
    (Channel::new(address, "controllers.example.com".try_into().unwrap(), client), heard, breaks)
}

#[tokio::test]
async fn whoever_stops_begins_its_feed_again_as_one_that_nobody_announces() {
    let stage = Stage::set().await;
    let (channel, mut heard, breaks) = controller(&stage).await;
    let mut asked = async || timeout(Duration::from_secs(60), heard.recv()).await.expect("it asks").unwrap();
    let follower = Follower::new(channel, stage.documents()).announcing(None, None);
    let (stop, over) = (CancellationToken::new(), CancellationToken::new());
    let running =
        tokio::spawn(follower.run_until(stop.clone().cancelled_owned(), over.clone().cancelled_owned(), || ()));
    assert_eq!(asked().await, (Method::GET, false));

    stop.cancel();
    assert_eq!(asked().await, (Method::GET, true), "first the feed by which it is not announced");
    assert_eq!(asked().await, (Method::DELETE, false));
    // It breaks, as when the controller is replaced.
    breaks.notify_one();
    assert_eq!(asked().await, (Method::GET, true));
    assert!(!running.is_finished());
    over.cancel();
    running.await.unwrap();
}
