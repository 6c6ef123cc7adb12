//! Bodies that go past the record, whatever they are: they pass unchanged, and what must not be in a log is not.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt as _;
use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use tower::{Layer as _, ServiceExt as _, service_fn};
use ztka_audit::{AuditLayer, Event, Level, Levels, MemoryJournal, Policy, Recorder, Scope, Tapped};
use ztka_core::{
    Access, Attributes, Authenticated, Body, Decision, Evidence, Grant, Identity, Permitted, Principal, Recorded,
    Recording, Reply, Revision, Session, SystemClock, Verified, body,
};

/// What is in no event, wherever it is planted.
const SECRET: &str = "s3cr3tvalue";
/// Longest record of a spool.
const LONGEST: usize = 256 * 1024;

/// The first byte says what the request is about and how the answer is packed, the rest is both bodies. True if both are on
/// record as objects of Kubernetes'.
pub(crate) fn audit_body(data: &[u8]) -> bool {
    let Some((options, bytes)) = data.split_first() else { return false };
    let target = match options & 3 {
        0 => "/api/v1/namespaces/default/secrets",
        1 => "/apis/apps/v1/namespaces/default/deployments",
        2 => "/api/v1/namespaces/default/configmaps",
        _ => "/api/v1/namespaces/default/serviceaccounts/a/token",
    };
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]";
    let levels = Levels::new().policy(Scope::All, Policy::from_yaml(rules).unwrap());
    let levels = if options & 4 == 0 { levels } else { levels.body_bytes(100) };
    let answer = if options & 8 == 0 { bytes.to_vec() } else { packed(bytes) };
    let events = through(&levels, &Method::POST, &Uri::try_from(target).unwrap(), bytes, &answer);
    let event = events.last().unwrap();
    assert_eq!(event.level, Level::RequestResponse);
    let json = event.to_json();
    assert!(json.len() < LONGEST, "{} bytes", json.len());
    assert!(Event::from_json(&json).unwrap().to_json() == json, "read again as another one");
    if options & 3 == 0 {
        // Of a Secret nothing but the names of its data; planted there and nowhere else.
        let text = String::from_utf8(json).unwrap();
        let planted = serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|mut object| {
            let data = object.get_mut("data").map(serde_json::Value::take);
            data.is_some_and(|data| data.to_string().contains(SECRET)) && !object.to_string().contains(SECRET)
        });
        assert!(!planted || !text.contains(SECRET), "{text}");
    }
    let is_object = |object: &Option<serde_json::Value>| object.as_ref().is_some_and(|object| object["kind"] != "Body");
    is_object(&event.request_object) && is_object(&event.response_object)
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn alice() -> Identity {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: Attributes::new(),
        active_until: jiff::Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
    Identity::new(alice, "c1".parse().unwrap(), Evidence::new("evidence"))
}

/// Sends a request with a body past the audit layer, answered with `answer`; both arrive as they were. The events.
pub(crate) fn through(levels: &Levels, method: &Method, target: &Uri, sent: &[u8], answer: &[u8]) -> Vec<Event> {
    let journal = Arc::new(MemoryJournal::default());
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let (far, reply) = (arrived.clone(), answer.to_vec());
    let inner = service_fn(move |access: Access<Recorded, Tapped<Body>>| {
        let (far, reply) = (far.clone(), reply.clone());
        async move {
            let grant = Grant {
                binding: "b".into(),
                role: "r".into(),
                policy: Revision::default(),
                recording: Recording::Off,
                audit: None,
            };
            let access = Permitted::assertion(access, |_, _, _| Decision::Allow(grant)).unwrap();
            *far.lock().unwrap() = access.into_request().into_body().collect().await.unwrap().to_bytes().to_vec();
            let gzip = reply.starts_with(&[0x1f, 0x8b]);
            let response = Response::builder().header("content-encoding", if gzip { "gzip" } else { "identity" });
            Ok::<_, Infallible>(Reply::Response(response.body(body(reply)).unwrap()))
        }
    });
    let head = Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0;
    let asked: Access<Authenticated, Body> = Authenticated::assertion(alice(), &head, body(sent.to_vec()));
    let recorder = Recorder::new(journal.clone(), Arc::new(SystemClock));
    let stack = AuditLayer::new(recorder).with_levels(levels.clone()).layer(inner);
    let done = async move {
        let Reply::Response(response) = stack.oneshot(asked).await.unwrap() else { panic!("upgraded") };
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let got = done.now_or_never().expect("something waits");
    assert!(got == answer, "the answer is another one");
    assert!(*arrived.lock().unwrap() == sent, "the request is another one");
    journal.events()
}
