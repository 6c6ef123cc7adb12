//! Renews a credential in good time, for as long as it runs.

use std::{fmt, sync::Arc, time::Duration};

use rustls::crypto::CryptoProvider;
use ztka_core::Clock;

use super::{
    client::{EnrolError, Enrolled, accept, ask},
    exchange::Exchange,
    keep::{CredentialStore, StoredCredential},
    schedule::{RenewalStatus, backoff, due_of, sleep_until},
    wire::{RENEW_PATH, RenewalRequest},
};
use crate::{credential::CredentialSource, key::SoftwareKey};

/// Hears how renewal goes, for logs and metrics, and for the trust that comes with it.
pub trait RenewalObserver: Send + Sync + fmt::Debug {
    /// A certificate was renewed; it is stored and in use.
    fn renewed(&self, renewed: &Enrolled);

    /// An attempt failed; the next one is in `again`.
    fn failed(&self, error: &EnrolError, again: Duration);

    /// Attempts have failed for a third of what was left when renewal was due: somebody has to look. Called at each
    /// failure from then on, after [`Self::failed`].
    fn overdue(&self, error: &EnrolError, status: RenewalStatus) {
        let _ = (error, status);
    }
}

/// Why renewal is over: a new token is needed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewalEnd {
    /// The controller refuses.
    #[error("the controller refuses to renew the certificate; join again with a new enrolment token")]
    Refused(#[source] EnrolError),
    /// No renewal succeeded in time.
    #[error("the certificate has expired before it could be renewed; join again with a new enrolment token")]
    Expired,
}

/// Renews at two thirds of a certificate's life, a little earlier at random; with a new key each time.
///
/// What is stored is always what is in use or newer: the new credential is stored before it is put into the source.
#[derive(Debug)]
pub struct Renewer {
    source: CredentialSource,
    store: Arc<dyn CredentialStore>,
    exchange: Arc<dyn Exchange>,
    observer: Arc<dyn RenewalObserver>,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
}

impl Renewer {
    /// Renews what is in `source` by `exchange`, which has to connect with the credential of `source`.
    pub fn new(
        source: CredentialSource,
        store: Arc<dyn CredentialStore>,
        exchange: Arc<dyn Exchange>,
        observer: Arc<dyn RenewalObserver>,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { source, store, exchange, observer, provider, clock }
    }

    /// Renews until that is no longer possible. Dropping the future stops it; a renewal on its way is then lost, which
    /// harms nothing.
    pub async fn run(&self) -> RenewalEnd {
        let mut failures = 0;
        let mut next = due_of(&self.source.current());
        loop {
            sleep_until(&*self.clock, next).await;
            let (now, expires) = (self.clock.now(), self.source.current().not_after());
            if expires <= now {
                return RenewalEnd::Expired;
            }
            match self.renew().await {
                Ok(()) => {
                    failures = 0;
                    next = due_of(&self.source.current());
                }
                Err(error) if error.is_final() => return RenewalEnd::Refused(error),
                Err(error) => {
                    let again = backoff(failures, expires.duration_since(now));
                    failures += 1;
                    self.observer.failed(&error, again.unsigned_abs());
                    let status = RenewalStatus::of(&self.source.current(), self.clock.now());
                    if status.overdue {
                        self.observer.overdue(&error, status);
                    }
                    next = self.clock.now().checked_add(again).unwrap_or(expires).min(expires);
                }
            }
        }
    }

    /// Renews once, now.
    ///
    /// # Errors
    /// [`EnrolError`]; the old credential stays in use then.
    pub async fn renew(&self) -> Result<(), EnrolError> {
        let key = SoftwareKey::generate(&self.provider)?;
        let request = RenewalRequest { csr: key.csr_pem()? };
        let answer = ask(&*self.exchange, RENEW_PATH, &request).await?;
        let name = self.source.current().id();
        let renewed = accept(answer, &key, &self.provider, &*self.clock, name.as_ref())?;
        self.store.save(&StoredCredential::of(&renewed.credential, &key, renewed.trust.clone())).await?;
        self.source.rotate(renewed.credential.clone());
        self.observer.renewed(&renewed);
        Ok(())
    }
}
