//! Two TLS hops of the libraries that ZTKA is made of (hyper, h2, rustls, tokio), and nothing else: no user is looked up,
//! nothing is decided, nothing is written down. What is left of the way's cost when all of that is left out.
//!
//! ```text
//! load ──TLS h1──► edge ──TLS h2──► inner ──TLS h1──► upstream
//! ```
//!
//! Legs, certificates and settings are those of the HAProxy chain: mutual on the first two, one thread per process,
//! TCP_NODELAY, 64 KiB reads below TLS, 1 MiB windows. Neither hop carries upgrades.

use std::{
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    server::conn,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, client::Resumption, pki_types::ServerName, server::WebPkiClientVerifier,
};
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    runtime,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use ztka_test_cluster::Authority;

use crate::{
    Process, Target,
    connect::{READ, certificates, key},
    process::{Running, free_port, listens},
};

/// Name in the certificates of both hops.
const NAME: &str = "hop.localhost";
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME: u32 = 64 << 10;

/// Which of the two hops.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Role {
    /// Takes HTTP/1.1 from the load and sends HTTP/2.
    Edge,
    /// Takes HTTP/2 and sends HTTP/1.1 to the upstream.
    Inner,
}

/// One hop.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which hop
    #[arg(long)]
    role: Role,
    /// Loopback port to listen on
    #[arg(long)]
    port: u16,
    /// PEM files: anchors for who connects, own certificate, its key
    #[arg(long, num_args = 3, value_names = ["CA", "CERTIFICATE", "KEY"])]
    server: Vec<PathBuf>,
    /// Where to send to
    #[arg(long)]
    next: SocketAddr,
    /// Server name there
    #[arg(long)]
    next_name: String,
    /// PEM files: anchors of who is there, certificate for it, its key
    #[arg(long, num_args = 3, value_names = ["CA", "CERTIFICATE", "KEY"])]
    client: Vec<PathBuf>,
}

/// The two processes, killed when dropped.
#[derive(Debug)]
pub struct Chain {
    /// The way through it.
    pub target: Target,
    _edge: Running,
    _inner: Running,
}

/// Starts both hops in front of `upstream`; `program` is one that calls [`run`] for its subcommand `hop`.
///
/// # Errors
/// When a hop does not come up; with the end of its log.
pub fn start(program: &Path, folder: &Path, upstream: &Target) -> Result<Chain> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let authority = Authority::create(folder, "hops-ca")?;
    let ca = authority.path().to_owned();
    let server = authority.server("hop", &[NAME.to_owned()])?;
    let (edge_to_inner, user) = (authority.client("edge", &[])?, authority.client("user", &[])?);
    let own = [ca.clone(), server.certificate_path, server.key_path];

    let hop = |role: &str, next: SocketAddr, name: &str, client: [&Path; 3]| {
        let port = free_port()?;
        let mut args = vec!["hop".into(), "--role".into(), role.into(), "--port".into(), port.to_string().into()];
        args.push("--server".into());
        args.extend(own.iter().map(|file| file.clone().into_os_string()));
        args.extend(["--next".into(), next.to_string().into(), "--next-name".into(), name.into(), "--client".into()]);
        args.extend(client.map(|file| file.as_os_str().to_owned()));
        let mut running = Running::start(program, args, &folder.join(format!("{role}.log")))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        running.wait_for("the hop", || listens(address).then_some(()))?;
        anyhow::Ok((running, address))
    };
    let to_upstream = [&*upstream.ca, &*upstream.certificate, &*upstream.key];
    let (inner, at) = hop("inner", upstream.address, &upstream.server_name, to_upstream)?;
    let to_inner = [&*ca, &*edge_to_inner.certificate_path, &*edge_to_inner.key_path];
    let (edge, at) = hop("edge", at, NAME, to_inner)?;
    let process = |name: &str, hop: &Running| Process { name: name.into(), pid: hop.pid() };
    let target = Target {
        name: "bare hops".into(),
        address: at,
        server_name: NAME.into(),
        ca,
        certificate: user.certificate_path,
        key: user.key_path,
        path_prefix: String::new(),
        processes: vec![process("edge", &edge), process("inner", &inner)],
    };
    Ok(Chain { target, _edge: edge, _inner: inner })
}

/// Serves as one hop until the process ends.
///
/// # Errors
/// When a file cannot be read or the port is taken.
pub fn run(options: &Options) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let (tls, next) = (TlsAcceptor::from(server_tls(options)?), Arc::new(Next::new(options)?));
        loop {
            let (tcp, _) = listener.accept().await?;
            tokio::spawn(connection(tcp, tls.clone(), options.role, next.clone()));
        }
    })
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for anchor in certificates(file)? {
        roots.add(anchor)?;
    }
    Ok(roots)
}

