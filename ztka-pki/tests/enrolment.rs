//! Enrolment by token and renewal by certificate, through services and clients.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::ServerName;
use support::{Installation, id, key, now, provider};
use tokio::{io::duplex, sync::mpsc, time::Instant};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use ztka_core::{Clock, Subject, Verified};
use ztka_pki::{
    CaPin, ClientAuth, Connect, Connection, CredentialDirectory, CredentialSource, CredentialStore, EnrolError,
    Enrolled, Enrollee, EnrolmentAudit, EnrolmentClient, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal,
    EnrolmentService, EnrolmentStore as _, EnrolmentToken, Exchange, ExchangeError, Hierarchy, HttpsExchange,
    Lifetimes, MemoryCredentialStore, MemoryEnrolmentStore, Peer, Purpose, RenewalEnd, RenewalObserver, RenewalService,
    RenewalStatus, Renewer, Revocations, SoftwareKey, StoreError, TrustSource, tls,
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

impl Audit {
    fn last(&self) -> EnrolmentEvent {
        self.0.lock().unwrap().last().unwrap().clone()
    }

    fn count(&self, outcome: &EnrolmentOutcome) -> usize {
        self.0.lock().unwrap().iter().filter(|event| event.outcome == *outcome).count()
    }
}

struct Site {
    at: Installation,
    store: Arc<MemoryEnrolmentStore>,
    audit: Arc<Audit>,
    enrolment: EnrolmentService,
    renewal: RenewalService,
}

impl Site {
    async fn new() -> Self {
        let at = Installation::new().await;
        let (store, audit) = (Arc::new(MemoryEnrolmentStore::default()), Arc::new(Audit::default()));
        let hierarchy = at.hierarchy.clone();
        let enrolment = EnrolmentService::new(hierarchy.clone(), store.clone(), hierarchy.clone(), audit.clone());
        let renewal = RenewalService::new(hierarchy.clone(), store.clone(), hierarchy, audit.clone(), at.trust.clone());
        Self { at, store, audit, enrolment, renewal }
    }

    fn pin(&self) -> CaPin {
        self.at.hierarchy.pin()
    }

    async fn token(&self) -> EnrolmentToken {
        self.token_for(Enrollee::Agent { org: id("acme"), cluster: id("c1") }).await
    }

    async fn token_for(&self, enrollee: Enrollee) -> EnrolmentToken {
        let life = SignedDuration::from_hours(1);
        let (token, record) = EnrolmentToken::generate(enrollee, self.pin(), self.at.clock.now(), life).unwrap();
        self.store.add_token(record).await.unwrap();
        token
    }

    fn client(&self, token: &EnrolmentToken) -> EnrolmentClient {
        let exchange = Arc::new(InProcess::Enrol(self.enrolment.clone()));
        EnrolmentClient::new(token.clone(), exchange, provider(), Arc::new(self.at.clock.clone()))
    }

    fn refusal(&self) -> EnrolmentRefusal {
        match self.audit.last().outcome {
            EnrolmentOutcome::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

/// Calls a service without a network.
#[derive(Debug)]
enum InProcess {
    Enrol(EnrolmentService),
    Renew(RenewalService, TrustSource, CredentialSource),
}

#[async_trait]
impl Exchange for InProcess {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let mut request = Request::post(path).body(Full::new(body)).unwrap();
        let answer = match self {
            Self::Enrol(service) => service.clone().oneshot(request).await.unwrap(),
            Self::Renew(service, trust, source) => {
                // What an acceptor does after the handshake.
                let purpose = match source.current().id().unwrap().subject {
                    Subject::Agent { .. } => Purpose::Agents,
                    Subject::User { .. } => Purpose::Users,
                    Subject::Proxy(_) => Purpose::Proxies,
                    Subject::Controller(_) => Purpose::Controllers,
                };
                let peer = trust.identify(purpose, source.current().chain());
                let peer = peer.map_err(|error| ExchangeError::new("alert", error))?;
                request.extensions_mut().insert::<Verified<Peer>>(peer);
                service.clone().oneshot(request).await.unwrap()
            }
        };
        let status = answer.status();
        Ok((status, answer.into_body().collect().await.unwrap().to_bytes()))
    }
}

fn cluster_of(enrolled: &Enrolled) -> (String, String) {
    match &enrolled.id.subject {
        Subject::Agent { cluster, instance, .. } => (cluster.to_string(), instance.to_string()),
        other => panic!("{other:?}"),
    }
}

fn message(error: EnrolError) -> String {
    assert!(error.is_final(), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_token_becomes_a_certificate_for_its_cluster() {
    let site = Site::new().await;
    let token = site.token().await;
    let enrolled = site.client(&token).enrol(&key()).await.unwrap();
    let peer = site.at.trust.verify(Purpose::Agents, enrolled.credential.chain()).unwrap();
    assert_eq!(peer.id, enrolled.id);
    assert_eq!(cluster_of(&enrolled).0, "c1");
    assert_eq!(enrolled.trust, site.at.hierarchy.trust_bundle());
    let event = site.audit.last();
    assert_eq!((event.outcome, event.subject), (EnrolmentOutcome::Enrolled, Some(enrolled.id.subject)));
    assert_eq!(event.key, Some(peer.spki.clone()));

    let token = site.token_for(Enrollee::Proxy { proxy: id("p7") }).await;
    let enrolled = site.client(&token).enrol(&key()).await.unwrap();
    assert_eq!(enrolled.id.to_string(), "spiffe://example.com/proxy/p7");
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer_until_it_has_been_used() {
    let site = Site::new().await;
    let (token, mine) = (site.token().await, key());
    let client = site.client(&token);
    let first = client.enrol(&mine).await.unwrap();
    let second = client.enrol(&mine).await.unwrap();
    assert_eq!(first.credential.serial(), second.credential.serial());
    assert_eq!(site.audit.last().outcome, EnrolmentOutcome::Repeated);

    let refused = message(client.enrol(&key()).await.unwrap_err());
    assert!(refused.contains("another key"), "{refused}");
    assert_eq!(site.refusal(), EnrolmentRefusal::OtherKey);

    site.store.mark_used(mine.public().id()).await.unwrap();
    message(client.enrol(&mine).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Used);
}

#[tokio::test]
async fn an_agent_that_joins_again_keeps_the_cluster_and_is_a_new_instance() {
    let site = Site::new().await;
    let first = site.client(&site.token().await).enrol(&key()).await.unwrap();
    let second = site.client(&site.token().await).enrol(&key()).await.unwrap();
    let ((cluster, one), (again, two)) = (cluster_of(&first), cluster_of(&second));
    assert_eq!(cluster, again);
    assert_ne!(one, two);
}

#[tokio::test]
async fn a_key_that_has_a_name_gets_no_other() {
    let site = Site::new().await;
    let mine = key();
    site.client(&site.token().await).enrol(&mine).await.unwrap();
    message(site.client(&site.token().await).enrol(&mine).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::KeyBound);
}

#[tokio::test]
async fn expired_forged_and_unknown_tokens_are_refused_and_noted() {
    let site = Site::new().await;
    let token = site.token().await;
    // The id of a token that is there, with another secret.
    let text = token.to_text();
    let other = site.token().await.to_text();
    let (mine, theirs): (Vec<&str>, Vec<&str>) = (text.split('.').collect(), other.split('.').collect());
    let forged: EnrolmentToken = format!("ztka1.{}.{}.{}", mine[1], theirs[2], mine[3]).parse().unwrap();
    let one = message(site.client(&forged).enrol(&key()).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Token);
    assert_eq!(site.audit.last().token.as_ref(), Some(token.id()));
    // One that nobody made.
    let enrollee = Enrollee::Agent { org: id("acme"), cluster: id("c1") };
    let (unknown, _) = EnrolmentToken::generate(enrollee, site.pin(), now(), SignedDuration::from_hours(1)).unwrap();
    let two = message(site.client(&unknown).enrol(&key()).await.unwrap_err());
    assert_eq!(one, two);
    // An id tells nothing about expiry without the secret.
    site.at.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(message(site.client(&forged).enrol(&key()).await.unwrap_err()), one);
    let expired = message(site.client(&token).enrol(&key()).await.unwrap_err());
    assert!(expired.contains("expired"), "{expired}");
    assert_eq!(site.refusal(), EnrolmentRefusal::Expired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_that_race_one_key_gets_a_certificate() {
    let site = Site::new().await;
    let token = site.token().await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = site.client(&token);
        racers.spawn(async move { client.enrol(&key()).await });
    }
    let results = racers.join_all().await;
    let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(winners.len(), 1);
    site.at.trust.verify(Purpose::Agents, winners[0].credential.chain()).unwrap();
    assert!(results.iter().filter_map(|result| result.as_ref().err()).all(EnrolError::is_final));
    assert_eq!(site.audit.count(&EnrolmentOutcome::Refused(EnrolmentRefusal::OtherKey)), 49);
    assert_eq!(site.audit.count(&EnrolmentOutcome::Enrolled), 1);

    // Fifty requests of one key are one certificate.
    let (token, pem) = (site.token().await, key().to_pem());
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (client, pem) = (site.client(&token), pem.clone());
        racers.spawn(async move {
            let key = SoftwareKey::from_pem(pem.as_bytes(), &provider()).unwrap();
            client.enrol(&key).await.unwrap().credential.serial().to_owned()
        });
    }
    let mut serials = racers.join_all().await;
    serials.dedup();
    assert_eq!(serials.len(), 1);
}

#[tokio::test]
async fn bad_requests_get_a_clear_answer_and_spend_nothing() {
    let site = Site::new().await;
    let (token, key) = (site.token().await, key());
    let good = key.csr_pem().unwrap();
    let body = |token: &str, csr: &str| serde_json::json!({ "token": token, "csr": csr }).to_string();
    let text = token.to_text();
    for (body, status) in [
        (String::new(), 400),
        ("[]".into(), 400),
        ("{".into(), 400),
        (r#"{"token":"a"}"#.into(), 400),
        (format!(r#"{{"token":"{}","csr":"x","org":"evil"}}"#, *text), 400),
        (body(&text, ""), 400),
        (body(&text, &good[..good.len() / 2]), 400),
        (body("ztka1.x.y.z", &good), 401),
        ("x".repeat(70_000), 413),
    ] {
        let request = Request::post("/v1/enrol").body(Full::new(Bytes::from(body.clone()))).unwrap();
        let answer = site.enrolment.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status, "{}", &body[..body.len().min(80)]);
        let answer = answer.into_body().collect().await.unwrap().to_bytes();
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        let secret = text.split('.').nth(2).unwrap();
        assert!(answer.contains(r#""kind":"Status""#) && !answer.contains(secret), "{answer}");
        assert!(!format!("{:?}", site.audit.last()).contains(secret));
    }
    for (request, status) in
        [(Request::get("/v1/enrol"), 405), (Request::post("/v1/renew"), 404), (Request::post("/"), 404)]
    {
        let answer = site.enrolment.clone().oneshot(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
    }
    site.client(&token).enrol(&key).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_after_a_restart() {
    let site = Site::new().await;
    let directory = tempfile::tempdir().unwrap();
    let token = site.token().await;
    let store = CredentialDirectory::open(directory.path().join("state"), provider()).unwrap();

    #[derive(Debug)]
    struct Lossy(InProcess);
    #[async_trait]
    impl Exchange for Lossy {
        async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
            self.0.post(path, body).await?;
            Err(ExchangeError::new("lost", io::Error::from(io::ErrorKind::ConnectionReset)))
        }
    }
    let lossy = Arc::new(Lossy(InProcess::Enrol(site.enrolment.clone())));
    let clock: Arc<dyn Clock> = Arc::new(site.at.clock.clone());
    let error = EnrolmentClient::new(token.clone(), lossy, provider(), clock).enrol_into(&store).await.unwrap_err();
    assert!(!error.is_final());
    assert!(store.load().await.unwrap().is_none());

    let store = CredentialDirectory::open(directory.path().join("state"), provider()).unwrap();
    let enrolled = site.client(&token).enrol_into(&store).await.unwrap();
    assert_eq!(site.audit.last().outcome, EnrolmentOutcome::Repeated);
    let loaded = store.load().await.unwrap().unwrap();
    assert_eq!(loaded.credential(&provider()).unwrap().serial(), enrolled.credential.serial());
    // Who shares the store and has begun at the same time asks for nothing that is there already.
    let before = site.audit.0.lock().unwrap().len();
    let again = site.client(&token).enrol_into(&store).await.unwrap();
    assert_eq!((again.credential.serial(), &again.id), (enrolled.credential.serial(), &enrolled.id));
    assert_eq!(site.audit.0.lock().unwrap().len(), before);
    assert_eq!(loaded.token.as_ref(), Some(token.id()));
    assert_eq!(std::fs::read_dir(directory.path().join("state")).unwrap().count(), 3, "no pending key");
}

async fn renewer_of(site: &Site, purpose: Purpose) -> (Renewer, CredentialSource) {
    let source = site.at.source(purpose).await;
    let exchange = Arc::new(InProcess::Renew(site.renewal.clone(), site.at.trust.clone(), source.clone()));
    let store = Arc::new(MemoryCredentialStore::default());
    let clock: Arc<dyn Clock> = Arc::new(site.at.clock.clone());
    let renewer = Renewer::new(source.clone(), store, exchange, Arc::new(Seen::default()), provider(), clock);
    (renewer, source)
}

#[derive(Debug, Default)]
struct Seen {
    renewed: AtomicUsize,
    failed: AtomicUsize,
    overdue: Mutex<Vec<(Timestamp, RenewalStatus)>>,
    clock: Option<Arc<dyn Clock>>,
}

impl RenewalObserver for Seen {
    fn renewed(&self, _: &Enrolled) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self, _: &EnrolError, _: Duration) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn overdue(&self, _: &EnrolError, status: RenewalStatus) {
        let now = self.clock.as_ref().map_or(Timestamp::MIN, |clock| clock.now());
        self.overdue.lock().unwrap().push((now, status));
    }
}

#[tokio::test]
async fn renewal_keeps_the_name_and_changes_key_and_certificate() {
    let site = Site::new().await;
    for purpose in [Purpose::Agents, Purpose::Proxies, Purpose::Controllers] {
        let (renewer, source) = renewer_of(&site, purpose).await;
        let before = site.at.trust.verify(purpose, source.current().chain()).unwrap();
        renewer.renew().await.unwrap();
        let after = site.at.trust.verify(purpose, source.current().chain()).unwrap();
        assert_eq!(before.id, after.id);
        assert_ne!(before.spki, after.spki);
        assert_ne!(before.serial, after.serial);
        assert_eq!(site.audit.last().outcome, EnrolmentOutcome::Renewed);
    }
    let (renewer, _) = renewer_of(&site, Purpose::Users).await;
    message(renewer.renew().await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Kind);
}

#[tokio::test]
async fn who_is_revoked_or_expired_or_unknown_is_not_renewed() {
    let site = Site::new().await;
    let (renewer, source) = renewer_of(&site, Purpose::Agents).await;
    let revoked = Revocations { instances: [id("i1")].into(), ..Revocations::default() };
    site.at.trust.set_revocations(Some(id("acme")), revoked);
    message(renewer.renew().await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Revoked);
    site.at.trust.set_revocations(Some(id("acme")), Revocations::default());

    // A connection that outlives its certificate.
    let peer = site.at.trust.verify(Purpose::Agents, source.current().chain()).unwrap();
    site.at.clock.advance(SignedDuration::from_hours(73));
    let ask = |peer: Option<Verified<Peer>>, csr: String| {
        let body = serde_json::json!({ "csr": csr }).to_string();
        let mut request = Request::post("/v1/renew").body(Full::new(Bytes::from(body))).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let service = site.renewal.clone();
        async move { service.oneshot(request).await.unwrap().status() }
    };
    let csr = key().csr_pem().unwrap();
    assert_eq!(ask(Some(peer), csr.clone()).await, StatusCode::FORBIDDEN);
    assert_eq!(site.refusal(), EnrolmentRefusal::CertificateExpired);
    assert_eq!(ask(None, csr).await, StatusCode::UNAUTHORIZED);
    assert_eq!(site.refusal(), EnrolmentRefusal::NoCertificate);

    // A key that is somebody else's.
    let theirs = key();
    site.client(&site.token().await).enrol(&theirs).await.unwrap();
    let fresh = site.at.credential(Purpose::Agents).await;
    let peer = site.at.trust.verify(Purpose::Agents, fresh.chain()).unwrap();
    assert_eq!(ask(Some(peer.clone()), theirs.csr_pem().unwrap()).await, StatusCode::CONFLICT);
    assert_eq!(site.refusal(), EnrolmentRefusal::KeyBound);
    assert_eq!(ask(Some(peer), "rubbish".into()).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_first_renewal_shows_that_the_answer_has_arrived() {
    let site = Site::new().await;
    let (token, mine) = (site.token().await, key());
    let enrolled = site.client(&token).enrol(&mine).await.unwrap();
    let source = CredentialSource::new(enrolled.credential);
    let exchange = Arc::new(InProcess::Renew(site.renewal.clone(), site.at.trust.clone(), source.clone()));
    let (store, clock) = (Arc::new(MemoryCredentialStore::default()), Arc::new(site.at.clock.clone()));
    let renewer = Renewer::new(source, store, exchange, Arc::new(Seen::default()), provider(), clock);
    renewer.renew().await.unwrap();
    message(site.client(&token).enrol(&mine).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Used);
}

/// A clock that tokio's own, paused, drives.
#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        now() + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

struct Renewing {
    renewer: Renewer,
    source: CredentialSource,
    trust: TrustSource,
    seen: Arc<Seen>,
    clock: Arc<dyn Clock>,
    down: Arc<std::sync::atomic::AtomicBool>,
}

/// Agents' certificates live 60 seconds, by tokio's paused clock.
async fn renewing() -> Renewing {
    let clock: Arc<dyn Clock> = Arc::new(Paused(Instant::now()));
    let keys = Arc::new(ztka_pki::MemoryKeyStore::new(provider()));
    let lifetimes = Lifetimes { agent: SignedDuration::from_secs(60), ..Lifetimes::default() };
    let names = ztka_pki::Names::of("example.com");
    let hierarchy = Arc::new(Hierarchy::create(names, lifetimes, keys, clock.clone()).await.unwrap());
    hierarchy.create_org(&id("acme")).await.unwrap();
    let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), clock.clone()).unwrap();
    let key = key();
    let csr = ztka_pki::ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let issued = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
    let source = CredentialSource::new(ztka_pki::Credential::new(issued.chain().to_vec(), &key).unwrap());
    let (store, audit) = (Arc::new(MemoryEnrolmentStore::default()), Arc::new(Audit::default()));
    let service = RenewalService::new(hierarchy.clone(), store, hierarchy, audit, trust.clone());
    let down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let exchange = Flaky { inner: InProcess::Renew(service, trust.clone(), source.clone()), down: down.clone() };
    let seen = Arc::new(Seen { clock: Some(clock.clone()), ..Seen::default() });
    let kept = Arc::new(MemoryCredentialStore::default());
    let renewer = Renewer::new(source.clone(), kept, Arc::new(exchange), seen.clone(), provider(), clock.clone());
    Renewing { renewer, source, trust, seen, clock, down }
}

#[derive(Debug)]
struct Flaky {
    inner: InProcess,
    down: Arc<std::sync::atomic::AtomicBool>,
}

#[async_trait]
impl Exchange for Flaky {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(ExchangeError::new("down", io::Error::from(io::ErrorKind::ConnectionRefused)));
        }
        self.inner.post(path, body).await
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_comes_at_two_thirds_of_life_and_is_never_late() {
    let Renewing { renewer, source, trust, seen, clock, .. } = renewing().await;
    let begun = clock.now();
    let watch = async {
        let mut changes = source.changes();
        let mut last = begun;
        for _ in 0..20 {
            changes.changed().await;
            let after = clock.now().duration_since(last).as_secs_f64();
            // A certificate knows whole seconds only.
            assert!((35.0..=41.0).contains(&after), "renewed after {after} s of 60");
            trust.verify(Purpose::Agents, source.current().chain()).unwrap();
            last = clock.now();
        }
    };
    tokio::select! {
        end = renewer.run() => panic!("{end}"),
        () = watch => {}
    }
    assert_eq!(seen.renewed.load(Ordering::Relaxed), 20);
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_away_is_asked_again_until_the_certificate_is_over() {
    let Renewing { renewer, source, seen, clock, down, .. } = renewing().await;
    down.store(true, Ordering::Relaxed);
    let back = async {
        // It is away until 55 of the 60 seconds are over.
        while clock.now() < now() + SignedDuration::from_secs(55) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        down.store(false, Ordering::Relaxed);
        source.changed().await;
        down.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = renewer.run() => end,
        () = back => unreachable!(),
    };
    assert!(matches!(end, RenewalEnd::Expired), "{end}");
    assert_eq!(seen.renewed.load(Ordering::Relaxed), 1);
    assert!((10..400).contains(&seen.failed.load(Ordering::Relaxed)), "{seen:?}");
    // The alarm: a third of what was left when renewal was due had gone, which is at 46.7 of 60 seconds; of both
    // certificates, and never before.
    let overdue = seen.overdue.lock().unwrap();
    let certificates: std::collections::BTreeSet<_> = overdue.iter().map(|(_, status)| status.issued).collect();
    assert_eq!(certificates.len(), 2, "{overdue:?}");
    for (at, status) in &*overdue {
        let after = at.duration_since(status.issued).as_secs_f64();
        assert!(status.overdue && (46.0..=60.0).contains(&after), "after {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_renewal() {
    let Renewing { renewer, trust, .. } = renewing().await;
    trust.set_revocations(None, Revocations { instances: [id("i1")].into(), ..Revocations::default() });
    let end = renewer.run().await;
    assert!(matches!(end, RenewalEnd::Refused(_)), "{end}");
}

/// Hands out one end of a pipe and the listener's side the other.
#[derive(Debug)]
struct Pipe(mpsc::UnboundedSender<tokio::io::DuplexStream>);

#[async_trait]
impl Connect for Pipe {
    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let (near, far) = duplex(64 * 1024);
        self.0.send(far).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(Box::new(near))
    }
}

/// Serves both services as a controller does: TLS, then the peer as an extension.
fn listen(site: &Site, source: CredentialSource) -> (Arc<Pipe>, Arc<Pipe>) {
    let pipe = |auth: ClientAuth| {
        let config = tls::server(provider(), source.clone(), auth, site.at.trust.clone(), &[b"http/1.1"]).unwrap();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let (enrolment, renewal, trust) = (site.enrolment.clone(), site.renewal.clone(), site.at.trust.clone());
        tokio::spawn(async move {
            while let Some(stream) = receiver.recv().await {
                let Ok(tls) = TlsAcceptor::from(config.clone()).accept(stream).await else { continue };
                let chain = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec);
                let peer = chain.and_then(|chain| trust.verify(Purpose::Agents, &chain).ok());
                let (enrolment, renewal) = (enrolment.clone(), renewal.clone());
                let service = tower::service_fn(move |mut request: Request<hyper::body::Incoming>| {
                    let (enrolment, renewal, peer) = (enrolment.clone(), renewal.clone(), peer.clone());
                    async move {
                        match peer {
                            Some(peer) => {
                                request.extensions_mut().insert(peer);
                                renewal.oneshot(request).await
                            }
                            None => enrolment.oneshot(request).await,
                        }
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
                let _ = served.await;
            }
        });
        Arc::new(Pipe(sender))
    };
    (pipe(ClientAuth::None), pipe(ClientAuth::Required(Purpose::Agents)))
}

#[tokio::test]
async fn enrolment_and_renewal_over_tls_with_nothing_but_the_token() {
    let site = Site::new().await;
    let (first_contact, agents) = listen(&site, site.at.source(Purpose::Servers).await);
    let token: EnrolmentToken = site.token().await.to_text().parse().unwrap();
    let name = || ServerName::try_from("enroll.example.com").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(site.at.clock.clone());
    let client = EnrolmentClient::over_tls(token, first_contact, name(), provider(), clock.clone()).unwrap();
    let store = Arc::new(MemoryCredentialStore::default());
    let enrolled = client.enrol_into(&*store).await.unwrap();

    // From here on: what came with the answer.
    let source = CredentialSource::new(enrolled.credential.clone());
    let trust = TrustSource::new(enrolled.trust, provider(), clock.clone()).unwrap();
    let tls = tls::client(provider(), trust, Some(source.clone()), Purpose::Servers, &[b"http/1.1"]).unwrap();
    let exchange = Arc::new(HttpsExchange::new(agents, tls, name()));
    let renewer = Renewer::new(source.clone(), store.clone(), exchange, Arc::new(Seen::default()), provider(), clock);
    for _ in 0..2 {
        let before = source.current().serial().to_owned();
        renewer.renew().await.unwrap();
        assert_ne!(source.current().serial(), before);
        assert_eq!(source.current().id().unwrap(), enrolled.id);
    }
    let stored = store.load().await.unwrap().unwrap().credential(&provider()).unwrap();
    assert_eq!(stored.serial(), source.current().serial());
}

#[tokio::test]
async fn a_man_in_the_middle_never_sees_the_token() {
    let (site, mallory) = (Site::new().await, Site::new().await);
    let (pipe, _) = listen(&mallory, mallory.at.source(Purpose::Servers).await);
    let name = ServerName::try_from("enroll.example.com").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(site.at.clock.clone());
    let client = EnrolmentClient::over_tls(site.token().await, pipe, name, provider(), clock).unwrap();
    let error = client.enrol(&key()).await.unwrap_err();
    assert!(matches!(error, EnrolError::Unreachable(_)), "{error:?}");
    assert!(mallory.audit.0.lock().unwrap().is_empty());
}
