//! The trust of the moment, which verifiers read at every handshake.

use std::{collections::HashMap, sync::Arc};

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;
use ztka_core::{Clock, OrgId, Subject, Verified};

use super::{Revocations, TrustBundle};
use crate::{
    Purpose,
    peer::{BadBundle, Peer, PeerError, PeerVerifier},
    x509::Facts,
};

/// Anchors and revocations as they are now. A handle: clones share what is set.
#[derive(Clone, Debug)]
pub struct TrustSource {
    state: Arc<watch::Sender<Arc<State>>>,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State {
    bundle: Arc<TrustBundle>,
    verifiers: HashMap<Purpose, PeerVerifier>,
    revocations: HashMap<Option<OrgId>, Arc<Revocations>>,
}

impl TrustSource {
    /// Begins with `bundle` and without revocations.
    ///
    /// # Errors
    /// [`BadBundle`] if an anchor is not a certificate.
    pub fn new(bundle: TrustBundle, provider: Arc<CryptoProvider>, clock: Arc<dyn Clock>) -> Result<Self, BadBundle> {
        let verifiers = verifiers(&bundle, &provider)?;
        let state = State { bundle: Arc::new(bundle), verifiers, revocations: HashMap::new() };
        Ok(Self { state: Arc::new(watch::Sender::new(Arc::new(state))), provider, clock })
    }

    /// Replaces the anchors, for all handshakes from now on.
    ///
    /// # Errors
    /// [`BadBundle`] if an anchor is not a certificate; what was held stays then.
    pub fn set_bundle(&self, bundle: TrustBundle) -> Result<(), BadBundle> {
        let verifiers = verifiers(&bundle, &self.provider)?;
        let bundle = Arc::new(bundle);
        self.state.send_modify(|state| {
            let revocations = state.revocations.clone();
            *state = Arc::new(State { bundle, verifiers, revocations });
        });
        Ok(())
    }

    /// Replaces the revocations of one organisation, which concern its own peers only, or (`None`) of the installation.
    pub fn set_revocations(&self, scope: Option<OrgId>, revocations: Revocations) {
        self.state.send_modify(|state| {
            let (bundle, verifiers) = (state.bundle.clone(), state.verifiers.clone());
            let mut all = state.revocations.clone();
            all.insert(scope, Arc::new(revocations));
            *state = Arc::new(State { bundle, verifiers, revocations: all });
        });
    }

    /// The bundle in force.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.state.borrow().bundle.clone()
    }

    /// Who presented this chain, which must be of `purpose`, valid now and not revoked.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn verify(&self, purpose: Purpose, chain: &[CertificateDer<'_>]) -> Result<Verified<Peer>, PeerError> {
        let peer = self.identify(purpose, chain)?;
        if self.is_revoked(&peer) { Err(PeerError::Revoked) } else { Ok(peer) }
    }

    /// As [`Self::verify`], but revoked peers are told as well: ask [`Self::is_revoked`] before every use.
    ///
    /// For listeners that want to tell a user why they are refused instead of breaking the connection.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn identify(&self, purpose: Purpose, chain: &[CertificateDer<'_>]) -> Result<Verified<Peer>, PeerError> {
        let state = self.state.borrow().clone();
        let verifier = state.verifiers.get(&purpose).ok_or(PeerError::Untrusted)?;
        verifier.verify(chain, self.clock.now())
    }

    /// True once the peer's certificate, or what it is issued to, is revoked. Cheap: fit for every request.
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        let state = self.state.borrow();
        if peer.authorities.iter().any(|authority| state.bundle.revoked.contains(authority)) {
            return true;
        }
        let org = match &peer.id.subject {
            Subject::Agent { org, .. } | Subject::User { org, .. } => Some(org.clone()),
            Subject::Proxy(_) | Subject::Controller(_) => None,
        };
        let revoked = |scope| state.revocations.get(scope).is_some_and(|revoked| revoked.is_revoked(peer));
        revoked(&None) || (org.is_some() && revoked(&org))
    }

    /// Checks a server's chain against the anchors of `purpose` and its name.
    pub(crate) fn verify_server(
        &self,
        purpose: Purpose,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: jiff::Timestamp,
    ) -> Result<(), PeerError> {
        let state = self.state.borrow().clone();
        let verifier = state.verifiers.get(&purpose).ok_or(PeerError::Untrusted)?;
        match verifier.verify_server(chain, name, now)? {
            Some(peer) if self.is_revoked(&peer) => Err(PeerError::Revoked),
            Some(_) => Ok(()),
            // Servers known by DNS names are revoked one by one.
            None => {
                let leaf = chain.first().and_then(Facts::read).ok_or(PeerError::Unreadable)?;
                let revoked = state.revocations.get(&None).is_some_and(|held| held.serials.contains(&leaf.serial));
                if revoked { Err(PeerError::Revoked) } else { Ok(()) }
            }
        }
    }

    /// Who presented this chain at `now`, revoked or not.
    pub(crate) fn verify_client(
        &self,
        purpose: Purpose,
        chain: &[CertificateDer<'_>],
        now: jiff::Timestamp,
    ) -> Result<Verified<Peer>, PeerError> {
        let state = self.state.borrow().clone();
        let verifier = state.verifiers.get(&purpose).ok_or(PeerError::Untrusted)?;
        verifier.verify(chain, now)
    }

    /// Wakes when anchors or revocations change, so that what was let in before can be checked again.
    pub fn changes(&self) -> TrustChanges {
        TrustChanges(self.state.subscribe())
    }

    /// The clock that certificates are held against.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// See [`TrustSource::changes`].
#[derive(Debug)]
pub struct TrustChanges(watch::Receiver<Arc<State>>);

impl TrustChanges {
    /// Resolves at the next change since this was made or last resolved; never once the source is gone.
    ///
    /// Cancel safe: a change is not lost when the future is dropped.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn verifiers(
    bundle: &TrustBundle,
    provider: &Arc<CryptoProvider>,
) -> Result<HashMap<Purpose, PeerVerifier>, BadBundle> {
    let verifier = |purpose| Ok((purpose, PeerVerifier::new(bundle, purpose, provider.clone())?));
    Purpose::ALL.into_iter().map(verifier).collect()
}
