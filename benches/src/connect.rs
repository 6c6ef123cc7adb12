//! TLS connections to a target, as kubectl makes them: client certificate, server name, TLS 1.3, HTTP/1.1; by HTTP/2 for
//! what shares a connection.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use http::{Method, Request, Uri, header};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{io::BufReader, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Target, payload::Payload};

/// rustls reads 4 KiB at a time by itself; more at once saves system calls of the load, which shares the machine.
pub(crate) const READ: usize = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(20);

/// The sending half of one connection.
pub type Sender = http1::SendRequest<Payload>;
/// The same of HTTP/2, which many may share.
pub(crate) type SharedSender = http2::SendRequest<Payload>;

/// Makes connections to one target.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    shared: TlsConnector,
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
        let provider = Arc::new(ztka_runtime::crypto());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&target.certificate)?, key(&target.key)?)
            .with_context(|| format!("the client certificate of {}", target.name))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each kubectl is a process of its own and resumes nothing.
        config.resumption = Resumption::disabled();
        let mut shared = config.clone();
        shared.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(target.server_name.clone())
            .with_context(|| format!("{:?} is not a server name", target.server_name))?;
        let connector = |config| TlsConnector::from(Arc::new(config));
        Ok(Self { tls: connector(config), shared: connector(shared), target: target.clone(), name })
    }

    /// A request for `path` of the upstream by the way of the target.
    ///
    /// # Errors
    /// When `path` is not a path.
    pub fn request(&self, path: &str) -> Result<Request<Payload>> {
        self.send(Method::GET, path, Payload::none())
    }

    /// The same with a method and a body.
    pub(crate) fn send(&self, method: Method, path: &str, body: Payload) -> Result<Request<Payload>> {
        let request = Request::builder()
            .method(method)
            .uri(self.target.path(path))
            .header(header::HOST, self.target.authority())
            .header(header::USER_AGENT, "kubectl/v1.33.0 (linux/amd64)")
            .header(header::ACCEPT, "application/json");
        request.body(body).with_context(|| format!("{path:?} is not a path"))
    }

    /// A request for `path` on a connection of HTTP/2.
    pub(crate) fn shared_request(&self, path: &str) -> Result<Request<Payload>> {
        let mut request = self.request(path)?;
        request.headers_mut().remove(header::HOST);
        let whole = format!("https://{}{}", self.target.authority(), request.uri());
        *request.uri_mut() = whole.parse::<Uri>().with_context(|| format!("{whole:?} is not a URI"))?;
        Ok(request)
    }

    /// Opens a connection; its driver runs as a task beside.
    ///
    /// # Errors
    /// When the target cannot be reached within 20 s, or TLS fails.
    pub async fn connect(&self) -> Result<Sender> {
        self.bounded(async {
            let (sender, connection) = http1::handshake(TokioIo::new(self.open(&self.tls).await?)).await?;
            tokio::spawn(connection.with_upgrades());
            Ok(sender)
        })
        .await
    }

    /// The same of HTTP/2.
    pub(crate) async fn connect_shared(&self) -> Result<SharedSender> {
        self.bounded(async {
            let io = TokioIo::new(self.open(&self.shared).await?);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Ok(sender)
        })
        .await
    }

    async fn open(&self, tls: &TlsConnector) -> Result<TlsStream<BufReader<TcpStream>>> {
        let tcp = TcpStream::connect(self.target.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tls.connect(self.name.clone(), BufReader::with_capacity(READ, tcp)).await?)
    }

    async fn bounded<T>(&self, connect: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(CONNECT, connect).await.unwrap_or_else(|late| Err(late.into())).with_context(|| {
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
