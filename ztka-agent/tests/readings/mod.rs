//! What must hold for any question about oneself: shared by the replay of the corpus and the fuzz target.
//!
//! The same question gets the same answer in protobuf and in JSON. It is asked of the whole service, with an apiserver
//! behind it that says what it was asked: so the answer shows how the question was read, field by field.

#![allow(dead_code, reason = "each test binary and fuzz target uses its part")]

pub(crate) mod secret;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;
use tower::{Layer as _, Service as _};
use ztka_agent::{
    Accounts, Pool,
    accounts::{Acting, AgentToken, Client, InUse},
    selfreview::SelfReviewLayer,
};
use ztka_authz::Engine;
use ztka_core::{
    Access, AuditId, Authenticated, Body, Decision, DecisionSlot, DocumentHeader, DocumentKind, Evidence, Grant,
    Identity, KeyId, ManualClock, Permitted, Principal, Recorded, Reply, Revision, SeriesKey, Session, SignatureCheck,
    SignedDocument, Status, Verified, body,
};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Of more, the JSON might be longer than an answerable question.
const LONGEST: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Kind {
    name: &'static str,
    version: &'static str,
    path: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "SelfSubjectAccessReview",
        version: "authorization.k8s.io/v1",
        path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    },
    Kind {
        name: "SelfSubjectRulesReview",
        version: "authorization.k8s.io/v1",
        path: "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    },
    Kind {
        name: "SelfSubjectReview",
        version: "authentication.k8s.io/v1",
        path: "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    },
];

/// The first byte says how the rest is meant, the second which question it is: an object in protobuf (`p`), what is
/// inside its envelope (`r`), or the fields of a question, one a line (`q`). True if it is answered.
pub(crate) fn self_review(data: &[u8]) -> bool {
    let ([how, kind], rest) = match data.split_first_chunk::<2>() {
        Some((start, rest)) if rest.len() <= LONGEST => (*start, rest),
        _ => return false,
    };
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    match how {
        b'p' => differ(kind, rest),
        b'r' => differ(kind, &envelope(kind, rest)),
        b'q' => match std::str::from_utf8(rest) {
            Ok(lines) => same(kind, lines),
            Err(_) => false,
        },
        _ => false,
    }
}

/// Bytes that a client sends: if they are answered, so is what a second reading finds in them, and in the same way.
fn differ(kind: Kind, bytes: &[u8]) -> bool {
    let mut answered = false;
    for who in ["alice", "bob"] {
        let ours = ask(who, kind, PROTOBUF, bytes.to_vec());
        let Some(read) = read(kind, bytes) else {
            assert_eq!(ours.0, StatusCode::BAD_REQUEST, "{ours:?}");
            continue;
        };
        if ours.0 != StatusCode::BAD_REQUEST {
            let json = ask(who, kind, "application/json", read.to_string().into_bytes());
            assert_eq!(ours, json, "{who} {read}");
        }
        answered |= ours.0.is_success();
    }
    answered
}

/// A question in both spellings.
fn same(kind: Kind, lines: &str) -> bool {
    let fields = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let mut lines = lines.split('\n');
    let about_path = lines.clone().next().is_some_and(|first| first.starts_with('/'));
    let fields = if about_path { &["path", "verb"][..] } else { &fields };
    let texts: Vec<(u8, &str, &str)> =
        fields.iter().zip(1..).map(|(name, number)| (number, *name, lines.next().unwrap_or_default())).collect();
    let message: Vec<u8> = texts.iter().flat_map(|(number, _, text)| delimited(*number, text.as_bytes())).collect();
    let filled = texts.iter().filter(|(_, _, text)| !text.is_empty());
    let object: Map<String, Value> = filled.map(|(_, name, text)| ((*name).to_owned(), json!(text))).collect();
    let (spec, message) = match (kind.name, about_path) {
        ("SelfSubjectAccessReview", false) => (json!({"resourceAttributes": object}), delimited(1, &message)),
        ("SelfSubjectAccessReview", true) => (json!({"nonResourceAttributes": object}), delimited(2, &message)),
        _ => (json!({"namespace": texts[0].2}), delimited(1, texts[0].2.as_bytes())),
    };
    let json = json!({"kind": kind.name, "apiVersion": kind.version, "spec": spec}).to_string();
    let protobuf = envelope(kind, &delimited(2, &message));
    let mut answered = false;
    for who in ["alice", "bob"] {
        let ours = ask(who, kind, PROTOBUF, protobuf.clone());
        assert_eq!(ours, ask(who, kind, "application/json", json.clone().into_bytes()), "{who} {json}");
        assert_ne!(ours.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        if kind.name == "SelfSubjectAccessReview" {
            // Who may everything reaches the apiserver, with every field as it was sent.
            assert!(ours.0.is_success(), "{ours:?}");
            if who == "alice" && ours.1["status"]["allowed"] == true {
                assert_eq!(ours.1["status"]["asked"]["spec"], spec);
            }
        }
        answered |= ours.0.is_success();
    }
    answered
}

fn envelope(kind: Kind, raw: &[u8]) -> Vec<u8> {
    let meta = [delimited(1, kind.version.as_bytes()), delimited(2, kind.name.as_bytes())].concat();
    [b"k8s\0", delimited(1, &meta).as_slice(), &delimited(2, raw), &delimited(3, b""), &delimited(4, b"")].concat()
}

fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

/// Numbered fields of a message, those of one number together, in order.
type Message<'a> = BTreeMap<u64, Vec<&'a [u8]>>;

/// The wire format as its specification describes it; the length-delimited fields, for no others are asked for.
fn message(mut bytes: &[u8]) -> Option<Message<'_>> {
    let mut fields = Message::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let (number, wire_type) = (tag / 8, tag % 8);
        if number == 0 || number >= 1 << 29 {
            return None;
        }
        let length = match wire_type {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        if wire_type == 2 {
            fields.entry(number).or_default().push(content);
        }
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(end + 1);
    *bytes = rest;
    // Bits beyond the 64th are dropped.
    Some(number.iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

/// A message that comes in parts is one message.
fn merged(parts: Option<&Vec<&[u8]>>) -> Option<(bool, Vec<u8>)> {
    let parts = parts.map(Vec::as_slice).unwrap_or_default();
    for part in parts {
        message(part)?;
    }
    Some((!parts.is_empty(), parts.concat()))
}

fn texts(bytes: &[u8], names: &[(u64, &str)]) -> Option<Map<String, Value>> {
    let fields = message(bytes)?;
    let mut object = Map::new();
    for (number, name) in names {
        let all = fields.get(number).map(Vec::as_slice).unwrap_or_default();
        let all: Vec<&str> = all.iter().map(|text| std::str::from_utf8(text)).collect::<Result<_, _>>().ok()?;
        if let Some(last) = all.last().filter(|last| !last.is_empty()) {
            object.insert((*name).to_owned(), json!(last));
        }
    }
    Some(object)
}

/// A selector: a text, and what is required.
fn selected(bytes: &[u8]) -> Option<Value> {
    let mut selector = texts(bytes, &[(1, "rawSelector")])?;
    let mut requirements = Vec::new();
    for required in message(bytes)?.get(&2).into_iter().flatten() {
        let mut requirement = texts(required, &[(1, "key"), (2, "operator")])?;
        let fields = message(required)?;
        let values = fields.get(&3).map(Vec::as_slice).unwrap_or_default();
        let values: Vec<&str> = values.iter().map(|value| std::str::from_utf8(value)).collect::<Result<_, _>>().ok()?;
        if !values.is_empty() {
            requirement.insert("values".to_owned(), json!(values));
        }
        requirements.push(requirement);
    }
    if !requirements.is_empty() {
        selector.insert("requirements".to_owned(), json!(requirements));
    }
    Some(Value::Object(selector))
}

/// The object of these bytes in JSON; none if they are no object of Kubernetes that says what it is or nothing.
fn read(kind: Kind, bytes: &[u8]) -> Option<Value> {
    let outer = message(bytes.strip_prefix(b"k8s\0")?)?;
    if outer.get(&3).is_some_and(|encodings| encodings.iter().any(|encoding| !encoding.is_empty())) {
        return None;
    }
    let mut object = texts(&merged(outer.get(&1))?.1, &[(1, "apiVersion"), (2, "kind")])?;
    let raw = outer.get(&2).and_then(|raw| raw.last()).copied().unwrap_or_default();
    let inner = message(raw)?;
    let name = object.get("kind").and_then(Value::as_str).unwrap_or(kind.name).to_owned();
    let (is_there, spec) = (inner.get(&2), inner.get(&2).map(|parts| parts.concat()).unwrap_or_default());
    match name.as_str() {
        "SelfSubjectAccessReview" if is_there.is_some() => {
            let spec = message(&merged(is_there).map(|_| spec)?).map(|fields| {
                let mut spec = Map::new();
                let resource = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
                let resource: Vec<(u64, &str)> = (1..).zip(resource).collect();
                for (number, name, names) in [
                    (1, "resourceAttributes", resource.as_slice()),
                    (2, "nonResourceAttributes", &[(1, "path"), (2, "verb")]),
                ] {
                    let (is_there, whole) = merged(fields.get(&number))?;
                    if is_there {
                        let mut attributes = texts(&whole, names)?;
                        if number == 1 {
                            let fields = message(&whole)?;
                            for (number, name) in [(8, "fieldSelector"), (9, "labelSelector")] {
                                let (is_there, selector) = merged(fields.get(&number))?;
                                if is_there {
                                    attributes.insert(name.to_owned(), selected(&selector)?);
                                }
                            }
                        }
                        spec.insert(name.to_owned(), Value::Object(attributes));
                    }
                }
                Some(spec)
            })??;
            object.insert("spec".to_owned(), Value::Object(spec));
        }
        "SelfSubjectRulesReview" if is_there.is_some() => {
            let (_, spec) = merged(is_there)?;
            object.insert("spec".to_owned(), Value::Object(texts(&spec, &[(1, "namespace")])?));
        }
        _ => {}
    }
    Some(Value::Object(object))
}

/// Alice may everything; bob looks at pods called `web` in `dev`, and reads metrics.
struct World {
    runtime: Runtime,
    layer: SelfReviewLayer,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let echo = |_: &Method, asked: Vec<u8>| {
            let asked: Value = serde_json::from_slice(&asked).unwrap();
            (201, json!({"status": {"allowed": true, "asked": asked}}).to_string())
        };
        let pool = runtime.block_on(apiserver(echo));
        let engine = Engine::new(Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH)));
        engine.apply(&policy()).unwrap();
        let client = Client::new(pool, AgentToken::file("no-such-file"));
        World { layer: SelfReviewLayer::new(engine, Arc::new(Account), client), runtime }
    })
}

