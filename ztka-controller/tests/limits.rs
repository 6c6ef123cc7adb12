//! Connections have places by server name, and do not last without a certificate.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use kit::{DOMAIN, Kit, provider};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use ztka_controller::{
    FirstAdmin,
    serve::{Arrived, Limits, Sites},
};
use ztka_pki::CredentialSource;

/// Less than what a silent HTTP/2 client is given anyway.
const SOON: Duration = Duration::from_secs(10);

/// The public names behind a stream of connections.
struct Served {
    _kit: Kit,
    admin: FirstAdmin,
    arrived: mpsc::Sender<Arrived>,
}

impl Served {
    async fn within(limits: Limits) -> Self {
        let kit = Kit::starting_at(&jiff::Timestamp::now().to_string()).await;
        let controller = kit.controller.clone();
        let admin = controller.admin_credential("root".parse().unwrap(), SignedDuration::from_hours(1)).await.unwrap();
        let servers = controller.server_credential(&controller.public_names()).await.unwrap();
        let sites = Sites::public(&controller, &CredentialSource::new(servers)).unwrap().limited(&limits);
        let (sender, arrived) = mpsc::channel(1);
        let arrived = futures_util::stream::unfold(arrived, |mut arrived: mpsc::Receiver<Arrived>| async {
            Some((arrived.recv().await?, arrived))
        });
        tokio::spawn(sites.serve_arrived(arrived, std::future::pending()));
        Self { _kit: kit, admin, arrived: sender }
    }

    /// A client by the CA bundle alone, or the administrator's.
    fn client(&self, is_admin: bool, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.admin.ca_bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = if is_admin {
            let chain = CertificateDer::pem_slice_iter(self.admin.chain.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(self.admin.key.expose().as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.into()
    }

    async fn connect(&self, site: &str, tls: Arc<ClientConfig>) -> std::io::Result<TlsStream<DuplexStream>> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let client = Some("192.0.2.1:1".parse().unwrap());
        self.arrived.send(Arrived { io: Box::new(far), client }).await.unwrap();
        let name = ServerName::try_from(format!("{site}.{DOMAIN}")).unwrap();
        timeout(SOON, TlsConnector::from(tls).connect(name, near)).await.unwrap()
    }

    async fn http1(&self, site: &str, is_admin: bool) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let tls = self.connect(site, self.client(is_admin, b"http/1.1")).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn whoami(sender: &mut SendRequest<Full<Bytes>>) -> StatusCode {
    let request = Request::get("/api/v1/whoami").header("host", "x").body(Full::default()).unwrap();
    let answer = timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
    let status = answer.status();
    answer.into_body().collect().await.unwrap();
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_certificate_does_not_last() {
    let without_certificate = SignedDuration::from_millis(300);
    let served = Served::within(Limits { without_certificate, ..Limits::default() }).await;
    let mut admin = served.http1("api", true).await.unwrap();
    assert_eq!(whoami(&mut admin).await, StatusCode::OK);
    for site in ["api", "enroll"] {
        let mut tls = served.connect(site, served.client(false, b"h2")).await.unwrap();
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // GOAWAY comes behind SETTINGS and their acknowledgement; a client without anything open leaves then.
        let goaway = async {
            loop {
                let mut head = [0; 9];
                tls.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                tls.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
                if head[3] == 7 {
                    return;
                }
            }
        };
        timeout(SOON, goaway).await.unwrap();
    }
    let mut nobody = served.http1("api", false).await.unwrap();
    assert_eq!(whoami(&mut nobody).await, StatusCode::UNAUTHORIZED);
    timeout(SOON, async {
        while !nobody.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(whoami(&mut admin).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_own_places_and_nobody_waits_for_one() {
    let served = Served::within(Limits { connections: 1, ..Limits::default() }).await;
    let mut nobody = served.http1("enroll", false).await.unwrap();
    assert!(!whoami(&mut nobody).await.is_success());
    assert!(served.http1("enroll", false).await.is_err());
    let mut admin = served.http1("api", true).await.unwrap();
    assert_eq!(whoami(&mut admin).await, StatusCode::OK);
    drop(nobody);
    timeout(SOON, async { while served.http1("enroll", false).await.is_err() {} }).await.unwrap();
}
