//! CRLs: one for each certificate authority, made when something is revoked and before the one before is over, served
//! to whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    time::Instant,
};
use tower::ServiceExt as _;
use ztka_core::OrgId;
use ztka_identity::StoreError;
use ztka_pki::{CrlContents, CrlReason, IssueError, Issuer, RevokedCertificate};

use crate::{
    Controller,
    feed::refuse,
    store::{Revocable, StoredCrl},
};

/// A list is good for so long, and a new one is made at half of it.
const LIFE: SignedDuration = SignedDuration::from_hours(24);
/// All lists are looked at this often: for what is half over, and what has expired.
const LOOK: Duration = Duration::from_secs(600);
/// Between two looks, since changes come in bursts.
const PAUSE: Duration = Duration::from_secs(2);
/// When some cannot be made.
const AGAIN: Duration = Duration::from_secs(30);
/// While lists cannot be made, others are tried for so long.
const TRYING: Duration = Duration::from_secs(5);
/// Connections for plain HTTP, all together.
const CONNECTIONS: usize = 256;
/// For one request and its answer.
const WITHIN: Duration = Duration::from_secs(10);

/// The lists as they are served, by the key of the authority.
pub(crate) type Crls = RwLock<BTreeMap<String, StoredCrl>>;

/// Organisations (none: the installation) whose revocations say something new.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    scopes: Mutex<BTreeSet<Option<OrgId>>>,
    notify: Notify,
}

