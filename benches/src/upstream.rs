//! A small fast apiserver: one object, one list, one endless log, a sink, quiet watches, an echoing exec, and the objects of
//! the agent's accounts. It answers truthfully but decides nothing, so that what is measured is the way to it.
//!
//! HTTP/1.1, and HTTP/2 where it is asked for, over TLS 1.3 on one thread, TCP_NODELAY, 64 KiB reads below TLS. A client certificate of its own CA is
//! accepted and not asked for: agents come with tokens, HAProxy and the direct way with a certificate.

mod exec;
mod objects;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use serde_json::{Value, json};
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    runtime,
};
use tokio_rustls::TlsAcceptor;
use ztka_test_cluster::Authority;

use self::objects::Objects;
use crate::{
    Kind, Paths, Process, Target, Upstream,
    connect::{READ, certificates, key},
    payload::Payload,
};

/// File in the folder that says where it listens: a [`crate::Upstream`].
pub const FILE: &str = "upstream.json";
/// A log without `limitBytes` ends after so much.
const LOG: u64 = 1 << 30;
/// Objects that are written here are small.
const MAX_BODY: usize = 256 * 1024;
/// Of a listed object, with what surrounds it.
const ITEM: usize = 2048;
const ITEMS: usize = 512;

/// Where and with which files the upstream serves.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder for its CA, certificates, keys and upstream.json
    #[arg(long)]
    pub folder: PathBuf,
    /// Loopback address to listen on
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    pub listen: SocketAddr,
}

/// Makes certificates, writes [`FILE`] once it listens, and serves until the process ends.
///
/// # Errors
/// When the folder cannot be written, or the address is taken or not on this machine.
pub fn run(options: &Options) -> Result<()> {
    let Options { folder, listen } = options;
    ensure!(listen.ip().is_loopback(), "{listen} is not a loopback address");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let folder = &folder.canonicalize()?;
    let authority = Authority::create(folder, "ca")?;
    let server = authority.server("upstream", &["localhost".into(), "127.0.0.1".into(), "::1".into()])?;
    let client = authority.client("load", &["system:masters"])?;
    let tls = tls(authority.path(), &server.certificate_path, &server.key_path)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let target = Target {
            name: "direct".into(),
            address: listener.local_addr()?,
            server_name: "localhost".into(),
            ca: authority.path().to_owned(),
            certificate: client.certificate_path,
            key: client.key_path,
            path_prefix: String::new(),
            processes: vec![Process { name: "upstream".into(), pid: std::process::id() }],
        };
        Upstream { kind: Kind::Fast, target, paths: Paths::default() }.write(&folder.join(FILE))?;
        serve(listener, TlsAcceptor::from(tls)).await
    })
}

fn tls(ca: &Path, certificate: &Path, private: &Path) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ztka_runtime::crypto());
    let mut roots = RootCertStore::empty();
    for anchor in certificates(ca)? {
        roots.add(anchor)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.allow_unauthenticated().build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = builder.with_client_cert_verifier(verifier);
    let mut config = builder.with_single_cert(certificates(certificate)?, key(private)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor) -> Result<()> {
    let site = Arc::new(Site::new());
    loop {
        // Out of descriptors, for example; the next connection is tried in a while.
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(connection(tcp, tls.clone(), site.clone()));
    }
}

async fn connection(tcp: TcpStream, tls: TlsAcceptor, site: Arc<Site>) {
    // Whoever breaks off is nothing to tell: the load counts its own errors.
    let _ = tcp.set_nodelay(true);
    let Ok(io) = tls.accept(BufReader::with_capacity(READ, tcp)).await else {
        return;
    };
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, std::convert::Infallible>(site.answer(request).await) }
    });
    if io.get_ref().1.alpn_protocol() == Some(b"h2") {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades().await;
    }
}

/// What is served, made once.
#[derive(Debug)]
struct Site {
    small: Bytes,
    list: Bytes,
    event: Bytes,
    chunk: Bytes,
    objects: Objects,
}

