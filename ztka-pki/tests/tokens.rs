//! The life of a token: from where, with whose approval, until when.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use jiff::SignedDuration;
use support::{Installation, id, key, provider};
use tower::ServiceExt as _;
use ztka_core::Clock as _;
use ztka_pki::{
    EnrolError, Enrollee, EnrolmentAudit, EnrolmentClient, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal,
    EnrolmentService, EnrolmentStore as _, EnrolmentToken, Exchange, ExchangeError, MemoryEnrolmentStore, SoftwareKey,
    StoreError, TokenRecord, Verdict,
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
    service: EnrolmentService,
}

impl Site {
    async fn new() -> Self {
        let at = Installation::new().await;
        let (store, audit) = (Arc::new(MemoryEnrolmentStore::default()), Arc::new(Audit::default()));
        let hierarchy = at.hierarchy.clone();
        let service = EnrolmentService::new(hierarchy.clone(), store.clone(), hierarchy, audit.clone());
        Self { at, store, audit, service }
    }

    async fn token(&self, sources: &[&str], approval: bool) -> EnrolmentToken {
        let enrollee = Enrollee::Agent { org: id("acme"), cluster: id("c1") };
        let (pin, now) = (self.at.hierarchy.pin(), self.at.clock.now());
        let (token, record) = EnrolmentToken::generate(enrollee, pin, now, SignedDuration::from_hours(1)).unwrap();
        let sources = sources.iter().map(|range| range.parse().unwrap()).collect();
        self.store.add_token(TokenRecord { sources, approval, ..record }).await.unwrap();
        token
    }

    fn client(&self, token: &EnrolmentToken, from: Option<&str>) -> EnrolmentClient {
        let from = from.map(|address| address.parse().unwrap());
        let exchange = Arc::new(InProcess { service: self.service.clone(), from });
        EnrolmentClient::new(token.clone(), exchange, provider(), Arc::new(self.at.clock.clone()))
    }

    fn outcomes(&self) -> Vec<EnrolmentOutcome> {
        self.audit.0.lock().unwrap().iter().map(|event| event.outcome.clone()).collect()
    }

