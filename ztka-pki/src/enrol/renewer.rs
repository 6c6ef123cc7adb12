//! Renews a credential in good time, for as long as it runs.

use std::{fmt, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::crypto::CryptoProvider;
use ztka_core::Clock;

use super::{
    client::{EnrolError, Enrolled, accept, ask},
    exchange::Exchange,
    keep::{CredentialStore, StoredCredential},
    wire::{RENEW_PATH, RenewalRequest},
};
use crate::{credential::Credential, credential::CredentialSource, key::SoftwareKey};

/// The clock is looked at this often, in case it is set.
const LOOK: SignedDuration = SignedDuration::from_secs(30);

/// Hears how renewal goes, for logs and metrics, and for the trust that comes with it.
pub trait RenewalObserver: Send + Sync + fmt::Debug {
    /// A certificate was renewed; it is stored and in use.
    fn renewed(&self, renewed: &Enrolled);

    /// An attempt failed; the next one is in `again`.
    fn failed(&self, error: &EnrolError, again: Duration);
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
        let mut next = due(&self.source.current());
        loop {
            self.sleep_until(next).await;
            let (now, expires) = (self.clock.now(), self.source.current().not_after());
            if expires <= now {
                return RenewalEnd::Expired;
            }
            match self.renew().await {
                Ok(()) => {
                    failures = 0;
                    next = due(&self.source.current());
                }
                Err(error) if error.is_final() => return RenewalEnd::Refused(error),
                Err(error) => {
                    let again = backoff(failures, expires.duration_since(now));
                    failures += 1;
                    self.observer.failed(&error, again.unsigned_abs());
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

    async fn sleep_until(&self, at: Timestamp) {
        loop {
            let left = at.duration_since(self.clock.now());
            if left <= SignedDuration::ZERO {
                return;
            }
            tokio::time::sleep(left.min(LOOK).unsigned_abs()).await;
        }
    }
}

/// At 60 to 66.7 % of its life, so that a fleet that was enrolled at once does not come back at once.
fn due(credential: &Credential) -> Timestamp {
    let (issued, expires) = (credential.issued(), credential.not_after());
    let share = 0.60 + random() * (2.0 / 3.0 - 0.60);
    let wait = expires.duration_since(issued).mul_f64(share);
    issued.checked_add(wait).unwrap_or(expires)
}

/// Full jitter over 2, 4, 8, … seconds, up to five minutes and to a tenth of what is left; at least half a second.
fn backoff(failures: u32, left: SignedDuration) -> SignedDuration {
    let longest = SignedDuration::from_secs(2_i64 << failures.min(10)).min(SignedDuration::from_mins(5)).min(left / 10);
    longest.mul_f64(random()).max(SignedDuration::from_millis(500))
}

/// From 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all members come at once, which is no reason not to come at all.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
