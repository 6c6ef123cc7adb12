//! A webhook: against a server with TLS that keeps what it is told.

use std::{
    convert::Infallible,
    fs,
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use ztka_audit::{
    Batch, Endpoint, Event, Hash, Kind, Position, Record, Sink, SinkError, Stage, WebhookSink,
    conformance::{self, Place, Trouble, Wire},
};
use ztka_core::AuditId;

use crate::places::Stage as Folder;

/// What a server was asked, and what it is to answer.
#[derive(Debug, Default)]
struct Told {
    requests: Vec<(http::request::Parts, Bytes)>,
    answers: Vec<Response<&'static str>>,
    /// More items than this are too much; an item with this name is never taken.
    most: Option<usize>,
    never: Option<String>,
}

type Shared = Arc<Mutex<Told>>;

async fn answer(told: Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // What was cut off was not taken.
    let Ok(body) = body.collect().await else { return Ok(Response::default()) };
    let mut told = told.lock().unwrap();
    let body = body.to_bytes();
    let text = unpacked(&head, &body);
    let items = serde_json::from_slice::<Value>(&text).unwrap()["items"].as_array().unwrap().len();
    let status = match &told.never {
        _ if told.most.is_some_and(|most| most < items) => StatusCode::PAYLOAD_TOO_LARGE,
        Some(name) if String::from_utf8_lossy(&text).contains(name.as_str()) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    let queued = if told.answers.is_empty() { Response::new("") } else { told.answers.remove(0) };
    let (mut answer, words) = queued.into_parts();
    if answer.status.is_success() {
        answer.status = status;
    }
    if answer.status.is_success() {
        told.requests.push((head, body));
    }
    Ok(Response::from_parts(answer, Full::from(words)))
}

fn unpacked(head: &http::request::Parts, body: &[u8]) -> Vec<u8> {
    if !head.headers.contains_key("content-encoding") {
        return body.to_vec();
    }
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut text).unwrap();
    text
}

/// A server whose certificate is made by `by`; it asks for one of `stage`'s authority.
async fn serve(stage: &Folder, by: &Folder, told: Shared) -> SocketAddr {
    let identity = by.authority.server("server", &["localhost".into(), "127.0.0.1".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stage.authority.path()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).allow_unauthenticated();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let (listener, acceptor) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)));
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (told, acceptor) = (told.clone(), acceptor.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request| answer(told.clone(), request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    address
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct List {
    kind: String,
    api_version: String,
    metadata: Value,
    items: Vec<Event>,
}

struct Webhook {
    stage: Folder,
    wire: Wire,
    told: Shared,
}

impl Webhook {
    async fn start() -> Self {
        let (stage, told) = (Folder::new(), Shared::default());
        let server = serve(&stage, &stage, told.clone()).await;
        Self { wire: Wire::to(server).await.unwrap(), stage, told }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(&format!("https://localhost:{}/audit?from=ztka", self.wire.port()), self.stage.tls()).unwrap()
    }
}

#[async_trait]
impl Place for Webhook {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(WebhookSink::new(self.endpoint()))
    }

    async fn arrived(&self) -> Vec<Event> {
        let told = self.told.lock().unwrap();
        let bodies = told.requests.iter().map(|(head, body)| unpacked(head, body));
        let lists = bodies.map(|body| serde_json::from_slice::<List>(&body).unwrap());
        let items = lists.flat_map(|list| {
            assert_eq!(list.metadata, serde_json::json!({}));
            assert_eq!((list.kind.as_str(), list.api_version.as_str()), ("EventList", "audit.k8s.io/v1"));
            list.items
        });
        items.collect()
    }

    async fn trouble(&self, trouble: Option<Trouble>) -> bool {
        self.wire.spoil(trouble);
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_passes() {
    let webhook = Webhook::start().await;
    conformance::sink(&webhook, &webhook.stage.spool()).await;
}

fn batch(names: &[&str]) -> Batch {
    let record = |(sequence, name): (usize, &&str)| {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, jiff::Timestamp::UNIX_EPOCH);
        event.user_agent = (*name).to_owned();
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, previous) = (Position::default(), Hash::default());
        Record { position, sequence: sequence as u64, previous, kind: Kind::Close, id: event.audit_id, payload }
    };
    Batch { journal: AuditId::generate(), records: names.iter().enumerate().map(record).collect(), signature: None }
}

#[tokio::test]
async fn it_shows_who_it_is_and_packs_what_it_sends() {
    let webhook = Webhook::start().await;
    let client = webhook.stage.authority.client("proxy", &[]).unwrap();
    let token = webhook.stage.path("token");
    fs::write(&token, "first\n").unwrap();
    let tls = webhook.stage.tls().identity(&client.certificate_path, &client.key_path);
    let url = format!("https://localhost:{}/audit", webhook.wire.port());
    let sink = WebhookSink::new(Endpoint::new(&url, tls).unwrap().token(&token).gzip(true));
    sink.deliver(&batch(&["a", "b"])).await.unwrap();
    fs::write(&token, "second\n").unwrap();
    sink.deliver(&batch(&["c"])).await.unwrap();
    let told = webhook.told.lock().unwrap();
    let tokens: Vec<_> = told.requests.iter().map(|(head, _)| head.headers["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer first", "Bearer second"]);
    let (head, _) = &told.requests[0];
    assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/audit"));
    assert_eq!(
        (&head.headers["content-type"], &head.headers["content-encoding"]),
        (&"application/json".parse().unwrap(), &"gzip".parse().unwrap())
    );
    assert!(!format!("{sink:?}").contains("first"), "no token in a log");
}

#[tokio::test]
async fn answers_say_whether_to_come_again() {
    let webhook = Webhook::start().await;
    let sink = webhook.sink().await;
    let status = |code: u16| Response::builder().status(code);
    let busy = status(429).header("retry-after", "7").body("slow down").unwrap();
    for (answer, wait) in
        [(busy, Some(7)), (status(500).body("sorry\n\u{1b}[2J").unwrap(), None), (status(302).body("").unwrap(), None)]
    {
        let code = answer.status();
        webhook.told.lock().unwrap().answers.push(answer);
        let Err(SinkError::Failed { after, why }) = sink.deliver(&batch(&["a"])).await else { panic!("{code}") };
        assert_eq!(after, wait.map(Duration::from_secs));
        let why = why.to_string();
        assert!(why.contains(code.as_str()) && !why.contains(char::is_control), "{why}");
    }
    for code in [400, 413, 422] {
        webhook.told.lock().unwrap().answers.push(status(code).body("").unwrap());
        let refused = sink.deliver(&batch(&["a"])).await;
        assert!(matches!(refused, Err(SinkError::Refused { at: None, .. })), "{code}");
    }
    sink.deliver(&batch(&["a"])).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_changes_is_believed_when_its_authority_is() {
    let (stage, other, told) = (Folder::new(), Folder::new(), Shared::default());
    let trusted = serve(&stage, &stage, told.clone()).await;
    let strange = serve(&stage, &other, told.clone()).await;
    let url = |address: SocketAddr| format!("https://localhost:{}/", address.port());
    let sink = |address| WebhookSink::new(Endpoint::new(&url(address), stage.tls()).unwrap());
    sink(trusted).deliver(&batch(&["a"])).await.unwrap();
    let changed = sink(strange);
    let error = changed.deliver(&batch(&["b"])).await.unwrap_err();
    assert!(matches!(error, SinkError::Failed { .. }) && error.to_string().contains("certificate"), "{error}");
    assert_eq!(told.lock().unwrap().requests.len(), 1, "nothing reaches a stranger");
    // The operator adds the new authority to the file; nothing is started again.
    let both = format!("{}{}", stage.authority.pem(), other.authority.pem());
    fs::write(stage.authority.path(), both).unwrap();
    changed.deliver(&batch(&["b"])).await.unwrap();
    // Another name than the one that was asked for.
    let wrong = Endpoint::new(&format!("https://[::1]:{}/", trusted.port()), stage.tls());
    assert!(WebhookSink::new(wrong.unwrap()).deliver(&batch(&["c"])).await.is_err());
}

#[test]
fn only_https_is_a_place_for_events() {
    let stage = Folder::new();
    for bad in [
        "",
        "logs",
        "http://logs.test/",
        "http://10.0.0.1/",
        "https://user:secret@logs.test/",
        "ftp://logs.test/",
        "https:///x",
    ] {
        assert!(Endpoint::new(bad, stage.tls()).is_err(), "{bad}");
    }
    for good in ["https://logs.test", "https://logs.test:8443/a?b=c", "http://127.0.0.1:8080/", "http://[::1]:8080/"] {
        assert!(Endpoint::new(good, stage.tls()).is_ok(), "{good}");
    }
}

/// What the follower does with it: too much is cut, one that is never taken is found, and passed over.
#[tokio::test]
async fn one_that_is_never_taken_is_found_among_many() {
    use ztka_audit::{Durability, Follower, Journal as _, Spool, SpoolOptions};
    let webhook = Webhook::start().await;
    *webhook.told.lock().unwrap() = Told { most: Some(7), never: Some("poison".into()), ..Told::default() };
    let (spool, _) =
        Spool::open(SpoolOptions::new(webhook.stage.spool()).consumer("hook"), &ztka_core::SystemClock).unwrap();
    let mut sent = Vec::new();
    for number in 0..40 {
        let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, jiff::Timestamp::UNIX_EPOCH);
        event.user_agent = if number == 23 { "poison".into() } else { "kubectl".into() };
        spool.open(&event, Durability::Written).await.unwrap();
        sent.push(event.audit_id);
    }
    let follower = Follower::new(spool.clone(), "hook", webhook.sink().await).unwrap();
    follower.drain().await.unwrap();
    let status = follower.monitor().status();
    assert_eq!((status.refused, status.taken, status.lag, status.failures), (1, 39, Some(0), 0));
    sent.remove(23);
    let arrived: Vec<_> = webhook.arrived().await.into_iter().map(|event| event.audit_id).collect();
    assert_eq!(arrived, sent);
}
