//! A hierarchy's authorities as one process holds them, and the trust that follows.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use ztka_core::{KeyId, OrgId};

use super::{AuthorityName, HierarchyState, Kept, Phase, StoredAuthority, UNREADABLE_ROOT};
use crate::{
    Purpose,
    authority::{CertificateAuthority, IssueError},
    key::{KeyName, KeyStore},
    tls::CaPin,
    trust::{Anchor, SigningKey, TrustBundle},
    x509,
};

/// What is stored, opened.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) state: HierarchyState,
    pub(super) root: CertificateDer<'static>,
    pub(super) pin: CaPin,
    pub(super) purposes: BTreeMap<Purpose, Kept>,
    /// On their way in or out, with the organisation that they are of; only those whose key is to be had.
    pub(super) standby: Vec<(CertificateAuthority, Option<OrgId>)>,
    /// Signs the `trust` document, if it is not the one that signs all others: whoever has not heard of that one yet
    /// believes this one.
    announcer: Option<Kept>,
    /// What servers present above their own certificate.
    pub(super) server_chain: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
}

pub(super) async fn open_authority(stored: &StoredAuthority, keys: &dyn KeyStore) -> Result<Kept, IssueError> {
    let key: KeyName = stored.key.parse()?;
    let signer = keys.open(&key).await?;
    let authority = CertificateAuthority::new(stored.certificate()?, signer)?;
    Ok(Kept { key, authority, above: stored.above() })
}

impl Held {
    pub(super) async fn open(state: HierarchyState, keys: &dyn KeyStore) -> Result<Arc<Self>, IssueError> {
        state.names.check()?;
        let root = state.root.certificate()?;
        let pin = CaPin::of(&root).ok_or(IssueError::State(UNREADABLE_ROOT))?;
        let mut purposes = BTreeMap::new();
        for purpose in Purpose::ALL {
            let stored = state.purposes.get(&purpose);
            let stored = stored.ok_or(IssueError::State("the stored hierarchy lacks an intermediate"))?;
            purposes.insert(purpose, open_authority(stored, keys).await?);
        }
        let mut standby = Vec::new();
        for (name, rotation) in state.rotations.iter().filter(|(_, rotation)| rotation.phase != Phase::Requested) {
            let org = match name {
                AuthorityName::Root => continue,
                AuthorityName::Purpose(_) => None,
                AuthorityName::Org(_, org) => Some(org.clone()),
            };
            if let Ok(kept) = open_authority(&rotation.standby, keys).await {
                standby.push((kept.authority, org));
            }
        }
        let signing = state.rotations.get(&AuthorityName::Purpose(Purpose::Signing));
        let outgoing = signing.filter(|rotation| rotation.phase == Phase::Activated && !rotation.reversed);
        let outgoing = outgoing.map(|rotation| &rotation.standby);
        let announcer = match state.announcer.as_ref().map(|announcer| &announcer.authority).or(outgoing) {
            Some(stored) => Some(open_authority(stored, keys).await?),
            None => None,
        };
        let server_chain = server_chain(&state, &root)?;
        let bundle = bundle(&state, &root, &purposes, &server_chain)?;
        Ok(Arc::new(Self { state, root, pin, purposes, standby, announcer, server_chain, bundle }))
    }

    pub(super) fn purpose(&self, purpose: Purpose) -> Result<&Kept, IssueError> {
        self.purposes.get(&purpose).ok_or(IssueError::State("the hierarchy lacks an intermediate"))
    }

    /// Who signs the `trust` document.
    pub(super) fn announcer(&self) -> Result<&CertificateAuthority, IssueError> {
        let announcer = self.announcer.as_ref();
        Ok(&announcer.map_or_else(|| self.purpose(Purpose::Signing), Ok)?.authority)
    }