fn files(of: &[PathBuf]) -> Result<[&Path; 3]> {
    let [ca, certificate, key] = of else { anyhow::bail!("three files are needed: CA, certificate, key") };
    Ok([ca, certificate, key])
}

fn server_tls(options: &Options) -> Result<Arc<ServerConfig>> {
    let [ca, own, private] = files(&options.server)?;
    let provider = Arc::new(ztka_runtime::crypto());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(certificates(own)?, key(private)?)?;
    config.alpn_protocols = vec![if options.role == Role::Edge { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

async fn connection(tcp: TcpStream, tls: TlsAcceptor, role: Role, next: Arc<Next>) {
    // Whoever breaks off is nothing to tell: the load counts its own errors.
    let _ = tcp.set_nodelay(true);
    let Ok(io) = tls.accept(BufReader::with_capacity(READ, tcp)).await else { return };
    let service = service_fn(move |request| {
        let next = next.clone();
        async move { Ok::<_, Infallible>(next.send(request).await.unwrap_or_else(|_| bad_gateway())) }
    });
    let io = TokioIo::new(io);
    let _ = match role {
        Role::Edge => conn::http1::Builder::new().serve_connection(io, service).await,
        Role::Inner => {
            let mut builder = conn::http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
            builder.max_frame_size(FRAME).serve_connection(io, service).await
        }
    };
}

fn bad_gateway() -> Response<Answer> {
    let body = Empty::new().map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

type Answer = BoxBody<Bytes, hyper::Error>;
type Tls = TokioIo<TlsStream<BufReader<TcpStream>>>;

/// Where a hop sends to, with the connections it has there.
struct Next {
    role: Role,
    tls: TlsConnector,
    address: SocketAddr,
    name: String,
    tunnel: tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>>,
    idle: Mutex<Vec<http1::SendRequest<Incoming>>>,
}

impl Next {
    fn new(options: &Options) -> Result<Self> {
        let [ca, own, private] = files(&options.client)?;
        let provider = Arc::new(ztka_runtime::crypto());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = builder.with_root_certificates(roots(ca)?);
        let mut config = builder.with_client_auth_cert(certificates(own)?, key(private)?)?;
        config.alpn_protocols = vec![if options.role == Role::Edge { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        config.resumption = Resumption::disabled();
        Ok(Self {
            role: options.role,
            tls: TlsConnector::from(Arc::new(config)),
            address: options.next,
            name: options.next_name.clone(),
            tunnel: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
        })
    }

    async fn dial(&self) -> Result<Tls> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.name.clone())?;
        Ok(TokioIo::new(self.tls.connect(name, BufReader::with_capacity(READ, tcp)).await?))
    }

    async fn send(&self, request: Request<Incoming>) -> Result<Response<Answer>> {
        match self.role {
            Role::Edge => self.by_tunnel(request).await,
            Role::Inner => self.to_upstream(request).await,
        }
    }

    async fn by_tunnel(&self, mut request: Request<Incoming>) -> Result<Response<Answer>> {
        let path = request.uri().path_and_query().cloned().context("no path")?;
        *request.uri_mut() = Uri::builder().scheme("https").authority(NAME).path_and_query(path).build()?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(header::HOST);
        let mut tunnel = self.tunnel.lock().await;
        let mut sender = match tunnel.as_ref().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender.clone(),
            None => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
                let (sender, connection) = builder.max_frame_size(FRAME).handshake(self.dial().await?).await?;
                tokio::spawn(connection);
                tunnel.insert(sender).clone()
            }
        };
        drop(tunnel);
        Ok(sender.send_request(request).await?.map(BodyExt::boxed))
    }

    async fn to_upstream(&self, mut request: Request<Incoming>) -> Result<Response<Answer>> {
        let path = request.uri().path_and_query().cloned().context("no path")?;
        *request.uri_mut() = Uri::from(path);
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&self.name)?);
        let idle = {
            let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|sender| !sender.is_closed());
            all.iter().position(http1::SendRequest::is_ready).map(|at| all.swap_remove(at))
        };
        let mut sender = match idle {
            Some(sender) => sender,
            None => {
                let (sender, connection) = http1::handshake(self.dial().await?).await?;
                tokio::spawn(connection);
                sender
            }
        };
        let response = sender.send_request(request).await?;
        // Ready again once the answer has been read, which may be never.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(response.map(BodyExt::boxed))
    }
}
