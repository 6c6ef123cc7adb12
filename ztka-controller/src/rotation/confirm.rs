//! A controller says which authorities it goes by, for the others over the same store to wait for.

use std::sync::PoisonError;

use jiff::SignedDuration;
use ztka_core::Subject;
use ztka_identity::StoreError;
use ztka_pki::Purpose;

use crate::{Controller, store::Acknowledgement};

/// It says so again after this long, so that it is known to be there.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

impl Controller {
    /// Confirms the newest `trust` document, if this controller goes by what it says: at once, and every five seconds.
    ///
    /// [`Self::run`] does so from time to time, and takes it back when it ends.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn confirm_trust(&self) -> Result<(), StoreError> {
        let now = self.now();
        let document = self.0.trust_document.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(document) = document else { return Ok(()) };
        let trust = document.header().revision;
        let own = |name| self.0.own.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let peer = own("controller")
            .and_then(|source| self.trust().identify(Purpose::Controllers, source.current().chain()).ok());
        let authorities = peer.map(|peer| peer.authorities.clone()).unwrap_or_default();
        let server_chain = own("servers").map(|source| source.current().above_id());
        let said = Acknowledgement { trust, authorities, server_chain, at: now };
        let is_known = {
            let last = self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |last: &Acknowledgement| Acknowledgement { at: last.at, ..said.clone() } == *last;
            last.as_ref().is_some_and(|last| same(last) && now.duration_since(last.at) < AGAIN)
        };
        if is_known {
            return Ok(());
        }
        // What is stored says at least what was published. Authorities that cannot be opened here (the token with their keys
        // is away) are not gone by.
        let stored = self.0.stores.authorities.hierarchy().await?.map(|stored| stored.generation);
        let goes_by_it = stored == Some(self.hierarchy().state().generation);
        if !goes_by_it || *self.trust().bundle() != self.hierarchy().trust_bundle() {
            return Ok(());
        }
        self.0.stores.members.acknowledge(&Subject::Controller(self.0.settings.id.clone()), &said).await?;
        *self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        Ok(())
    }

    /// Nobody is to wait for this controller any more.
    pub(crate) async fn leave(&self) {
        if let Err(error) = self.0.stores.members.forget_controller(&self.0.settings.id).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "others wait for this controller for a moment");
        }
    }
}
