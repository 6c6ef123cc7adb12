//! A controller over SQLite in a temporary directory, with time that stands still, and callers of every kind.
#![allow(dead_code, clippy::unwrap_used, reason = "these are tests, and each file uses a part")]

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use rustls::crypto::CryptoProvider;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;
use ztka_controller::{
    Controller, Settings,
    store::{Cluster, ResourceStore as _, Stores},
};
use ztka_core::{Clock as _, ClusterId, KeyId, ManualClock, OrgId, SpiffeId, Subject, Verified};
use ztka_identity::{AdminRole, Caller, Org};
use ztka_pki::{MemoryKeyStore, Names, Peer, SoftwareKey, ValidCsr};
use ztka_store::{Location, MasterKey, Masters, SealedKeyStore, Store};

pub(crate) const DOMAIN: &str = "example.com";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) struct Kit {
    pub(crate) controller: Controller,
    pub(crate) clock: ManualClock,
    pub(crate) store: Store,
    pub(crate) stores: Stores,
    _directory: TempDir,
}

impl Kit {
    pub(crate) async fn new() -> Self {
        Self::starting_at("2026-01-01T00:00:00Z").await
    }

    pub(crate) async fn starting_at(now: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::sqlite(&directory.path().join("ztka.db")).await.unwrap();
        let store = store.unlock(Masters::of(MasterKey::new(&[7; 32]).unwrap())).await.unwrap();
        let stores = Stores::of(Arc::new(store.clone()), Arc::new(MemoryKeyStore::new(provider())));
        let clock = ManualClock::at(now.parse().unwrap());
        let controller = open(stores.clone(), &clock).await;
        Self { controller, clock, store, stores, _directory: directory }
    }

    /// A controller of its own process, as it were, over a database that others have too.
    pub(crate) async fn over(location: &Location) -> Self {
        let masters = Masters::of(MasterKey::new(&[7; 32]).unwrap());
        let store = Store::open(location).await.unwrap().unlock(masters).await.unwrap();
        let keys = SealedKeyStore::new(store.clone(), provider());
        let stores = Stores::of(Arc::new(store.clone()), Arc::new(keys));
        let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
        let controller = open(stores.clone(), &clock).await;
        Self { controller, clock, store, stores, _directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn controller_now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Another controller over the same stores.
    pub(crate) async fn another(&self) -> Controller {
        open(self.stores.clone(), &self.clock).await
    }

    pub(crate) async fn org(&self, name: &str) -> Org {
        self.controller.directory().create_org(name.parse().unwrap()).await.unwrap()
    }

    /// A cluster without labels.
    pub(crate) async fn cluster(&self, org: &OrgId, name: &str) -> ClusterId {
        let (id, created) = (ClusterId::generate(), self.clock.now());
        let name = name.parse().unwrap();
        let cluster = Cluster { id: id.clone(), org: org.clone(), name, labels: Default::default(), created };
        self.store.create_cluster(&cluster).await.unwrap();
        id
    }

    /// A user with a credential of an hour.
    pub(crate) async fn user(&self, org: &OrgId, name: &str, admin: Option<AdminRole>) -> Caller {
        let directory = self.controller.directory();
        let user = directory.create_user(org, name.parse().unwrap(), admin).await.unwrap();
        let credential = directory.issue_credential(&user.id, SignedDuration::from_hours(1)).await.unwrap();
        directory.whoami(&user.id, &credential.id).await.unwrap()
    }

    pub(crate) async fn store_group(&self, org: &OrgId, name: &str) {
        self.controller.directory().create_group(org, &name.parse().unwrap()).await.unwrap();
    }

    pub(crate) async fn system_admin(&self) -> Caller {
        self.user(&OrgId::installation(), "root", Some(AdminRole::SystemAdmin)).await
    }

    pub(crate) async fn call(
        &self,
        peer: Option<Verified<Peer>>,
        method: &str,
        path: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        call(self.controller.api(), peer, method, path, body).await
    }
}

async fn open(stores: Stores, clock: &ManualClock) -> Controller {
    let settings = Settings::of(DOMAIN, 443);
    Controller::open(stores, Names::of(DOMAIN), settings, provider(), Arc::new(clock.clone())).await.unwrap()
}

/// What the acceptor says of somebody with this certificate.
pub(crate) fn peer(subject: Subject) -> Verified<Peer> {
    Verified::assertion(Peer {
        id: SpiffeId { trust_domain: DOMAIN.into(), subject },
        serial: "01".into(),
        not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
        spki: KeyId("00".into()),
        authorities: Vec::new(),
    })
}

pub(crate) fn certificate_of(caller: &Caller) -> Verified<Peer> {
    peer(Subject::User {
        org: caller.user.org.clone(),
        user: caller.user.id.clone(),
        credential: caller.credential.id.clone(),
    })
}

pub(crate) async fn call(
    router: Router,
    peer: Option<Verified<Peer>>,
    method: &str,
    path: &str,
    body: impl AsRef<[u8]>,
) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(path);
    let body = body.as_ref();
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let mut request = request.body(Body::from(body.to_vec())).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    (status, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
}

/// A key, as a path names it.
pub(crate) fn key() -> String {
    SoftwareKey::generate(&provider()).unwrap().public().id().0.clone()
}

/// A CSR in PEM, as a JSON string.
pub(crate) fn csr() -> (SoftwareKey, String) {
    let key = SoftwareKey::generate(&provider()).unwrap();
    let pem = key.csr_pem().unwrap();
    ValidCsr::from_pem(pem.as_bytes()).unwrap();
    (key, Value::from(pem).to_string())
}
