//! Further agents of a cluster, by the credential that a token gave.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::SignedDuration;
use support::{Installation, id, key, provider};
use tower::ServiceExt as _;
use ztka_core::{Clock as _, Subject, Verified};
use ztka_pki::{
    Credential, EnrolError, Enrolled, EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal, Exchange,
    ExchangeError, INSTANCES_PATH, MemoryEnrolmentStore, Peer, Purpose, ReplicaService, Revocations, SoftwareKey,
    StoreError, join_beside,
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
    service: ReplicaService,
}

/// What an acceptor does after the handshake with this certificate.
#[derive(Debug)]
struct As(ReplicaService, Option<Verified<Peer>>);

#[async_trait]
impl Exchange for As {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let mut request = Request::post(path).body(Full::new(body)).unwrap();
        if let Some(peer) = &self.1 {
            request.extensions_mut().insert(peer.clone());
        }
        let answer = self.0.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        Ok((status, answer.into_body().collect().await.unwrap().to_bytes()))
    }
}

impl Site {
    async fn new(most: usize) -> Self {
        let at = Installation::new().await;
        let (store, audit) = (Arc::new(MemoryEnrolmentStore::default()), Arc::new(Audit::default()));
        let (hierarchy, trust) = (at.hierarchy.clone(), at.trust.clone());
        let service = ReplicaService::new(hierarchy.clone(), store.clone(), hierarchy, audit.clone(), trust, most);
        Self { at, store, audit, service }
    }

    fn peer(&self, purpose: Purpose, credential: &Credential) -> Verified<Peer> {
        self.at.trust.identify(purpose, credential.chain()).unwrap()
    }

    async fn join(&self, of: &Credential, key: &SoftwareKey) -> Result<Enrolled, EnrolError> {
        let exchange = As(self.service.clone(), Some(self.peer(Purpose::Agents, of)));
        join_beside(&of.id().unwrap(), key, &exchange, &provider(), &self.at.clock).await
    }

    /// The answer to whom it was said, after it was refused.
    async fn refused(&self, of: &Credential, key: &SoftwareKey) -> EnrolmentRefusal {
        let error = self.join(of, key).await.unwrap_err();
        let refusal = self.last_refusal();
        assert!(error.to_string().contains(&refusal.to_string()), "{error} is not {refusal}");
        refusal
    }

    fn last(&self) -> EnrolmentEvent {
        self.audit.0.lock().unwrap().last().unwrap().clone()
    }

