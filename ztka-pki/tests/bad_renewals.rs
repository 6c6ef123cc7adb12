//! Renewals that are not: by another key, for another subject, after revocation, by a clock that is wrong. Each has its own
//! answer, and nothing is issued.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::SignedDuration;
use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use support::{Installation, handshake, id, key, now, provider};
use tower::ServiceExt as _;
use ztka_core::{ManualClock, SpiffeId, Subject, Verified};
use ztka_pki::{
    ClientAuth, CredentialSource, CredentialStore as _, CsrError, EnrolError, Enrolled, EnrolmentAudit, EnrolmentEvent,
    EnrolmentOutcome, EnrolmentRefusal, EnrolmentStore as _, Exchange, ExchangeError, Issued, MemoryCredentialStore,
    MemoryEnrolmentStore, Peer, Purpose, RENEW_PATH, RenewalObserver, RenewalService, Renewer, Revocations,
    SoftwareKey, StoreError, ValidCsr, tls,
};

#[derive(Debug, Default)]
struct Audit(Mutex<Vec<EnrolmentEvent>>);

#[async_trait]
impl EnrolmentAudit for Audit {
    async fn record(&self, event: &EnrolmentEvent) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(event.clone());
        Ok(())
    }
}

struct Site {
    at: Installation,
    store: Arc<MemoryEnrolmentStore>,
    audit: Arc<Audit>,
    service: RenewalService,
    peer: Verified<Peer>,
}

impl Site {
    async fn new() -> Self {
        let at = Installation::new().await;
        let (store, audit) = (Arc::new(MemoryEnrolmentStore::default()), Arc::new(Audit::default()));
        let (hierarchy, trust) = (at.hierarchy.clone(), at.trust.clone());
        let service = RenewalService::new(hierarchy.clone(), store.clone(), hierarchy, audit.clone(), trust);
        let chain = at.issue(Purpose::Agents, "acme", &key()).await;
        let peer = at.trust.verify(Purpose::Agents, chain.chain()).unwrap();
        Self { at, store, audit, service, peer }
    }

