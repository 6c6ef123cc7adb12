//! A hyper server in the place of an apiserver: the same answers as of the judge in Go (`tests/e2e/judge/serve.go`).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use ztka_test_cluster::Identity;

/// A piece of a body.
const PIECE: usize = 64 << 10;

/// Serves on a free port of this machine for as long as the runtime lives.
pub(crate) async fn serve(identity: &Identity) -> Result<u16> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (tls, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await?);
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let cancelled = Arc::new(AtomicUsize::new(0));
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, cancelled) = (tls.clone(), cancelled.clone());
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                let io = TokioIo::new(tls.accept(socket).await?);
                let service = service_fn(|request| {
                    let cancelled = cancelled.clone();
                    async move { Ok::<_, Infallible>(answer(request, &cancelled).await) }
                });
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http2().max_concurrent_streams(1000);
                builder.serve_connection(io, service).await.map_err(|error| anyhow::anyhow!(error))
            });
        }
    });
    Ok(port)
}

/// Bytes that are the same each time, or a few and then nothing until its reader leaves.
struct Sent {
    left: usize,
    sized: bool,
    trailers: Option<HeaderMap>,
    waits: Option<Left>,
}

/// Counts when it is dropped.
struct Left(Arc<AtomicUsize>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn pattern() -> Bytes {
    (0..PIECE).map(|i| (i * 31 + (i >> 8)).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left > 0 {
            let piece = if self.waits.is_some() { Bytes::from_static(b"begun\n") } else { pattern() };
            let piece = piece.slice(..piece.len().min(self.left));
            self.left -= piece.len();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None if self.waits.is_some() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailers.is_none() && self.waits.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left as u64) } else { SizeHint::default() }
    }
}

type Answer = http_body_util::Either<Sent, http_body_util::Full<Bytes>>;

fn whole(code: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Right(http_body_util::Full::new(content.into())));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn sent(sent: Sent) -> Response<Answer> {
    Response::new(Answer::Left(sent))
}

async fn answer(request: Request<Incoming>, cancelled: &Arc<AtomicUsize>) -> Response<Answer> {
    let id = request.headers().get("audit-id").cloned();
    let mut response = judge(request, cancelled).await;
    if let Some(id) = id {
        response.headers_mut().insert("audit-id", id);
    }
    response
}

async fn judge(request: Request<Incoming>, cancelled: &Arc<AtomicUsize>) -> Response<Answer> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str, otherwise| value(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    match request.uri().path() {
        "/judge/bytes" => {
            let (left, sized) = (number("n", 0), value("chunked").is_none());
            let is_head = request.method() == Method::HEAD;
            let mut response = sent(Sent { left: if is_head { 0 } else { left }, sized, trailers: None, waits: None });
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.append(header::WARNING, HeaderValue::from_static("299 - \"one\""));
            headers.append(header::WARNING, HeaderValue::from_static("299 - \"two\""));
            if let Some(encoding) = value("encoding").and_then(|encoding| encoding.parse().ok()) {
                headers.insert(header::CONTENT_ENCODING, encoding);
                headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            }
            if sized && is_head {
                headers.insert(header::CONTENT_LENGTH, left.into());
            }
            response
        }
        "/judge/echo" => echo(request, &query).await,
        "/judge/trace" => {
            let lines = |name: &str| {
                let values = request.headers().get_all(name).iter();
                values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect::<Vec<_>>()
            };
            let said = json!({"traceparent": lines("traceparent"), "tracestate": lines("tracestate")});
            whole(StatusCode::OK, "application/json", said.to_string())
        }
        "/judge/status" => {
            let code = StatusCode::from_u16(number("code", 200) as u16).unwrap_or_default();
            let is_empty = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&code);
            let text = if is_empty { String::new() } else { format!("status {}\n", code.as_u16()) };
            let mut response = whole(code, "text/plain; charset=utf-8", text);
            if is_empty {
                response.headers_mut().remove(header::CONTENT_TYPE);
            }
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"judge\""));
            if code == StatusCode::FOUND {
                response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/judge/bytes?n=1"));
            }
            response
        }
        "/judge/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("of it all"));
            trailers.insert("x-more", HeaderValue::from_static("behind the body"));
            let mut response = sent(Sent { left: 1000, sized: false, trailers: Some(trailers), waits: None });
            response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("X-Sum, X-More"));
            response
        }
        "/judge/refuse" => {
            let mut response = whole(StatusCode::PAYLOAD_TOO_LARGE, "text/plain; charset=utf-8", "too large\n");
            if request.version() < http::Version::HTTP_2 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        "/judge/wait" => {
            let waits = Some(Left(cancelled.clone()));
            sent(Sent { left: b"begun\n".len(), sized: false, trailers: None, waits })
        }
        "/judge/cancelled" => whole(StatusCode::OK, "text/plain", cancelled.load(SeqCst).to_string()),
        _ => apiserver(request).await,
    }
}

async fn echo(request: Request<Incoming>, query: &str) -> Response<Answer> {
    let (head, mut body) = request.into_parts();
    let (mut hash, mut length, mut is_whole, mut trailers) = (Sha256::new(), 0, true, serde_json::Map::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            is_whole = false;
            break;
        };
        if let Some(data) = frame.data_ref() {
            hash.update(data);
            length += data.len();
        }
        for (name, value) in frame.trailers_ref().into_iter().flatten() {
            trailers.insert(name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into());
        }
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let values: Vec<_> = head.headers.get_all("x-judge").iter().map(text).collect();
    let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let said = json!({
        "method": head.method.as_str(), "length": length, "sha256": sum, "whole": is_whole, "query": query,
        "x-judge": values, "trailers": trailers,
        "content-type": head.headers.get(header::CONTENT_TYPE).map(text).unwrap_or_default(),
    });
    whole(StatusCode::OK, "application/json", said.to_string())
}

/// Says yes to whatever an agent needs to prepare an account.
async fn apiserver(request: Request<Incoming>) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let content = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut object: Value = serde_json::from_slice(&content).unwrap_or_else(|_| json!({}));
    let path = head.uri.path();
    if path == "/version" {
        object = json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"});
    } else if path.ends_with("/token") {
        object["spec"] = json!({"expirationSeconds": 3600});
        object["status"] = json!({"token": "a.judges.token"});
    } else if path.ends_with("/selfsubjectaccessreviews") {
        object["status"] = json!({"allowed": true});
    } else if head.method == Method::GET {
        object = json!({"kind": "List", "items": [], "metadata": {}});
    } else {
        object["metadata"]["uid"] = "6f9619ff-8b86-4011-b42d-00c04fc964ff".into();
        object["metadata"]["resourceVersion"] = "1".into();
    }
    whole(StatusCode::OK, "application/json", object.to_string())
}
