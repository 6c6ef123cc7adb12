//! The transparency log, end to end: what a controller ingests is exported, and who knows its root alone finds out what was
//! changed, in the file or in the database.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use kit::{Kit, certificate_of, peer};
use rustls::pki_types::CertificateDer;
use tower::ServiceExt as _;
use ztka_audit::{
    Batch, Event, Hash, HeadAt, Kind, Position, Record, Stage,
    log::{ConsistencyProof, LogProof, SignedHead, TreeHead, export},
};
use ztka_controller::Controller;
use ztka_core::{AuditId, BoxError, OrgId, ProxyId, Subject, Verified};
use ztka_identity::AdminRole;
use ztka_pki::{Peer, signing_key};

/// What an auditor does who has the root certificate and nothing else.
fn believed(root: &CertificateDer<'static>) -> impl Fn(&SignedHead) -> Result<TreeHead, BoxError> {
    move |signed| {
        let chain: Vec<_> = signed.certificates()?.into_iter().map(CertificateDer::from).collect();
        let at = signed.claimed()?.time;
        let key = signing_key(&chain, std::slice::from_ref(root), at)?;
        Ok(signed.verified(|id, message, signature| id == key.id() && key.is_signed(message, signature))?)
    }
}

fn event(org: &OrgId, number: usize) -> Event {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now);
    event.request_uri = format!("/api/v1/namespaces/shop/pods/web-{number}");
    event.annotations.set("org", org.as_str());
    event
}

async fn report(controller: &Controller, events: &[Event]) {
    let journal = AuditId::generate();
    let (mut previous, mut records) = (Hash::default(), Vec::new());
    for (sequence, event) in (0..).zip(events) {
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, kind, id) = (Position::default(), Kind::Close, event.audit_id);
        records.push(Record { position, sequence, previous, kind, id, payload });
        previous = records.last().unwrap().hash();
    }
    let batch = Batch { journal, records, signature: None }.encode();
    let proxy = peer(Subject::Proxy(ProxyId::generate()));
    let mut request = Request::post("/v1/events").body(Body::from(batch)).unwrap();
    request.extensions_mut().insert(proxy);
    let response = controller.proxies().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

async fn get(controller: &Controller, by: &Verified<Peer>, path: &str) -> Vec<u8> {
    let mut request = Request::get(format!("/api/v1{path}")).body(Body::empty()).unwrap();
    request.extensions_mut().insert(by.clone());
    let response = controller.api().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
    body
}

#[tokio::test]
async fn who_has_the_root_alone_finds_a_changed_event() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let root = kit.controller.hierarchy().root();
    let events: Vec<_> = (0..70).map(|number| event(&acme, number)).collect();
    report(&kit.controller, &events).await;

    let file = get(&kit.controller, &admin, &format!("/orgs/{acme}/log/export")).await;
    let sound = export::verify(file.as_slice(), believed(&root), &[]).unwrap();
    assert!(sound.is_sound(), "{:?}", sound.faults);
    assert_eq!((sound.events, sound.head.size, sound.head.org.clone()), (70, 70, acme.clone()));

    // In the file: one event is another one's.
    let text = String::from_utf8(file).unwrap();
    let changed = text.replace("pods/web-41\"", "pods/web-14\"");
    assert_ne!(text, changed);
    let found = export::verify(changed.as_bytes(), believed(&root), &[]).unwrap();
    let id = events[41].audit_id.to_string();
    assert_eq!(found.faults, [export::Fault::Changed { leaf: 41, audit_id: Some(id.clone()) }]);
    assert!(found.faults[0].to_string().contains(&format!("leaf 41 (Audit-ID {id})")));
    // Another installation's root believes none of it.
    let other = Kit::new().await.controller.hierarchy().root();
    assert!(export::verify(text.as_bytes(), believed(&other), &[]).is_err());

    // One request, with its proof.
    let proof = get(&kit.controller, &admin, &format!("/orgs/{acme}/log/proof?audit_id={id}")).await;
    let proof: LogProof = serde_json::from_slice(&proof).unwrap();
    let head = believed(&root)(&proof.head).unwrap();
    assert_eq!((proof.events.len(), proof.events[0].proof.leaf), (1, 41));
    proof.events[0].check(&head).unwrap();
    let mut lie = proof.events[0].clone();
    lie.entry = lie.entry.replace("web-41", "web-14");
    lie.check(&head).unwrap_err();
}

