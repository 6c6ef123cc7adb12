//! An installation with two organisations, and handshakes in memory.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::{ClientConfig, ServerConfig, crypto::CryptoProvider};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use ztka_core::{Clock, ManualClock, OrgId};
use ztka_pki::{
    Credential, CredentialSource, Hierarchy, Issued, KeyStore, Lifetimes, MemoryKeyStore, Names, Purpose, SoftwareKey,
    TrustSource, ValidCsr,
};

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

/// Everything is named `example.com`; organisations `acme` and `evil` are open.
pub struct Installation {
    pub clock: ManualClock,
    pub keys: Arc<dyn KeyStore>,
    pub hierarchy: Arc<Hierarchy>,
    pub trust: TrustSource,
}

impl Installation {
    pub async fn new() -> Self {
        Self::with(Lifetimes::default()).await
    }

    pub async fn with(lifetimes: Lifetimes) -> Self {
        let clock = ManualClock::at(now());
        let keys: Arc<dyn KeyStore> = Arc::new(MemoryKeyStore::new(provider()));
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let hierarchy = Hierarchy::create(Names::of("example.com"), lifetimes, keys.clone(), shared.clone()).await;
        let hierarchy = Arc::new(hierarchy.unwrap());
        for org in ["acme", "evil"] {
            hierarchy.create_org(&id::<OrgId>(org)).await.unwrap();
        }
        let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), shared).unwrap();
        Self { clock, keys, hierarchy, trust }
    }

    /// A credential of `purpose`: of organisation acme, or the server `enroll.example.com`.
    pub async fn credential(&self, purpose: Purpose) -> Credential {
        let key = key();
        let issued = self.issue(purpose, "acme", &key).await;
        Credential::new(issued.chain().to_vec(), &key).unwrap()
    }

    pub async fn issue(&self, purpose: Purpose, org: &str, key: &SoftwareKey) -> Issued {
        let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
        let hierarchy = &self.hierarchy;
        match purpose {
            Purpose::Servers => {
                let names = ["enroll.example.com", "*.kube.example.com", "tunnel.example.com"];
                hierarchy.issue_server(csr.key(), &names).await
            }
            Purpose::Agents => hierarchy.issue_agent(&csr, &id(org), &id("c1"), &id("i1")).await,
            Purpose::Users => {
                let life = SignedDuration::from_hours(24 * 30);
                hierarchy.issue_user(&csr, &id(org), &id("u1"), &id("k1"), life).await
            }
            Purpose::Proxies => hierarchy.issue_proxy(&csr, &id("p1")).await,
            Purpose::Controllers => hierarchy.issue_controller(&csr, &id("t1")).await,
            Purpose::Signing => unreachable!("nothing is issued to end entities"),
        }
        .unwrap()
    }

    pub async fn source(&self, purpose: Purpose) -> CredentialSource {
        CredentialSource::new(self.credential(purpose).await)
    }
}

pub fn key() -> SoftwareKey {
    SoftwareKey::generate(&provider()).unwrap()
}

/// Shakes hands and sends a byte each way: what each side thinks of it. A TLS 1.3 client hears of the server's refusal
/// only when it reads.
pub async fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> (Result<Accepted, std::io::Error>, Result<(), std::io::Error>) {
    let (near, far) = duplex(64 * 1024);
    let (acceptor, connector) = (TlsAcceptor::from(server.clone()), TlsConnector::from(client.clone()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let server = async {
        let mut tls = acceptor.accept(near).await?;
        tls.write_all(b"x").await?;
        tls.flush().await?;
        let mut byte = [0];
        tls.read_exact(&mut byte).await?;
        let (_, connection) = tls.get_ref();
        Ok(Accepted {
            chain: connection.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect(),
            version: connection.protocol_version().unwrap(),
            kind: connection.handshake_kind().unwrap(),
            group: connection.negotiated_key_exchange_group().map(|group| group.name()),
            suite: connection.negotiated_cipher_suite().map(|suite| suite.suite()),
        })
    };
    let client = async {
        let mut tls = connector.connect(name, far).await?;
        let mut byte = [0];
        tls.read_exact(&mut byte).await?;
        tls.write_all(b"y").await?;
        tls.flush().await
    };
    tokio::join!(server, client)
}

#[derive(Debug)]
pub struct Accepted {
    pub chain: Vec<Vec<u8>>,
    pub version: rustls::ProtocolVersion,
    pub kind: rustls::HandshakeKind,
    pub group: Option<rustls::NamedGroup>,
    pub suite: Option<rustls::CipherSuite>,
}
