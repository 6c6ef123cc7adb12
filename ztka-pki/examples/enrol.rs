//! A cluster's agent enrols with a one-time token, in one process: `cargo run -p ztka-pki --example enrol`.
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::SignedDuration;
use tower::ServiceExt as _;
use ztka_core::{BoxError, Clock as _, SystemClock};
use ztka_pki::{
    Enrollee, EnrolmentAudit, EnrolmentClient, EnrolmentEvent, EnrolmentService, EnrolmentStore as _, EnrolmentToken,
    Exchange, ExchangeError, Hierarchy, Lifetimes, MemoryCredentialStore, MemoryEnrolmentStore, MemoryKeyStore, Names,
    StoreError,
};

/// Calls the service directly; a real agent uses `EnrolmentClient::over_tls`.
#[derive(Debug)]
struct Direct(EnrolmentService);

#[async_trait]
impl Exchange for Direct {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let broken = |error: BoxError| ExchangeError::new("the service broke off", error);
        let request = Request::post(path).body(Full::new(body)).map_err(|error| broken(error.into()))?;
        let (head, body) = self.0.clone().oneshot(request).await.map_err(|never| broken(never.into()))?.into_parts();
        Ok((head.status, body.collect().await.map_err(broken)?.to_bytes()))
    }
}

#[derive(Debug)]
struct Print;

#[async_trait]
impl EnrolmentAudit for Print {
    async fn record(&self, event: &EnrolmentEvent) -> Result<(), StoreError> {
        println!("audit: {:?} {:?}", event.outcome, event.subject);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (clock, keys) = (Arc::new(SystemClock), Arc::new(MemoryKeyStore::new(provider.clone())));
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await?;
    let (hierarchy, store) = (Arc::new(hierarchy), Arc::new(MemoryEnrolmentStore::default()));
    hierarchy.create_org(&"acme".parse()?).await?;
    let pin = hierarchy.pin();
    let enrollee = Enrollee::Agent { org: "acme".parse()?, cluster: "c1".parse()? };
    let (token, record) = EnrolmentToken::generate(enrollee, pin, clock.now(), SignedDuration::from_hours(1))?;
    store.add_token(record).await?;
    let service = EnrolmentService::new(hierarchy.clone(), store, hierarchy, Arc::new(Print));
    let client = EnrolmentClient::new(token, Arc::new(Direct(service)), provider, clock);
    let enrolled = client.enrol_into(&MemoryCredentialStore::default()).await?;
    println!("{} until {}", enrolled.id, enrolled.credential.not_after());
    Ok(())
}