impl Site {
    fn new() -> Self {
        let items: Vec<_> = (0..ITEMS).map(|n| config_map(&format!("item-{n:04}"), ITEM)).collect();
        let version = json!({"resourceVersion": "1000"});
        let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": version, "items": items});
        let bookmark = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": version});
        let mut event = json!({"type": "BOOKMARK", "object": bookmark}).to_string();
        event.push('\n');
        let line = "2025-01-01T00:00:00.000000000Z a line of a log that goes on and on and says nothing at all\n";
        Self {
            small: config_map("small", ITEM).to_string().into(),
            list: list.to_string().into(),
            event: event.into(),
            chunk: line.repeat(64 * 1024 / line.len()).into(),
            objects: Objects::default(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Payload> {
        let (head, query) = (request.method().clone(), request.uri().query().unwrap_or_default().to_owned());
        // An apiserver takes over the id that it is given, which is how the agent knows that it was reached.
        let audit = request.headers().get("audit-id").cloned();
        let mut response = match (&head, request.uri().path()) {
            (&Method::GET, "/healthz" | "/livez" | "/readyz") => text(Payload::whole(Bytes::from_static(b"ok"))),
            (&Method::GET, "/api/v1/namespaces/default/configmaps/small") => reply(StatusCode::OK, self.small.clone()),
            (&Method::GET, "/api/v1/namespaces/default/configmaps") => match is_watch(&query) {
                true => respond(StatusCode::OK, "application/json", Payload::quiet(self.event.clone())),
                false => reply(StatusCode::OK, self.list.clone()),
            },
            (&Method::GET, "/api/v1/namespaces/default/pods/big/log") => match log_size(&query) {
                Some(size) => text(Payload::repeated(self.chunk.clone(), size)),
                None => status(StatusCode::BAD_REQUEST, "limitBytes is not a number"),
            },
            (_, "/api/v1/namespaces/default/pods/echo/exec") => exec::accept(request),
            (&Method::PUT, "/api/v1/namespaces/default/pods/sink/proxy/file") => swallow(request).await,
            _ => self.object(request).await,
        };
        response.headers_mut().extend(audit.map(|id| (header::HeaderName::from_static("audit-id"), id)));
        response
    }

    async fn object(&self, request: Request<Incoming>) -> Response<Payload> {
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return status(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off"),
        };
        match self.objects.call(&head.method, &head.uri, &body) {
            Ok((code, object)) => reply(code, object.to_string().into()),
            Err((code, why)) => status(code, why),
        }
    }
}

/// Says how much has come.
async fn swallow(mut request: Request<Incoming>) -> Response<Payload> {
    let mut bytes = 0;
    while let Some(frame) = request.body_mut().frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => return status(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
    text(Payload::whole(bytes.to_string().into()))
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|pair| matches!(pair, "watch" | "watch=1" | "watch=true"))
}

fn log_size(query: &str) -> Option<u64> {
    match query.split('&').find_map(|pair| pair.strip_prefix("limitBytes=")) {
        Some(number) => number.parse().ok(),
        None => Some(LOG),
    }
}

/// A ConfigMap of `size` bytes as JSON.
fn config_map(name: &str, size: usize) -> Value {
    let of = |value: String| {
        json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {
                "name": name, "namespace": "default", "uid": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
                "resourceVersion": "1000", "creationTimestamp": "2025-01-01T00:00:00Z",
            },
            "data": {"value": value},
        })
    };
    let rest = of(String::new()).to_string().len();
    of("0123456789abcdef".chars().cycle().take(size.saturating_sub(rest)).collect())
}

fn reply(code: StatusCode, json: Bytes) -> Response<Payload> {
    respond(code, "application/json", Payload::whole(json))
}

fn text(answer: Payload) -> Response<Payload> {
    respond(StatusCode::OK, "text/plain", answer)
}

fn status(code: StatusCode, message: &str) -> Response<Payload> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "code": code.as_u16(),
    });
    reply(code, status.to_string().into())
}

fn respond(code: StatusCode, kind: &'static str, answer: Payload) -> Response<Payload> {
    let mut response = Response::new(answer);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests;