/// Answers each request as `answer` says.
async fn apiserver(answer: impl Fn(&Method, Vec<u8>) -> (u16, String) + Clone + Send + Sync + 'static) -> Pool {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let answers = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
                    let (head, body) = request.into_parts();
                    let asked = body.collect().await.unwrap().to_bytes().to_vec();
                    let (status, answer) = answer(&head.method, asked);
                    Ok::<_, Infallible>(Response::builder().status(status).body(answer).unwrap())
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), answers).await;
            });
        }
    });
    Pool::new(&url.parse().unwrap(), Arc::new(client)).unwrap()
}

#[derive(Debug)]
struct Account;

#[async_trait::async_trait]
impl Accounts for Account {
    async fn acting(&self, _: &Verified<Principal>, _: Option<&str>) -> Result<Acting, Status> {
        Ok(Acting::by_token(HeaderValue::from_static("Bearer none")))
    }

    fn in_use(&self, _: &Verified<Principal>) -> InUse {
        InUse::of_none()
    }

    async fn refused(&self, _: &Verified<Principal>, code: StatusCode) {
        panic!("the apiserver above refuses nobody: {code}");
    }
}

struct Any;

impl SignatureCheck for Any {
    fn is_signed(&self, _: &KeyId, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

fn policy() -> Verified<SignedDocument> {
    let policy = json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "roles": [{"name": "look", "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"], "resourceNames": ["web"]},
            {"verbs": ["list"], "apiGroups": ["apps"], "resources": ["*"]},
        ]}, {"name": "measure", "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]}],
        "bindings": [
            {"name": "a", "subjects": [{"user": "alice"}], "role": "cluster-admin", "clusters": {"all": true},
             "scope": "cluster"},
            {"name": "b", "subjects": [{"user": "bob"}], "role": "look", "clusters": {"all": true},
             "scope": {"namespaces": ["dev"]}},
            {"name": "m", "subjects": [{"user": "bob"}], "role": "measure", "clusters": {"all": true},
             "scope": "cluster"},
        ],
    });
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse().unwrap()), subject: String::new() };
    let (revision, issued) = (Revision { epoch: 1, version: 1 }, Timestamp::UNIX_EPOCH);
    let header = DocumentHeader { series, revision, issued, expires: Timestamp::MAX };
    let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId(String::new()), Vec::new()));
    SignedDocument::sign(header, &policy, sign).unwrap().accept(&Any, None, issued).unwrap()
}