#[tokio::test]
async fn heads_follow_each_other_and_another_history_is_found_out() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let root = kit.controller.hierarchy().root();
    kit.controller.sign_tree_heads().await.unwrap();
    let (log, path) = (&kit.stores.log, format!("/orgs/{acme}/log"));
    let mut seen = Vec::new();
    for round in 0..4 {
        report(&kit.controller, &(0..30).map(|number| event(&acme, 100 * round + number)).collect::<Vec<_>>()).await;
        // Two controllers at once: of a size there is one head.
        let other = kit.another().await;
        let (one, two) = tokio::join!(kit.controller.sign_tree_heads(), other.sign_tree_heads());
        assert_eq!(one.unwrap() + two.unwrap(), 1, "{round}");
        assert_eq!(kit.controller.sign_tree_heads().await.unwrap(), 0, "nothing has grown");
        let newest = get(&kit.controller, &admin, &format!("{path}/head")).await;
        seen.push(serde_json::from_slice::<SignedHead>(&newest).unwrap());
        kit.clock.advance(SignedDuration::from_secs(61));
    }
    let heads: Vec<_> = seen.iter().map(|signed| believed(&root)(signed).unwrap()).collect();
    assert_eq!(heads.iter().map(|head| head.size).collect::<Vec<_>>(), [30, 60, 90, 120]);
    let (first, last) = (&heads[0], &heads[3]);
    let proof = get(&kit.controller, &admin, &format!("{path}/consistency?first=30&second=120")).await;
    serde_json::from_slice::<ConsistencyProof>(&proof).unwrap().check(first, last).unwrap();
    let after = get(&kit.controller, &admin, &format!("{path}/head?after=30")).await;
    assert_eq!(serde_json::from_slice::<SignedHead>(&after).unwrap(), seen[1]);
    assert_eq!(log.head(&acme, HeadAt::Size(60)).await.unwrap().as_ref(), Some(&seen[1]));

    // Every head that was seen is continued, by all of the log and by what came after.
    for part in ["", "?from=90", "?size=90"] {
        let file = get(&kit.controller, &admin, &format!("{path}/export{part}")).await;
        let known = if part.contains("from") { &seen[2..] } else { &seen[..3] };
        let report = export::verify(file.as_slice(), believed(&root), known).unwrap();
        assert_eq!((report.found, report.earlier), (0, known.len()), "{part}: {:?}", report.faults);
    }

    // The same controllers' keys over another history: a database that was put back, and went on differently.
    let file = get(&kit.controller, &admin, &format!("{path}/export")).await;
    let fork = TreeHead { root: first.root, ..heads[1].clone() };
    let text = SignedHead::text(&fork);
    let (key, signature, chain) =
        kit.controller.hierarchy().sign_with_chain(&SignedHead::message(&text)).await.unwrap();
    let fork = SignedHead::new(text, key, &signature, SignedHead::chain_of(chain));
    let report = export::verify(file.as_slice(), believed(&root), &[fork]).unwrap();
    assert!(matches!(report.faults[..], [export::Fault::Forked { .. }]), "{:?}", report.faults);
    assert!(report.faults[0].to_string().contains("the first 60 leaves have another root"), "{}", report.faults[0]);
}

#[tokio::test]
async fn what_administrators_do_is_in_the_log_and_bad_questions_are_answered_in_words() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let empty =
        async |path: &str| kit.call(Some(admin.clone()), "GET", &format!("/api/v1/orgs/{acme}/log/{path}"), "").await;
    for path in ["head", "proof", "export", "head?size=7", "head?after=7"] {
        let (status, problem) = empty(path).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")), "{path}: {problem}");
    }
    let (status, _) =
        kit.call(Some(admin.clone()), "POST", &format!("/api/v1/orgs/{acme}/groups"), r#"{"name": "dev"}"#).await;
    assert_eq!(status, StatusCode::CREATED);
    let file = get(&kit.controller, &admin, &format!("/orgs/{acme}/log/export")).await;
    let report = export::verify(file.as_slice(), believed(&kit.controller.hierarchy().root()), &[]).unwrap();
    assert_eq!((report.events, report.found), (2, 0), "received and complete");
    assert!(String::from_utf8(file).unwrap().contains("/controller/"), "the controller says so itself");
    for (path, code) in [
        ("export?from=3", 400),
        ("export?from=2&to=1", 400),
        ("export?to=3", 400),
        ("export?size=1", 404),
        ("export?form=1", 400),
        ("consistency?first=3", 400),
        ("consistency?second=3", 400),
        ("proof?leaf=2", 404),
        ("proof?leaf=18446744073709551615", 404),
        ("proof?audit_id=x", 400),
        ("proof?stage=x&audit_id=01a1fdbb-8545-75fa-b6c7-60ebd5574e08", 400),
        ("proof?audit_id=01a1fdbb-8545-75fa-b6c7-60ebd5574e08", 404),
    ] {
        let (status, problem) = empty(path).await;
        assert_eq!(status.as_u16(), code, "{path}: {problem}");
        assert!(problem["action"].as_str().is_some_and(|action| !action.is_empty()), "{path}: {problem}");
    }
}