    async fn post(&self, body: serde_json::Value) -> (StatusCode, String) {
        let mut request = Request::post(RENEW_PATH).body(Full::new(Bytes::from(body.to_string()))).unwrap();
        request.extensions_mut().insert(self.peer.clone());
        let answer = self.service.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Refused so, on record with the one who asked, and without a certificate.
    async fn refuses(&self, what: &str, body: serde_json::Value, status: StatusCode, refusal: &EnrolmentRefusal) {
        let (got, said) = self.post(body).await;
        assert_eq!(got, status, "{what}: {said}");
        assert!(!said.contains("CERTIFICATE"), "{what}: {said}");
        let event = self.audit.0.lock().unwrap().last().cloned().unwrap();
        assert_eq!(event.outcome, EnrolmentOutcome::Refused(refusal.clone()), "{what}");
        assert_eq!(event.subject.as_ref(), Some(&self.peer.id.subject), "{what}");
    }
}

fn body(csr: &str) -> serde_json::Value {
    serde_json::json!({ "csr": csr })
}

#[tokio::test]
async fn each_has_its_own_answer_and_gets_nothing() {
    let site = Site::new().await;
    let good = key().csr_pem().unwrap();

    // By another key: whoever signed the request does not hold the key in it.
    let mut der = key().csr().unwrap();
    *der.last_mut().unwrap() ^= 1;
    let forged = x509_cert::der::pem::encode_string("CERTIFICATE REQUEST", Default::default(), &der).unwrap();
    let refusal = EnrolmentRefusal::Csr(CsrError::Signature);
    site.refuses("a key that is not held", body(&forged), StatusCode::BAD_REQUEST, &refusal).await;

    // For another subject: there is no word for it, and a key that has another name gets no second one.
    for more in ["id", "subject", "instance"] {
        let mut asked = body(&good);
        asked[more] = "spiffe://example.com/org/acme/cluster/c1/agent/i2".into();
        let (status, said) = site.post(asked).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{said}");
    }
    let theirs = key();
    let i2 = Subject::Agent { org: id("acme"), cluster: id("c1"), instance: id("i2") };
    site.store.bind_key(theirs.public().id(), &i2).await.unwrap();
    let (csr, refusal) = (body(&theirs.csr_pem().unwrap()), EnrolmentRefusal::KeyBound);
    site.refuses("another's key", csr, StatusCode::CONFLICT, &refusal).await;

    // After revocation, in every way in which one is revoked.
    let none = Revocations::default();
    let serials = [site.peer.serial.clone()].into();
    for (what, scope, revoked) in [
        ("the instance", Some(id("acme")), Revocations { instances: [id("i1")].into(), ..none.clone() }),
        ("the instance, everywhere", None, Revocations { instances: [id("i1")].into(), ..none.clone() }),
        ("the serial", Some(id("acme")), Revocations { serials, ..none.clone() }),
    ] {
        site.at.trust.set_revocations(scope.clone(), revoked);
        site.refuses(what, body(&good), StatusCode::FORBIDDEN, &EnrolmentRefusal::Revoked).await;
        site.at.trust.set_revocations(scope, none.clone());
    }
    // Another organisation's revocations are no concern of this one's.
    let other = Revocations { instances: [id("i1")].into(), ..none.clone() };
    site.at.trust.set_revocations(Some(id("evil")), other);
    assert_eq!(site.post(body(&key().csr_pem().unwrap())).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_clock_far_off_issues_nothing() {
    for years in [1, 100, 5000] {
        let site = Site::new().await;
        let good = body(&key().csr_pem().unwrap());
        site.at.clock.advance(SignedDuration::from_hours(24 * 365 * years));
        let refusal = EnrolmentRefusal::CertificateExpired;
        site.refuses("a clock that is ahead", good.clone(), StatusCode::FORBIDDEN, &refusal).await;
        site.at.clock.advance(-SignedDuration::from_hours(24 * 365 * years));
        assert_eq!(site.post(good).await.0, StatusCode::OK, "the clock is right again");
    }
    for days in [1, 365, 20 * 365] {
        let site = Site::new().await;
        let good = body(&key().csr_pem().unwrap());
        site.at.clock.advance(-SignedDuration::from_hours(24 * days));
        let (status, said) = site.post(good.clone()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
        assert!(!said.contains("CERTIFICATE"), "{said}");
        let event = site.audit.0.lock().unwrap().last().cloned().unwrap();
        let EnrolmentOutcome::Failed(why) = event.outcome else { panic!("{event:?}") };
        assert!(why.contains("check the clock"), "{why}");
        site.at.clock.advance(SignedDuration::from_hours(24 * days));
        assert_eq!(site.post(good).await.0, StatusCode::OK, "the clock is right again");
    }
}

/// Shows a chain with a key that is not its own.
#[derive(Debug)]
struct Stolen(Arc<CertifiedKey>);

impl ResolvesClientCert for Stolen {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn who_has_the_certificate_without_its_key_gets_no_connection_to_renew_by() {
    let at = Installation::new().await;
    let servers = at.source(Purpose::Servers).await;
    let auth = ClientAuth::Required(Purpose::Agents);
    let server = tls::server(provider(), servers, auth, at.trust.clone(), &[b"h2"]).unwrap();
    let (mine, theirs) = (key(), key());
    let chain: Issued = at.issue(Purpose::Agents, "acme", &mine).await;
    let client = |key: &SoftwareKey| {
        let pem = key.to_pem();
        let signing = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let signing = provider().key_provider.load_private_key(signing).unwrap();
        let shown = Stolen(Arc::new(CertifiedKey::new(chain.chain().to_vec(), signing)));
        let honest = tls::client(provider(), at.trust.clone(), None, Purpose::Servers, &[b"h2"]).unwrap();
        let mut config = ClientConfig::clone(&honest);
        config.client_auth_cert_resolver = Arc::new(shown);
        Arc::new(config)
    };
    let (accepted, _) = handshake(&server, &client(&mine), "enroll.example.com").await;
    assert_eq!(accepted.unwrap().chain.first().map(Vec::as_slice), chain.chain().first().map(|leaf| &**leaf));
    let (refused, told) = handshake(&server, &client(&theirs), "enroll.example.com").await;
    let refused = refused.unwrap_err();
    assert!(refused.to_string().to_lowercase().contains("signature"), "{refused}");
    assert!(told.is_err(), "and the other side hears of it");
}

/// A controller, or who says to be one, that answers a renewal so.
#[derive(Debug)]
struct Says(String);

#[async_trait]
impl Exchange for Says {
    async fn post(&self, _: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        assert!(!body.is_empty());
        Ok((StatusCode::OK, self.0.clone().into()))
    }
}

#[derive(Debug)]
struct Unseen;

impl RenewalObserver for Unseen {
    fn renewed(&self, renewed: &Enrolled) {
        panic!("{renewed:?}");
    }

    fn failed(&self, _: &EnrolError, _: std::time::Duration) {}
}

/// Answers with a certificate for the key that is asked for, and this name.
struct Renames(Installation, SpiffeId);

impl std::fmt::Debug for Renames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.1.fmt(f)
    }
}

#[async_trait]
impl Exchange for Renames {
    async fn post(&self, _: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let csr = ValidCsr::from_pem(asked["csr"].as_str().unwrap().as_bytes()).unwrap();
        let Subject::Agent { org, cluster, instance } = &self.1.subject else { panic!("{}", self.1) };
        let issued = self.0.hierarchy.issue_agent(&csr, org, cluster, instance).await.unwrap();
        let answer = serde_json::json!({
            "id": self.1.to_string(), "chain": issued.pem(), "trust": self.0.hierarchy.trust_bundle(),
        });
        Ok((StatusCode::OK, answer.to_string().into()))
    }
}

#[tokio::test]
async fn a_renewed_certificate_that_is_not_ours_is_not_put_in_use() {
    let at = Installation::new().await;
    let source = at.source(Purpose::Agents).await;
    let (before, mine) = (source.current().serial().to_owned(), source.current().id().unwrap());
    let store = Arc::new(MemoryCredentialStore::default());
    let renewer = |exchange: Arc<dyn Exchange>, clock: &ManualClock, source: &CredentialSource| {
        Renewer::new(source.clone(), store.clone(), exchange, Arc::new(Unseen), provider(), Arc::new(clock.clone()))
    };
    let other: SpiffeId = "spiffe://example.com/org/acme/cluster/c1/agent/i2".parse().unwrap();
    let same = mine.clone();
    let clock = at.clock.clone();
    let anothers_key = at.issue(Purpose::Agents, "acme", &key()).await.pem();
    let trust = at.hierarchy.trust_bundle();
    let says = serde_json::json!({ "id": same.to_string(), "chain": anothers_key, "trust": trust }).to_string();
    let error = renewer(Arc::new(Says(says)), &clock, &source).renew().await.unwrap_err();
    assert!(error.to_string().contains("not for the key that was sent"), "{error}");

    // Our own clock is far off: what we are given is not valid to us, and says so.
    let (ahead, behind) = (ManualClock::at(now()), ManualClock::at(now()));
    ahead.advance(SignedDuration::from_hours(24 * 365 * 50));
    behind.advance(-SignedDuration::from_hours(24 * 365 * 50));
    let renames = Arc::new(Renames(at, other));
    let error = renewer(renames.clone(), &clock, &source).renew().await.unwrap_err();
    assert!(error.to_string().contains("has another name"), "{error}");
    let keeps = Arc::new(Renames(Installation::new().await, mine));
    for clock in [ahead, behind] {
        let error = renewer(keeps.clone(), &clock, &source).renew().await.unwrap_err();
        assert!(error.to_string().contains("check the clocks"), "{error}");
    }
    assert_eq!(source.current().serial(), before);
    assert!(store.load().await.unwrap().is_none());
}

/// A controller, or something in front of it, that answers with this status.
#[derive(Debug)]
struct Answers(StatusCode);

#[async_trait]
impl Exchange for Answers {
    async fn post(&self, _: &str, _: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        Ok((self.0, Bytes::from_static(b"<html>not now</html>")))
    }
}

#[tokio::test]
async fn only_what_the_service_itself_says_ends_renewal() {
    let at = Installation::new().await;
    let source = at.source(Purpose::Agents).await;
    for code in 300..600 {
        let exchange = Arc::new(Answers(StatusCode::from_u16(code).unwrap()));
        let (store, clock) = (Arc::new(MemoryCredentialStore::default()), Arc::new(at.clock.clone()));
        let renewer = Renewer::new(source.clone(), store, exchange, Arc::new(Unseen), provider(), clock);
        let error = renewer.renew().await.unwrap_err();
        // Slow (408), of another version (404), by the wrong connection (421), overloaded: none of it is a no.
        assert_eq!(error.is_final(), [400, 401, 403, 409, 413].contains(&code), "{code}: {error}");
    }
}
