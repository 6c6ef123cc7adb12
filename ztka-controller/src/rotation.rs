//! Rotation of certificate authorities: what all controllers go by, the steps that are taken by themselves, and whom
//! they wait for.
mod acknowledge;
mod confirm;
mod population;

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use ztka_audit::{Event, ResponseStatus, Stage};
use ztka_core::{AuditId, OrgId};
use ztka_pki::{AuthorityName, RotationError, Rotator};

pub(crate) use self::acknowledge::route;
use crate::{Controller, authority::Stored};

/// Between two looks at whom a rotation waits for.
const STEP: Duration = Duration::from_secs(1);
/// Between two looks at whether an authority has become old.
const OLD: SignedDuration = SignedDuration::from_mins(10);

impl Controller {
    /// Takes the steps of rotations.
    pub(crate) fn rotator(&self) -> Rotator {
        let states = Arc::new(Stored(self.0.stores.authorities.clone()));
        Rotator::new(self.hierarchy().clone(), states, Arc::new(self.clone()), self.0.provider.clone())
    }

    /// Goes by the authorities that are stored, whoever has changed them.
    ///
    /// # Errors
    /// [`RotationError`]; what was gone by stays so.
    pub async fn refresh_authorities(&self) -> Result<(), RotationError> {
        self.rotator().refresh().await?;
        self.trust_authorities();
        Ok(())
    }

    /// Our own listeners believe whom the `trust` document names.
    pub(crate) fn trust_authorities(&self) {
        let bundle = self.hierarchy().trust_bundle();
        if *self.trust().bundle() == bundle {
            return;
        }
        if let Err(error) = self.trust().set_bundle(bundle) {
            tracing::error!(%error, "the certificate authorities cannot be used");
        }
    }

    /// Takes the steps of automatic rotations for which nobody has to be waited for, and begins those of authorities that
    /// have lived for two thirds of their life; tells what was done. [`Self::run`] does so from time to time.
    ///
    /// # Errors
    /// [`RotationError`]; the steps before are taken.
    pub async fn advance_rotations(&self) -> Result<Vec<(AuthorityName, &'static str)>, RotationError> {
        let advanced = self.rotator().advance().await;
        self.trust_authorities();
        let taken = advanced?;
        for (name, step) in &taken {
            tracing::info!(authority = %name, step, "a rotation goes on");
            self.0.journal.note(self.step_event(name, step));
            self.0.changed.notify_one();
        }
        Ok(taken)
    }

    fn step_event(&self, name: &AuthorityName, step: &str) -> Event {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, self.now());
        event.verb = "rotate".into();
        event.request_uri = format!("/api/v1/pki/authorities/{name}/{step}");
        event.user.username = format!("controller/{}", self.0.settings.id);
        event.response_status = Some(ResponseStatus::from(http::StatusCode::OK));
        event.annotations.set("org", OrgId::installation().as_str());
        event.annotations.set("decision", "allow");
        event.annotations.set("reason", "nobody had to be waited for any more");
        event
    }

    /// Takes steps by itself, without end.
    pub(crate) async fn rotate(&self) {
        let mut looked = None;
        loop {
            let state = self.hierarchy().state();
            let busy = !state.rotations.is_empty() || state.announcer.is_some() || !state.discarded.is_empty();
            let now = self.now();
            let old = looked.is_none_or(|looked| now.duration_since(looked) > OLD);
            if busy || old {
                looked = Some(now);
                match self.advance_rotations().await {
                    // Another controller was a moment earlier.
                    Ok(_) | Err(RotationError::Conflict) => {}
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "a rotation does not go on");
                    }
                }
            }
            if let Err(error) = self.confirm_trust().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "others do not know what is gone by here");
            }
            tokio::time::sleep(STEP).await;
        }
    }
}
