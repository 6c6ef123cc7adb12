//! TLS connections to a target, as kubectl makes them: client certificate, server name, TLS 1.3, HTTP/1.1.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{io::BufReader, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::Target;

/// rustls reads 4 KiB at a time by itself; more at once saves system calls of the load, which shares the machine.
pub(crate) const READ: usize = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(20);

/// The sending half of one connection.
pub type Sender = SendRequest<Empty<Bytes>>;

/// Makes connections to one target.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    target: Target,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the target's files.
    ///
    /// # Errors
    /// When one of them is not what it is to be.
    pub fn new(target: &Target) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&target.ca)? {
            roots.add(certificate).with_context(|| format!("an anchor in {}", target.ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&target.certificate)?, key(&target.key)?)
            .with_context(|| format!("the client certificate of {}", target.name))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each kubectl is a process of its own and resumes nothing.
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(target.server_name.clone())
            .with_context(|| format!("{:?} is not a server name", target.server_name))?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), target: target.clone(), name })
    }

    /// A request for `path` of the upstream by the way of the target.
    ///
    /// # Errors
    /// When `path` is not a path.
    pub fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>> {
        let request = Request::get(self.target.path(path))
            .header(header::HOST, self.target.authority())
            .header(header::USER_AGENT, "kubectl/v1.33.0 (linux/amd64)")
            .header(header::ACCEPT, "application/json");
        request.body(Empty::new()).with_context(|| format!("{path:?} is not a path"))
    }

    /// Opens a connection; its driver runs as a task beside.
    ///
    /// # Errors
    /// When the target cannot be reached within 20 s, or TLS fails.
    pub async fn connect(&self) -> Result<Sender> {
        let connect = async {
            let tcp = TcpStream::connect(self.target.address).await?;
            tcp.set_nodelay(true)?;
            let tls = self.tls.connect(self.name.clone(), BufReader::with_capacity(READ, tcp)).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
            tokio::spawn(connection.with_upgrades());
            Ok::<_, anyhow::Error>(sender)
        };
        let connected = timeout(CONNECT, connect).await;
        connected.unwrap_or_else(|late| Err(late.into())).with_context(|| {
            let Target { name, address, server_name, .. } = &self.target;
            format!("cannot connect to {name} at {address} ({server_name})")
        })
    }
}

pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let read = read.with_context(|| format!("{} is not PEM", file.display()))?;
    ensure!(!read.is_empty(), "{} has no certificate", file.display());
    Ok(read)
}

pub(crate) fn key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).with_context(|| format!("{} has no private key", file.display()))
}