    fn last_refusal(&self) -> EnrolmentRefusal {
        match self.last().outcome {
            EnrolmentOutcome::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn each_key_has_a_name_of_its_own_in_the_same_cluster() {
    let site = Site::new(10).await;
    let cluster = site.at.credential(Purpose::Agents).await;
    let (one, two) = (key(), key());
    let first = site.join(&cluster, &one).await.unwrap();
    assert_eq!(site.last().outcome, EnrolmentOutcome::Enrolled);
    assert_eq!(site.last().asked_by, cluster.id().map(|id| id.subject));
    assert_eq!(site.last().subject.as_ref(), Some(&first.id.subject));
    let second = site.join(&cluster, &two).await.unwrap();
    let names = [cluster.id().unwrap(), first.id.clone(), second.id.clone()];
    for id in &names {
        let Subject::Agent { org, cluster, .. } = &id.subject else { panic!("{id}") };
        assert_eq!((org.as_str(), cluster.as_str()), ("acme", "c1"));
        assert_eq!(names.iter().filter(|other| *other == id).count(), 1);
    }
    site.at.trust.verify(Purpose::Agents, first.credential.chain()).unwrap();

    // A lost answer: the same key, the same name.
    let again = site.join(&cluster, &one).await.unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(site.last().outcome, EnrolmentOutcome::Repeated);
    // Nobody has it with another agent's word, nor under another name.
    let renamed = site.at.hierarchy.issue_agent(&csr(&key()), &id("acme"), &id("c1"), &id("i2")).await.unwrap();
    let other_key = key();
    let renamed_key = Credential::new(renamed.chain().to_vec(), &other_key);
    assert!(renamed_key.is_err(), "another key");
    let other = site.at.hierarchy.issue_agent(&csr(&other_key), &id("acme"), &id("c1"), &id("i2")).await.unwrap();
    let other = Credential::new(other.chain().to_vec(), &other_key).unwrap();
    assert_eq!(site.refused(&other, &one).await, EnrolmentRefusal::KeyBound);
}

fn csr(key: &SoftwareKey) -> ztka_pki::ValidCsr {
    ztka_pki::ValidCsr::from_der(&key.csr().unwrap()).unwrap()
}

#[tokio::test]
async fn who_was_let_in_lets_nobody_in() {
    let site = Site::new(10).await;
    let cluster = site.at.credential(Purpose::Agents).await;
    let child = site.join(&cluster, &key()).await.unwrap();
    assert_eq!(site.refused(&child.credential, &key()).await, EnrolmentRefusal::NotByToken);
}

#[tokio::test]
async fn revoked_and_expired_credentials_get_nothing() {
    let site = Site::new(10).await;
    let (cluster, mine) = (site.at.credential(Purpose::Agents).await, key());
    let child = site.join(&cluster, &mine).await.unwrap();
    let Subject::Agent { instance, .. } = &child.id.subject else { panic!("{}", child.id) };
    let revoke = |instances: &[&str]| {
        let instances = instances.iter().map(|instance| id(instance)).collect();
        site.at.trust.set_revocations(Some(id("acme")), Revocations { instances, ..Revocations::default() });
    };
    // The new one: its name is not given to its key again, and others may come.
    revoke(&[instance.as_str()]);
    assert_eq!(site.refused(&cluster, &mine).await, EnrolmentRefusal::Revoked);
    site.join(&cluster, &key()).await.unwrap();
    // The cluster's own.
    revoke(&["i1"]);
    assert_eq!(site.refused(&cluster, &key()).await, EnrolmentRefusal::Revoked);
    revoke(&[]);
    // A connection that is older than the end of its certificate.
    let peer = site.peer(Purpose::Agents, &cluster);
    site.at.clock.advance(SignedDuration::from_hours(73));
    let exchange = As(site.service.clone(), Some(peer));
    let late = join_beside(&cluster.id().unwrap(), &key(), &exchange, &provider(), &site.at.clock).await;
    assert!(late.is_err_and(|error| error.is_final()));
    assert_eq!(site.last_refusal(), EnrolmentRefusal::CertificateExpired);
}

#[tokio::test]
async fn only_agents_with_a_certificate_and_a_good_request() {
    let site = Site::new(10).await;
    let post = async |peer: Option<Verified<Peer>>, body: String| {
        let (status, answer) = As(site.service.clone(), peer).post(INSTANCES_PATH, body.into()).await.unwrap();
        (status.as_u16(), String::from_utf8(answer.to_vec()).unwrap())
    };
    let good = serde_json::json!({ "csr": key().csr_pem().unwrap() }).to_string();
    assert_eq!(post(None, good.clone()).await.0, 401);
    assert_eq!(site.last_refusal(), EnrolmentRefusal::NoCertificate);
    for purpose in [Purpose::Users, Purpose::Proxies, Purpose::Controllers] {
        let other = site.at.credential(purpose).await;
        assert_eq!(post(Some(site.peer(purpose, &other)), good.clone()).await.0, 403, "{purpose}");
        assert_eq!(site.last_refusal(), EnrolmentRefusal::Kind);
    }
    let agent = site.peer(Purpose::Agents, &site.at.credential(Purpose::Agents).await);
    for (body, status) in [
        ("{}".to_owned(), 400),
        (r#"{"csr": "rubbish"}"#.into(), 400),
        (good.replace("{", r#"{"instance": "i1", "#), 400),
        ("x".repeat(70_000), 413),
    ] {
        let (got, said) = post(Some(agent.clone()), body).await;
        assert_eq!(got, status, "{said}");
    }
    let known = |store: &MemoryEnrolmentStore| format!("{store:?}");
    assert!(known(&site.store).contains("replicas: []"), "{}", known(&site.store));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_than_there_may_be() {
    let site = Arc::new(Site::new(5).await);
    let cluster = site.at.credential(Purpose::Agents).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (site, cluster) = (site.clone(), cluster.clone());
        racers.spawn(async move { site.join(&cluster, &key()).await });
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    // Not the end of it: others' certificates will have ended.
    let full = |error: &EnrolError| matches!(error, EnrolError::Unavailable(_));
    assert!(results.iter().filter_map(|result| result.as_ref().err()).all(full));
    assert_eq!(site.last_refusal(), EnrolmentRefusal::Replicas);
    site.at.clock.advance(SignedDuration::from_hours(72));
    let again = site.at.credential(Purpose::Agents).await;
    site.join(&again, &key()).await.unwrap();
}

#[tokio::test]
async fn an_answer_for_somebody_else_is_not_used() {
    let site = Site::new(10).await;
    let cluster = site.at.credential(Purpose::Agents).await;
    #[derive(Debug)]
    struct Says(String);
    #[async_trait]
    impl Exchange for Says {
        async fn post(&self, _: &str, _: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
            Ok((StatusCode::OK, self.0.clone().into()))
        }
    }
    let mine = key();
    let says = async |org: &str, cluster: &str, instance: &str| {
        let issued = site.at.hierarchy.issue_agent(&csr(&mine), &id(org), &id(cluster), &id(instance)).await.unwrap();
        let named = format!("spiffe://example.com/org/{org}/cluster/{cluster}/agent/{instance}");
        let trust = site.at.hierarchy.trust_bundle();
        Says(serde_json::json!({ "id": named, "chain": issued.pem(), "trust": trust }).to_string())
    };
    let of = cluster.id().unwrap();
    for (org, at, instance) in [("evil", "c1", "i2"), ("acme", "c2", "i2"), ("acme", "c1", "i1")] {
        let exchange = says(org, at, instance).await;
        let error = join_beside(&of, &mine, &exchange, &provider(), &site.at.clock).await.unwrap_err();
        assert!(matches!(error, EnrolError::Answer(_)), "{org} {at} {instance}: {error:?}");
    }
    let exchange = says("acme", "c1", "i2").await;
    join_beside(&of, &mine, &exchange, &provider(), &site.at.clock).await.unwrap();
    assert!(site.at.clock.now() < cluster.not_after());
}
