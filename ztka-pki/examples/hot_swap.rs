//! A server changes its certificate while a connection is up: `cargo run -p ztka-pki --example hot_swap`.
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use ztka_core::{BoxError, SystemClock};
use ztka_pki::{
    ClientAuth, Credential, CredentialSource, Hierarchy, Lifetimes, MemoryKeyStore, Names, Purpose, SoftwareKey,
    TrustSource, tls,
};

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (keys, clock) = (Arc::new(MemoryKeyStore::new(provider.clone())), Arc::new(SystemClock));
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await?;
    let renew = async || {
        let key = SoftwareKey::generate(&provider)?;
        let issued = hierarchy.issue_server(key.public(), &["www.example.com"]).await?;
        Ok::<_, BoxError>(Credential::new(issued.chain().to_vec(), &key)?)
    };
    let credentials = CredentialSource::new(renew().await?);
    let trust = TrustSource::new(hierarchy.trust_bundle(), provider.clone(), clock)?;
    let server = tls::server(provider.clone(), credentials.clone(), ClientAuth::None, trust.clone(), &[])?;
    let acceptor = TlsAcceptor::from(server); // made once: every handshake asks `credentials`
    let connector = TlsConnector::from(tls::client(provider.clone(), trust, None, Purpose::Servers, &[])?);

    let mut first = connect(&connector, &acceptor).await?;
    echo(&mut first, b"before").await?;
    credentials.rotate(renew().await?);
    echo(&mut first, b"after").await?; // the connection that was up goes on
    let mut second = connect(&connector, &acceptor).await?;
    echo(&mut second, b"new").await?;
    let leaf = |stream: &TlsStream<DuplexStream>| stream.get_ref().1.peer_certificates()?.first().cloned();
    assert_ne!(leaf(&first), leaf(&second), "a new connection has the new certificate at once");
    println!("swapped to {} with a connection up", credentials.current().serial());
    Ok(())
}

/// A connection to a server that echoes.
async fn connect(connector: &TlsConnector, acceptor: &TlsAcceptor) -> Result<TlsStream<DuplexStream>, BoxError> {
    let ((near, far), acceptor) = (duplex(4096), acceptor.clone());
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(acceptor.accept(far).await?);
        tokio::io::copy(&mut from, &mut to).await
    });
    Ok(connector.connect(ServerName::try_from("www.example.com")?, near).await?)
}

async fn echo(stream: &mut TlsStream<DuplexStream>, text: &[u8]) -> Result<(), BoxError> {
    stream.write_all(text).await?;
    stream.flush().await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    if back == text { Ok(()) } else { Err("something else came back".into()) }
}