    fn refusal(&self) -> EnrolmentRefusal {
        match self.outcomes().pop() {
            Some(EnrolmentOutcome::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    async fn is_unspent(&self, token: &EnrolmentToken) -> bool {
        self.store.token(token.id()).await.unwrap().unwrap().spent.is_none()
    }
}

#[derive(Debug)]
struct InProcess {
    service: EnrolmentService,
    from: Option<IpAddr>,
}

#[async_trait]
impl Exchange for InProcess {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let mut request = Request::post(path).body(Full::new(body)).unwrap();
        if let Some(from) = self.from {
            request.extensions_mut().insert(from);
        }
        let answer = self.service.clone().oneshot(request).await.unwrap();
        let (status, again) = (answer.status(), answer.headers().get(header::RETRY_AFTER).cloned());
        assert_eq!(status == StatusCode::ACCEPTED, again.is_some_and(|again| again == "5"));
        Ok((status, answer.into_body().collect().await.unwrap().to_bytes()))
    }
}

fn refused(error: EnrolError) -> (StatusCode, String) {
    match error {
        EnrolError::Refused { status, message } => (status, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn from_elsewhere_a_token_is_as_good_as_none() {
    let site = Site::new().await;
    let token = site.token(&["192.0.2.0/24", "2001:db8::/32"], false).await;
    let unknown = Site::new().await.token(&[], false).await;
    let unknown = refused(site.client(&unknown, Some("192.0.2.1")).enrol(&key()).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Token);
    for from in [Some("198.51.100.1"), Some("2001:db9::1"), Some("::ffff:198.51.100.1"), None] {
        let elsewhere = refused(site.client(&token, from).enrol(&key()).await.unwrap_err());
        assert_eq!(elsewhere, unknown, "{from:?}: told apart from a token that nobody made");
        assert_eq!(site.refusal(), EnrolmentRefusal::Source, "{from:?}");
        // Those whose token it is hear of it.
        let event = site.audit.0.lock().unwrap().last().cloned().unwrap();
        assert_eq!((event.token.as_ref(), event.source), (Some(token.id()), from.map(|from| from.parse().unwrap())));
        assert!(event.subject.is_some());
    }
    assert!(site.is_unspent(&token).await);
    let (mine, one) = (key(), Some("::ffff:192.0.2.7"));
    site.client(&token, one).enrol(&mine).await.unwrap();
    // The right key in the wrong place, also once the token is over.
    for _ in 0..2 {
        let elsewhere = refused(site.client(&token, Some("198.51.100.1")).enrol(&mine).await.unwrap_err());
        assert_eq!(elsewhere, unknown);
        site.at.clock.advance(SignedDuration::from_hours(2));
    }
    refused(site.client(&token, one).enrol(&mine).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Expired);
}

#[tokio::test]
async fn a_key_waits_for_approval_and_then_has_its_certificate() {
    let site = Site::new().await;
    let (token, mine) = (site.token(&[], true).await, key());
    for _ in 0..3 {
        let error = site.client(&token, None).enrol(&mine).await.unwrap_err();
        assert!(!error.is_final(), "{error:?}");
        let EnrolError::Waiting { key, again } = error else { panic!("{error:?}") };
        assert_eq!((key, again), (mine.public().id().0.clone(), Duration::from_secs(5)));
    }
    assert_eq!(site.outcomes(), [EnrolmentOutcome::Waiting], "on record once, however often it asks");
    let record = site.store.token(token.id()).await.unwrap().unwrap();
    let spent = record.spent.unwrap();
    assert_eq!((spent.key, spent.chain), (mine.public().id().clone(), None));

    // Who comes meanwhile is refused, and cannot be approved.
    let theirs = key();
    refused(site.client(&token, None).enrol(&theirs).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::OtherKey);
    let decide =
        async |key: &SoftwareKey, verdict| site.store.decide(token.id(), key.public().id(), verdict).await.unwrap();
    assert_eq!(decide(&theirs, Verdict::Approved).await, None);
    assert_eq!(decide(&mine, Verdict::Approved).await, Some(Verdict::Approved));
    refused(site.client(&token, None).enrol(&theirs).await.unwrap_err());
    let enrolled = site.client(&token, None).enrol(&mine).await.unwrap();
    assert_eq!(enrolled.id.subject, spent.subject, "the name that was shown to the administrator");
    let again = site.client(&token, None).enrol(&mine).await.unwrap();
    assert_eq!(enrolled.credential.serial(), again.credential.serial());
    assert_eq!(site.outcomes()[3..], [EnrolmentOutcome::Enrolled, EnrolmentOutcome::Repeated]);
}

#[tokio::test]
async fn a_refusal_by_an_administrator_is_final() {
    let site = Site::new().await;
    let (token, mine) = (site.token(&[], true).await, key());
    site.client(&token, None).enrol(&mine).await.unwrap_err();
    let decide = async |verdict| site.store.decide(token.id(), mine.public().id(), verdict).await.unwrap();
    assert_eq!(decide(Verdict::Refused).await, Some(Verdict::Refused));
    assert_eq!(decide(Verdict::Approved).await, Some(Verdict::Refused));
    let (status, said) = refused(site.client(&token, None).enrol(&mine).await.unwrap_err());
    assert_eq!((status, site.refusal()), (StatusCode::FORBIDDEN, EnrolmentRefusal::Rejected));
    assert!(said.contains("administrator"), "{said}");
    refused(site.client(&token, None).enrol(&key()).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::OtherKey);
}

#[tokio::test]
async fn approval_comes_while_the_token_lives_or_not_at_all() {
    let site = Site::new().await;
    let (token, mine) = (site.token(&[], true).await, key());
    site.client(&token, None).enrol(&mine).await.unwrap_err();
    site.store.decide(token.id(), mine.public().id(), Verdict::Approved).await.unwrap();
    site.at.clock.advance(SignedDuration::from_hours(1));
    refused(site.client(&token, None).enrol(&mine).await.unwrap_err());
    assert_eq!(site.refusal(), EnrolmentRefusal::Expired);
}

#[tokio::test]
async fn nothing_is_had_by_a_revoked_token() {
    let site = Site::new().await;
    let (fresh, spent, waiting) =
        (site.token(&[], false).await, site.token(&[], false).await, site.token(&[], true).await);
    let (mine, theirs) = (key(), key());
    site.client(&spent, None).enrol(&mine).await.unwrap();
    site.client(&waiting, None).enrol(&theirs).await.unwrap_err();
    for token in [&fresh, &spent, &waiting] {
        assert!(site.store.revoke_token(token.id(), site.at.clock.now()).await.unwrap());
    }
    for (token, key) in [(&fresh, &key()), (&spent, &mine), (&waiting, &theirs)] {
        let (status, _) = refused(site.client(token, None).enrol(key).await.unwrap_err());
        assert_eq!((status, site.refusal()), (StatusCode::UNAUTHORIZED, EnrolmentRefusal::TokenRevoked));
    }
    assert!(site.is_unspent(&fresh).await);
    assert_eq!(site.store.decide(waiting.id(), theirs.public().id(), Verdict::Approved).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_that_race_one_key_waits_and_has_the_certificate() {
    let site = Site::new().await;
    let token = site.token(&["192.0.2.0/24"], true).await;
    let race = async |keys: Vec<SoftwareKey>| {
        let mut racers = tokio::task::JoinSet::new();
        for key in keys {
            let client = site.client(&token, Some("192.0.2.9"));
            racers.spawn(async move { (client.enrol(&key).await, key) });
        }
        racers.join_all().await
    };
    let first = race((0..50).map(|_| key()).collect()).await;
    let waiting = first.iter().filter(|(result, _)| matches!(result, Err(EnrolError::Waiting { .. }))).count();
    assert_eq!((waiting, first.iter().filter(|(result, _)| result.is_ok()).count()), (1, 0));
    let spent = site.store.token(token.id()).await.unwrap().unwrap().spent.unwrap();
    site.store.decide(token.id(), &spent.key, Verdict::Approved).await.unwrap();
    let second = race(first.into_iter().map(|(_, key)| key).collect()).await;
    let winners: Vec<_> = second.iter().filter(|(result, _)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(*winners[0].1.public().id(), spent.key);
    let count = |outcome| site.outcomes().into_iter().filter(|known| *known == outcome).count();
    assert_eq!(count(EnrolmentOutcome::Refused(EnrolmentRefusal::OtherKey)), 98);
    assert_eq!((count(EnrolmentOutcome::Waiting), count(EnrolmentOutcome::Enrolled)), (1, 1));
}