impl Changed {
    pub(crate) fn note(&self, scope: Option<OrgId>) {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).insert(scope);
        self.notify.notify_one();
    }

    fn take(&self) -> BTreeSet<Option<OrgId>> {
        std::mem::take(&mut *self.scopes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why lists were not made.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The store cannot be used.
    #[error("CRLs cannot be made: the store cannot be used")]
    Store(#[from] StoreError),
    /// An authority's key cannot be used.
    #[error("CRLs cannot be made: the key of a certificate authority cannot be used")]
    Sign(#[from] IssueError),
}

/// What is listed, in short: a list with the same is not made again.
fn entries(revoked: &[RevokedCertificate]) -> String {
    let line = |RevokedCertificate { serial, since, reason }: &RevokedCertificate| {
        format!("{serial} {} {reason:?}\n", since.as_second())
    };
    let digest = Sha256::digest(revoked.iter().map(line).collect::<String>());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Controller {
    /// Makes the lists that say something new or are half over, and takes those that another controller has made; tells
    /// how many were made.
    ///
    /// # Errors
    /// [`CrlError`]: the first one. Lists that could be made are.
    pub async fn refresh_crls(&self) -> Result<usize, CrlError> {
        self.0.stores.revocations.forget_expired(self.now()).await?;
        self.refresh_crls_of(|_| true).await
    }

    async fn refresh_crls_of(&self, is_wanted: impl Fn(&Issuer) -> bool) -> Result<usize, CrlError> {
        let store = &self.0.stores.revocations;
        let now = self.now();
        let cut_off = store.revocations(None, now).await?;
        let cut_off: Vec<_> = cut_off
            .into_iter()
            .filter_map(|revocation| match revocation.what {
                Revocable::Org(org) => Some((org, revocation.since)),
                _ => None,
            })
            .collect();
        for (org, _) in &cut_off {
            // Made by another controller since this one was started: its authorities are to be listed all the same.
            let _ = self.0.authorities.open_org(org).await;
        }
        let issuers = self.hierarchy().issuers();
        let (mut made, mut failed, begun) = (0, None, Instant::now());
        for issuer in issuers.iter().filter(|issuer| now < issuer.not_after && is_wanted(issuer)) {
            match self.refresh_crl(issuer, authorities_below(issuer, &issuers, &cut_off), now).await {
                Ok(is_new) => made += usize::from(is_new),
                // One authority's keeps no other one's back.
                Err(error) => {
                    failed.get_or_insert(error);
                    if begun.elapsed() > TRYING {
                        break;
                    }
                }
            }
        }
        failed.map_or(Ok(made), Err)
    }

    /// Makes the list of one authority, if it says something new or is half over; else takes the one that there is.
    async fn refresh_crl(
        &self,
        issuer: &Issuer,
        below: impl Iterator<Item = RevokedCertificate>,
        now: Timestamp,
    ) -> Result<bool, CrlError> {
        let store = &self.0.stores.revocations;
        let mut revoked = store.revoked_certificates(&issuer.key, now).await?;
        revoked.extend(below);
        revoked.sort();
        let entries = entries(&revoked);
        let mut kept = store.crl(&issuer.key).await?;
        let half = SignedDuration::from_secs(LIFE.as_secs() / 2);
        let is_current =
            |kept: &StoredCrl| kept.entries == entries && now < kept.next_update.checked_sub(half).unwrap_or(now);
        let mut is_new = false;
        if !kept.as_ref().is_some_and(is_current) {
            let number = kept.as_ref().map_or(0, |kept| kept.number).saturating_add(1);
            let this_update = Timestamp::from_second(now.as_second()).unwrap_or(now);
            let next_update = this_update.checked_add(LIFE).unwrap_or(Timestamp::MAX);
            let contents = CrlContents { number, this_update, next_update, revoked };
            let Some(der) = self.hierarchy().sign_crl(&issuer.key, &contents).await? else { return Ok(false) };
            let der = Bytes::from(der.as_ref().to_vec());
            let crl = StoredCrl { issuer: issuer.key.clone(), number, entries, this_update, next_update, der };
            // Another controller may have been first: its list says the same, or the next look mends it.
            is_new = store.keep_crl(&crl).await?;
            kept = if is_new { Some(crl) } else { store.crl(&issuer.key).await? };
        }
        if let Some(crl) = kept {
            let mut crls = self.0.crls.write().unwrap_or_else(PoisonError::into_inner);
            crls.insert(issuer.key.0.clone(), crl);
        }
        Ok(is_new)
    }

    /// Makes lists in time, without end.
    pub(crate) async fn keep_crls(&self) {
        let mut all = true;
        loop {
            let scopes = self.0.crls_changed.take();
            for org in scopes.iter().flatten() {
                // Another controller may have made the organisation; should this fail, the next look mends it.
                let _ = self.0.authorities.open_org(org).await;
            }
            // What the installation's document says may be of any authority.
            let made = match all || scopes.contains(&None) {
                true => self.refresh_crls().await,
                false => self.refresh_crls_of(|issuer| issuer.org.is_some() && scopes.contains(&issuer.org)).await,
            };
            all = made.is_err();
            if let Err(error) = made {
                tracing::error!(error = &error as &dyn std::error::Error, "CRLs cannot be made now");
                if matches!(error, CrlError::Store(_)) {
                    self.0.counts.store_failed();
                }
                let _ = tokio::time::timeout(AGAIN, self.0.crls_changed.notify.notified()).await;
            } else {
                all = tokio::time::timeout(LOOK, self.0.crls_changed.notify.notified()).await.is_err();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `GET /crl/<issuer>.crl` (DER, `application/pkix-crl`), and `GET /crl` with the names of all, for anybody: lists are
    /// signed, and relied on by those who have no certificate of ours.
    pub fn crls(&self) -> Router {
        Router::new().route("/crl", get(list)).route("/crl/{file}", get(one)).with_state(self.clone())
    }

    /// Serves [`Self::crls`] over plain HTTP until `shutdown`, as RFC 5280 §4.2.1.13 has it; at the limit connections are
    /// closed.
    pub async fn serve_crls(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let (router, places) = (self.crls(), Arc::new(Semaphore::new(CONNECTIONS)));
        let accept = async {
            loop {
                let tcp = match listener.accept().await {
                    Ok((tcp, _)) => tcp,
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted; are there too many open files?");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let router = router.clone();
                tokio::spawn(async move {
                    let _place = place;
                    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        router.clone().oneshot(request.map(Body::new))
                    });
                    let mut http1 = hyper::server::conn::http1::Builder::new();
                    http1.timer(TokioTimer::new()).header_read_timeout(WITHIN).keep_alive(false);
                    let _ = tokio::time::timeout(WITHIN, http1.serve_connection(TokioIo::new(tcp), service)).await;
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = shutdown => {}
        }
    }
}

/// The authorities of organisations that are cut off are revoked by the one that has issued to them.
fn authorities_below<'a>(
    issuer: &'a Issuer,
    issuers: &'a [Issuer],
    cut_off: &'a [(OrgId, Timestamp)],
) -> impl Iterator<Item = RevokedCertificate> + 'a {
    let below = issuers.iter().filter(|below| below.above.as_ref() == Some(&issuer.key));
    below.filter_map(|below| {
        let (_, since) = cut_off.iter().find(|(org, _)| below.org.as_ref() == Some(org))?;
        let reason = CrlReason::CertificateHold;
        Some(RevokedCertificate { serial: below.serial.clone(), since: *since, reason })
    })
}

async fn list(State(controller): State<Controller>) -> Response {
    let crls = controller.0.crls.read().unwrap_or_else(PoisonError::into_inner).clone();
    let crls: Vec<_> = crls
        .values()
        .map(|crl| {
            serde_json::json!({
                "issuer": crl.issuer.0,
                "path": format!("/crl/{}.crl", crl.issuer.0),
                "number": crl.number,
                "this_update": crl.this_update,
                "next_update": crl.next_update,
            })
        })
        .collect();
    axum::Json(crls).into_response()
}

async fn one(State(controller): State<Controller>, Path(file): Path<String>) -> Response {
    let crls = controller.0.crls.read().unwrap_or_else(PoisonError::into_inner);
    let Some(crl) = file.strip_suffix(".crl").and_then(|issuer| crls.get(issuer)) else {
        drop(crls);
        return refuse(StatusCode::NOT_FOUND, "there is no such list; see /crl for those that there are");
    };
    let mut response = Response::new(Body::from(crl.der.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    response
}
