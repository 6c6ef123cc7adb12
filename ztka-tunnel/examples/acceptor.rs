//! The accepting end with TLS: whoever dials in with a certificate of our CA becomes a tunnel, and is asked for `/`.
//!
//! `cargo run -p ztka-tunnel --example acceptor` dials itself. Who a peer is has to follow from its certificate alone; here
//! there is one peer, so the certificate's validity is all that is looked at.
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tower::{ServiceExt as _, service_fn};
use ztka_core::{Body, BoxError, Reply, SystemClock, Verified, body, empty};
use ztka_tunnel::{ALPN, Bare, Dialer, ProxyAddress, ReadAhead, Registry, Tls, TunnelPeer};

/// Accepts, dials in, and asks.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), BoxError> {
    // A CA, and a certificate by it for each end.
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let issue = |name: &str| -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BoxError> {
        let key = KeyPair::generate()?;
        Ok((vec![CertificateParams::new(vec![name.into()])?.signed_by(&key, &ca)?.der().clone()], key.into()))
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone())?;
    let (provider, roots) = (Arc::new(rustls::crypto::ring::default_provider()), Arc::new(roots));

    // The acceptor: certificates are required, ALPN is h2, and rustls is read in large pieces.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let (chain, key) = issue("tunnel.example.com")?;
    let mut server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    server.alpn_protocols = vec![ALPN.into()];
    let (acceptor, listener) =
        (tokio_rustls::TlsAcceptor::from(Arc::new(server)), TcpListener::bind("127.0.0.1:0").await?);
    let (address, registry) = (listener.local_addr()?, Registry::new(Arc::new(SystemClock)));
    let peer = TunnelPeer::of("inner")?;
    let bare = Bare::assertion(registry.clone(), &peer);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, registry, peer) = (acceptor.clone(), registry.clone(), peer.clone());
            tokio::spawn(async move { registry.serve(acceptor.accept(ReadAhead::new(socket)).await?, peer).await });
        }
    });

    // Who dials in.
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let (chain, key) = issue("agent")?;
    let client = client.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    let connect = Tls::new(Arc::new(client), |_: &[CertificateDer<'_>]| Ok(Verified::assertion("p".parse()?)));
    let to = ProxyAddress::new("127.0.0.1", address.port())?.named("tunnel.example.com".try_into()?);
    let hello = |request: Request<Body>| async move {
        Ok::<_, BoxError>(Reply::Response(Response::new(body(format!("{} from within\n", request.uri())))))
    };
    let dialer = Dialer::start(connect, [to], service_fn(hello));
    dialer.states().wait_for(|tunnels| tunnels.iter().any(|tunnel| tunnel.proxy.is_some())).await?;

    let Reply::Response(answer) = bare.oneshot(Request::get("/").body(empty())?).await? else { return Ok(()) };
    print!("{}", String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()));
    Ok(())
}