/// Status and object that `who` gets.
fn ask(who: &str, kind: Kind, form: &'static str, question: Vec<u8>) -> (StatusCode, Value) {
    let world = world();
    world.runtime.block_on(async {
        let nobody = tower::service_fn(|_: Access<Permitted, Body>| async {
            Ok::<_, Infallible>(Reply::from(Status::new(StatusCode::NOT_FOUND, "not a self-review")))
        });
        let mut service = world.layer.layer(nobody);
        let request = Request::post(kind.path).header(header::CONTENT_TYPE, form).body(()).unwrap();
        let (head, ()) = request.into_parts();
        let session = Session {
            user: "u1".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: who.parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        };
        let principal = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
        let identity = Identity::new(principal, "c1".parse().unwrap(), Evidence::new("none"));
        let access = Authenticated::assertion(identity, &head, body(question));
        let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default());
        let policy = Revision { epoch: 1, version: 1 };
        let grant = Grant {
            binding: "all".into(),
            role: "all".into(),
            policy,
            recording: ztka_core::Recording::Off,
            audit: None,
        };
        let access = Permitted::assertion(access, |_, _, _| Decision::Allow(grant)).unwrap();
        let Ok(Reply::Response(response)) = service.call(access).await else { panic!("upgraded") };
        let code = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let object = serde_json::from_slice(&body).unwrap();
        assert!(!code.is_server_error(), "{object}");
        (code, object)
    })
}
