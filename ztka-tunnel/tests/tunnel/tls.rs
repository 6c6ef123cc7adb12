//! The dialling side over real TCP and TLS 1.3 on the loopback interface.

use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider, pki_types::CertificateDer,
    pki_types::PrivateKeyDer, server::WebPkiClientVerifier,
};
use tokio::{net::TcpListener, task::AbortHandle, time::timeout};
use tokio_rustls::TlsAcceptor;
use tower::service_fn;
use ztka_core::{BoxError, Reply, Verified};
use ztka_tunnel::{
    ALPN, Connect as _, ConnectError, DialSettings, Dialer, EgressError, ProxyAddress, ReadAhead, Registry, Settings,
    Tls,
};

use crate::pair::{Net, collected, get, ready, send, status};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(crate) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn identity(issuer: &Issuer<'_, KeyPair>, name: &str, usage: ExtendedKeyUsagePurpose) -> Identity {
    let mut params = CertificateParams::new(vec![name.into()]).unwrap();
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (vec![certificate.der().clone()], key.into())
}

fn roots(authority: &CertifiedIssuer<'static, KeyPair>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    roots
}

fn provider() -> Arc<CryptoProvider> {
    rustls::crypto::ring::default_provider().into()
}

pub(crate) fn client(authority: &CertifiedIssuer<'static, KeyPair>, identity: Option<Identity>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots(authority));
    Arc::new(match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// A proxy's acceptor on a free port; the peer's identity is taken for granted here, `ztka-proxy` reads it.
async fn listen(authority: &CertifiedIssuer<'static, KeyPair>, registry: Registry, net: &Net) -> ProxyAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(authority, registry, net, listener);
    ProxyAddress::new("127.0.0.1", port).unwrap().named("tunnel.example.com".try_into().unwrap())
}

/// Serves what comes to `listener`, until the task is aborted.
pub(crate) fn serve(
    authority: &CertifiedIssuer<'static, KeyPair>,
    registry: Registry,
    net: &Net,
    listener: TcpListener,
) -> AbortHandle {
    let (chain, key) = identity(authority, "tunnel.example.com", ExtendedKeyUsagePurpose::ServerAuth);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority).into(), provider()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![ALPN.into()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let peer = net.peer("acme", "c1", "i1");
    let serving = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, registry, peer) = (acceptor.clone(), registry.clone(), peer.clone());
            socket.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                if let Ok(io) = acceptor.accept(ReadAhead::new(socket)).await {
                    let _ = registry.serve(io, peer).await;
                }
            });
        }
    });
    serving.abort_handle()
}

pub(crate) fn believe(chain: &[CertificateDer<'_>]) -> Result<Verified<ztka_core::ProxyId>, BoxError> {
    assert_eq!(chain.len(), 1);
    Ok(Verified::assertion("p1".parse()?))
}

#[tokio::test]
async fn dials_serves_renews_and_refuses() {
    let net = Net::new(1);
    let registry = net.proxies[0].clone();
    let ours = authority();
    let address = listen(&ours, registry.clone(), &net).await;
    let agent = || Some(identity(&ours, "agent", ExtendedKeyUsagePurpose::ClientAuth));
    let connect = Tls::new(client(&ours, agent()), believe);
    let service = service_fn(|request: http::Request<ztka_core::Body>| async move {
        Ok::<_, BoxError>(match request.uri().path() {
            "/.ztka/evidence" => Reply::Response(status(http::StatusCode::NO_CONTENT)),
            _ => Reply::Response(http::Response::new(ztka_core::body(vec![7; 8 << 20]))),
        })
    });
    let one = DialSettings { tunnels: 1, ..DialSettings::default() };
    let dialer = Dialer::start_with(connect, [address.clone()], service, Settings::default(), one);
    ready(&dialer).await;
    for _ in 0..3 {
        let all =
            futures_util::future::join_all((0..8).map(|_| send(&registry, get("/api/v1/namespaces/default/pods/web"))));
        for reply in timeout(Duration::from_secs(30), all).await.expect("answered") {
            assert_eq!(collected(reply).await.body().len(), 8 << 20);
        }
        dialer.renew();
    }

    let stranger = Tls::new(client(&authority(), agent()), believe);
    assert!(matches!(stranger.connect(&address).await, Err(ConnectError::Tls { .. })), "a proxy of another CA");
    let elsewhere = address.clone().named("other.example.com".try_into().unwrap());
    let misled = Tls::new(client(&ours, agent()), believe);
    assert!(matches!(misled.connect(&elsewhere).await, Err(ConnectError::Tls { .. })), "a proxy of another name");
    let doubting = Tls::new(client(&ours, agent()), |_: &[CertificateDer<'_>]| Err("not a proxy".into()));
    assert!(matches!(doubting.connect(&address).await, Err(ConnectError::Peer { .. })));
    let nowhere = ProxyAddress::new("127.0.0.1", 1).unwrap();
    assert!(matches!(misled.connect(&nowhere).await, Err(ConnectError::Egress(EgressError::Tcp { .. }))));

    // Without a certificate of its own an agent never becomes one; TLS 1.3 says so after the handshake.
    let anonymous = Dialer::start(
        Tls::new(client(&ours, None), believe),
        [address],
        service_fn(|_| async { Ok::<_, BoxError>(Reply::Response(status(http::StatusCode::NO_CONTENT))) }),
    );
    let mut states = anonymous.states();
    let refused = states.wait_for(|states| states[0].error.is_some());
    let refused = timeout(Duration::from_secs(30), refused).await.expect("refused").unwrap();
    assert!(refused[0].proxy.is_none());
}