    pub(super) fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The new root's key certified by the old root, while the root is rotated: between an authority of the new one and who
    /// knows the old one alone.
    pub(super) fn cross(&self) -> Vec<CertificateDer<'static>> {
        let rotation = self.state.rotations.get(&AuthorityName::Root);
        let activated = rotation.filter(|rotation| rotation.phase == Phase::Activated && !rotation.reversed);
        let cross = activated.and_then(|rotation| x509::from_pem(rotation.root.as_ref()?.cross.as_bytes()));
        cross.unwrap_or_default()
    }

    /// Since when documents are signed by the key that signs now, if that has changed and matters.
    pub(super) fn signing_since(&self) -> Option<Timestamp> {
        let rotation = self.state.rotations.get(&AuthorityName::Purpose(Purpose::Signing));
        let activated = rotation.filter(|rotation| rotation.phase == Phase::Activated).map(|rotation| rotation.since);
        activated.max(self.state.announcer.as_ref().map(|announcer| announcer.since))
    }
}

/// The roots that kubeconfigs are given: also one that is on its way in or out.
fn roots(state: &HierarchyState, root: &CertificateDer<'static>) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let mut roots = vec![root.clone()];
    if let Some(rotation) = state.rotations.get(&AuthorityName::Root).filter(|known| known.phase != Phase::Requested) {
        roots.push(rotation.standby.certificate()?);
    }
    Ok(roots)
}

/// The servers' intermediate, what is above it, and the root, because first contact pins the root by its key alone. For
/// who knows the old root only, the new one's key certified by the old.
fn server_chain(
    state: &HierarchyState,
    root: &CertificateDer<'static>,
) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let lacks = IssueError::State("the stored hierarchy lacks an intermediate");
    let servers = state.purposes.get(&Purpose::Servers).ok_or(lacks)?;
    let mut chain = vec![servers.certificate()?];
    chain.extend(servers.above());
    let rotation = state.rotations.get(&AuthorityName::Root);
    match rotation.filter(|rotation| rotation.phase == Phase::Activated && !rotation.reversed) {
        Some(rotation) => {
            let cross = rotation.root.as_ref().and_then(|change| x509::from_pem(change.cross.as_bytes()));
            chain.extend(cross.ok_or(IssueError::State("the stored rotation of the root lacks a cross-certificate"))?);
            chain.push(rotation.standby.certificate()?);
        }
        None => chain.push(root.clone()),
    }
    Ok(chain)
}

fn bundle(
    state: &HierarchyState,
    root: &CertificateDer<'static>,
    purposes: &BTreeMap<Purpose, Kept>,
    server_chain: &[CertificateDer<'static>],
) -> Result<TrustBundle, IssueError> {
    let trust_domain = state.names.trust_domain.clone();
    let roots = roots(state, root)?.into_iter().map(Into::into).collect();
    let server_chain = server_chain.iter().cloned().map(Into::into).collect();
    let mut bundle = TrustBundle { trust_domain, roots, server_chain, ..TrustBundle::default() };
    for (purpose, kept) in purposes {
        let spiffe_prefix = purpose.spiffe_prefix(&bundle.trust_domain);
        let anchor = |certificate: CertificateDer<'static>| Anchor {
            certificate: certificate.into(),
            spiffe_prefix: spiffe_prefix.clone(),
        };
        let mut anchors = vec![anchor(kept.authority.certificate().clone())];
        let rotation = state.rotations.get(&AuthorityName::Purpose(*purpose));
        if let Some(rotation) = rotation.filter(|rotation| rotation.phase != Phase::Requested) {
            anchors.push(anchor(rotation.standby.certificate()?));
        }
        bundle.anchors.insert(*purpose, anchors);
    }
    if let Some(signing) = purposes.get(&Purpose::Signing) {
        bundle.signing_keys.push(SigningKey::of(signing.authority.public_key()));
    }
    for (name, rotation) in &state.rotations {
        if rotation.phase == Phase::Requested {
            continue;
        }
        let facts = rotation.standby.facts()?;
        if *name == AuthorityName::Purpose(Purpose::Signing) {
            bundle.signing_keys.push(SigningKey::of_spki(&facts.spki));
        } else if *name != AuthorityName::Root && rotation.phase == Phase::Activated {
            bundle.retiring.insert(crate::key::key_id(&facts.spki));
        }
    }
    let withdrawn = |revoked| -> std::collections::BTreeSet<KeyId> {
        state.withdrawn.iter().filter(|known| known.revoked == revoked).map(|known| known.key.clone()).collect()
    };
    (bundle.retired, bundle.revoked) = (withdrawn(false), withdrawn(true));
    Ok(bundle)
}
