//! Users' credentials: renewed by themselves alone, within limits; downloaded; listed with their last use.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::StatusCode;
use jiff::SignedDuration;
use kit::{Kit, call, certificate_of, csr, peer, provider};
use serde_json::{Value, json};
use ztka_audit::{Batch, Chain, Event, Kind, Position, Record, Stage};
use ztka_core::{AuditId, ProxyId, Subject, Verified};
use ztka_identity::{AdminRole, Caller};
use ztka_pki::{Credential, Peer, SoftwareKey};

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

struct World {
    kit: Kit,
    admin: Caller,
    alice: Caller,
}

impl World {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let acme = kit.org("acme").await.id;
        let admin = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
        let alice = kit.user(&acme, "alice", None).await;
        Self { kit, admin, alice }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/v1/orgs/{}/users/{}/{rest}", self.alice.user.org, self.alice.user.id)
    }

    /// A credential that the administrator makes for alice; its certificate as the acceptor sees it.
    async fn issue(&self, body: &Value) -> (Value, Verified<Peer>) {
        let by = Some(certificate_of(&self.admin));
        let (status, issued) = self.kit.call(by, "POST", &self.path("credentials"), &body.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{issued}");
        let peer = self.peer(&issued);
        (issued, peer)
    }

    fn peer(&self, issued: &Value) -> Verified<Peer> {
        let chain = certificates(issued["chain"].as_str().unwrap());
        self.kit.controller.trust().identify(ztka_pki::Purpose::Users, &chain).unwrap()
    }

    async fn renew(&self, by: &Verified<Peer>, csr: &str) -> (StatusCode, Value) {
        self.kit.call(Some(by.clone()), "POST", "/api/v1/renew", &format!(r#"{{"csr": {csr}}}"#)).await
    }

    /// As a proxy reports it.
    async fn used(&self, credential: &Value, after: SignedDuration) {
        let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, self.kit.controller_now() + after);
        event.annotations.set("credential", credential.as_str().unwrap());
        event.annotations.set("org", self.alice.user.org.as_str());
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (chain, id) = (Chain::start(), event.audit_id);
        let (sequence, previous) = (chain.next, chain.head);
        let record = Record { position: Position::default(), sequence, previous, kind: Kind::Open, id, payload };
        let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
        let proxy = Some(peer(Subject::Proxy(ProxyId::generate())));
        let body = batch.encode();
        let (status, answer) = call(self.kit.controller.proxies(), proxy, "POST", "/v1/events", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    async fn listed(&self, id: &Value) -> Value {
        let by = Some(certificate_of(&self.admin));
        let (_, all) = self.kit.call(by, "GET", &self.path("credentials"), "").await;
        all.as_array().unwrap().iter().find(|listed| listed["id"] == *id).unwrap().clone()
    }
}

fn certificates(pem: &str) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_credential_renews_itself_over_a_new_key_and_stays_what_it_is() {
    let world = World::new().await;
    world.kit.controller.directory().limit_credentials(&world.alice.user.org, Some(days(70))).await.unwrap();
    let (issued, first) = world.issue(&json!({"csr": serde_json::from_str::<Value>(&csr().1).unwrap()})).await;
    let id = &issued["credential"]["id"];
    assert_eq!(issued["credential"]["not_after"], "2026-01-31T00:00:00Z", "30 days");
    world.kit.clock.advance(days(20));
    let (key, wanted) = csr();
    let (status, renewed) = world.renew(&first, &wanted).await;
    assert_eq!(status, StatusCode::CREATED, "{renewed}");
    let second = world.peer(&renewed);
    assert_eq!((&second.id, &second.spki), (&first.id, key.public().id()), "the same name, the new key");
    assert_ne!(second.serial, first.serial);
    assert_eq!(second.not_after.to_string(), "2026-02-20T00:00:00Z", "30 days again");
    assert_eq!((&renewed["credential"]["id"], &renewed["credential"]["renewed"]), (id, &json!("2026-01-21T00:00:00Z")));
    assert!(Credential::from_pem(renewed["chain"].as_str().unwrap().as_bytes(), &key).is_ok());
    // Its session goes on with it, also for proxies: the document is signed anew.
    assert!(world.kit.controller.publish_due().await.unwrap() > 0);
    world.kit.clock.advance(days(15));
    let (status, who) = world.kit.call(Some(second.clone()), "GET", "/api/v1/whoami", "").await;
    assert_eq!((status, &who["active_until"]), (StatusCode::OK, &json!("2026-02-20T00:00:00Z")), "{who}");
    // The certificate of before has ended, and renews nothing.
    let (status, _) = world.renew(&first, &csr().1).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // Up to the organisation's limit, and in words at it.
    world.kit.clock.advance(days(10));
    let (status, renewed) = world.renew(&second, &csr().1).await;
    assert_eq!((status, &renewed["credential"]["not_after"]), (StatusCode::CREATED, &json!("2026-03-12T00:00:00Z")));
    let (status, refused) = world.renew(&world.peer(&renewed), &csr().1).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("refused")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("limit"), "{refused}");
}

#[tokio::test]
async fn nobody_renews_with_another_key_after_revocation_or_over_somebody_elses_key() {
    let world = World::new().await;
    let (key, wanted) = csr();
    let (issued, alice) = world.issue(&json!({"csr": key.csr_pem().unwrap(), "life_seconds": 86_400})).await;
    world.kit.clock.advance(SignedDuration::from_mins(30));
    let (status, refused) = world.renew(&alice, &wanted).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "the key of before: {refused}");
    let (foreign, foreign_csr) = csr();
    let by = Some(certificate_of(&world.admin));
    let boss = format!("/api/v1/orgs/{}/users/{}/credentials", world.admin.user.org, world.admin.user.id);
    let body = json!({"csr": foreign.csr_pem().unwrap()}).to_string();
    let (status, _) = world.kit.call(by.clone(), "POST", &boss, &body).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, refused) = world.renew(&alice, &foreign_csr).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("refused")), "another's key: {refused}");
    let (status, refused) = world.kit.call(by.clone(), "POST", &world.path("credentials"), &body).await;
    assert_eq!(status, StatusCode::CONFLICT, "nor is it issued anew: {refused}");
    for bad in [r#""rubbish""#, "7"] {
        assert_eq!(world.renew(&alice, bad).await.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(world.listed(&issued["credential"]["id"]).await["renewed"], Value::Null, "none of it counted");

    let one = format!("{}/{}", world.path("credentials"), issued["credential"]["id"].as_str().unwrap());
    let (status, _) = world.kit.call(Some(alice.clone()), "DELETE", &one, "").await;
    assert_eq!(status, StatusCode::NO_CONTENT, "by the user");
    assert_eq!(world.renew(&alice, &csr().1).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_kubeconfig_to_download_has_a_key_of_its_own_that_is_kept_nowhere() {
    let world = World::new().await;
    let path = world.path("kubeconfig");
    let (status, yaml) = world.kit.call(Some(certificate_of(&world.alice)), "POST", &path, "{}").await;
    assert_eq!(status, StatusCode::CREATED, "{yaml}");
    let yaml = yaml.as_str().unwrap();
    let value = |key: &str| {
        let line = yaml.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: "))).unwrap();
        BASE64_STANDARD.decode(line).unwrap()
    };
    let key = SoftwareKey::from_pem(&value("client-key-data"), &provider()).unwrap();
    let credential = Credential::from_pem(&value("client-certificate-data"), &key).unwrap();
    let Subject::User { user, credential: id, .. } = credential.id().unwrap().subject else { unreachable!() };
    assert_eq!(user, world.alice.user.id);
    // As long as her session, of an hour: nobody prolongs their own by a new credential.
    assert_eq!(credential.not_after().to_string(), "2026-01-01T01:00:00Z");
    assert_eq!(world.listed(&json!(id)).await["revoked"], Value::Null);
}

#[tokio::test]
async fn lives_are_within_what_the_organisation_allows() {
    let world = World::new().await;
    let by = Some(certificate_of(&world.admin));
    let org = format!("/api/v1/orgs/{}", world.alice.user.org);
    let (status, set) = world.kit.call(by.clone(), "PUT", &org, r#"{"longest_credential_seconds": 604800}"#).await;
    assert_eq!((status, &set["longest_credential_seconds"]), (StatusCode::OK, &json!(604_800)));
    let (issued, _) = world.issue(&json!({"csr": csr().0.csr_pem().unwrap()})).await;
    assert_eq!(issued["credential"]["not_after"], "2026-01-08T00:00:00Z", "the usual life is no longer than the limit");
    let body = json!({"csr": csr().0.csr_pem().unwrap(), "life_seconds": 604_801}).to_string();
    let (status, refused) = world.kit.call(by.clone(), "POST", &world.path("credentials"), &body).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("refused")), "{refused}");
    let (status, _) = world.kit.call(by, "PUT", &org, r#"{"longest_credential_seconds": 31622401}"#).await;
    assert_eq!(status, StatusCode::CONFLICT, "more than 366 days");
}

#[tokio::test]
async fn the_last_use_is_what_proxies_report_written_now_and_then() {
    let world = World::new().await;
    let (issued, alice) = world.issue(&json!({"csr": csr().0.csr_pem().unwrap()})).await;
    let id = &issued["credential"]["id"];
    assert_eq!(world.listed(id).await["last_used"], Value::Null);
    world.kit.controller.publish_due().await.unwrap();
    world.used(id, SignedDuration::from_secs(-60)).await;
    world.used(id, SignedDuration::from_secs(-90)).await;
    assert_eq!(world.listed(id).await["last_used"], Value::Null, "not at once: no write for each request");
    world.kit.controller.write_uses().await.unwrap();
    assert_eq!(world.listed(id).await["last_used"], "2025-12-31T23:59:00Z");
    world.used(id, SignedDuration::from_hours(5)).await;
    world.kit.controller.write_uses().await.unwrap();
    assert_eq!(world.listed(id).await["last_used"], "2026-01-01T00:00:00Z", "not in the future");
    world.kit.clock.advance(SignedDuration::from_secs(30));
    world.kit.call(Some(alice), "GET", "/api/v1/whoami", "").await;
    world.kit.controller.write_uses().await.unwrap();
    assert_eq!(world.listed(id).await["last_used"], "2026-01-01T00:00:30Z", "at the API too");
    assert_eq!(world.kit.controller.publish_due().await.unwrap(), 0, "no document says so");
}

#[tokio::test]
async fn a_copied_credential_is_not_prolonged_for_ever_by_way_of_new_ones() {
    let world = World::new().await;
    world.kit.controller.directory().limit_credentials(&world.alice.user.org, Some(days(70))).await.unwrap();
    let (_, mut current) = world.issue(&json!({"csr": csr().0.csr_pem().unwrap()})).await;
    let mut last = current.not_after;
    // Whoever has the copy renews it, makes another one with it, renews that, …
    for _ in 0..12 {
        world.kit.clock.advance(days(20));
        let (status, renewed) = world.renew(&current, &csr().1).await;
        if status != StatusCode::CREATED {
            break;
        }
        let renewed = world.peer(&renewed);
        let body = json!({"csr": csr().0.csr_pem().unwrap()}).to_string();
        let (status, made) = world.kit.call(Some(renewed.clone()), "POST", &world.path("credentials"), &body).await;
        current = if status == StatusCode::CREATED { world.peer(&made) } else { renewed };
        last = last.max(current.not_after);
    }
    let limit: jiff::Timestamp = "2026-03-12T00:00:00Z".parse().unwrap();
    assert!(last <= limit, "valid until {last}, and the organisation's limit is {limit}");
}

#[tokio::test]
async fn what_a_user_makes_with_a_credential_renews_itself_for_as_long_as_that_could() {
    let world = World::new().await;
    let (issued, alice) = world.issue(&json!({"csr": csr().0.csr_pem().unwrap()})).await;
    world.kit.clock.advance(days(10));
    let body = json!({"csr": csr().0.csr_pem().unwrap()}).to_string();
    let (status, own) = world.kit.call(Some(alice), "POST", &world.path("credentials"), &body).await;
    assert_eq!(status, StatusCode::CREATED, "{own}");
    assert_eq!(own["credential"]["created"], issued["credential"]["created"], "its limit counts from there");
    assert_eq!(own["credential"]["renewed"], json!(world.kit.controller_now()), "its certificate is new");
    assert_eq!(own["credential"]["not_after"], issued["credential"]["not_after"]);
    assert_ne!(own["credential"]["id"], issued["credential"]["id"]);
    world.kit.clock.advance(days(15));
    let (status, renewed) = world.renew(&world.peer(&own), &csr().1).await;
    assert_eq!(status, StatusCode::CREATED, "a kubeconfig of her own making can be refreshed: {renewed}");
    assert_eq!(renewed["credential"]["not_after"], "2026-02-15T00:00:00Z", "20 days again");
}
