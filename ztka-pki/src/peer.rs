//! Who is behind a certificate chain.

mod as_caller;
mod as_proxy;
mod known;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use ztka_core::{KeyId, SpiffeId, Subject, Verified};

use self::known::{Digest, Known};
use crate::{Purpose, key, trust::TrustBundle, x509::Facts};

/// Leaf, an organisation's and a purpose's intermediate, and what rotation adds.
const MAX_CHAIN: usize = 6;

/// What a leaf is used for; it has to say so, while an authority that says nothing restricts nothing (RFC 5280
/// §4.2.1.12).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Client,
    Server,
}

impl Usage {
    pub(crate) fn of_path(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    pub(crate) fn is_of(self, leaf: &Facts) -> bool {
        match self {
            Self::Client => leaf.client,
            Self::Server => leaf.server,
        }
    }
}

/// Whom a chain was issued to. As `Verified<Peer>`: the chain was valid when it was looked at; hold it against
/// [`Revocations`](crate::Revocations) and `not_after` for as long as the connection lives.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    /// The name.
    pub id: SpiffeId,
    /// Serial number of the leaf, in lower-case hexadecimal, two digits for each byte of the number.
    pub serial: String,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki: KeyId,
    /// Keys of the authorities that the chain was verified by: the leaf's issuer first, the anchor last.
    pub authorities: Vec<KeyId>,
}

/// Why a chain is not believed. Exhaustive.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// No certificate, or more than any chain of ours has.
    #[error("the certificate chain is empty or too long")]
    Length,
    /// Not a certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// Nothing leads from it to an anchor of the purpose: another installation's, or issued for something else.
    #[error("the certificate is not issued by an authority that is trusted for this purpose")]
    Untrusted,
    /// Over.
    #[error("the certificate has expired; renew it, and check the clocks of both sides")]
    Expired,
    /// Not begun.
    #[error("the certificate is not valid yet; check the clocks of both sides")]
    NotYetValid,
    /// A server's certificate used by a client, or the other way round; an authority used as an end entity.
    #[error("the certificate is not for this use")]
    Use,
    /// Its name is none that its issuer may give.
    #[error("the certificate has a name that its issuer may not give")]
    Name,
    /// The server is not the one that was asked for.
    #[error("the certificate is for another server name")]
    ServerName,
    /// More authorities below one than it allows.
    #[error("the certificate chain is longer than one of its authorities allows (RFC 5280 §4.2.1.9)")]
    PathLength,
    /// A rule of RFC 5280 is broken.
    #[error("the certificate chain breaks a rule of RFC 5280")]
    Invalid,
    /// Revoked.
    #[error("the certificate is revoked; enrol again")]
    Revoked,
}

/// A trust document with something in it that is not a certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an anchor of purpose {purpose} in the trust document is not a usable CA certificate")]
pub struct BadBundle {
    purpose: Purpose,
}

/// What an anchor may be used for beyond what its key has signed.
#[derive(Clone, Debug)]
struct Limit {
    key: KeyId,
    prefix: Option<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What a path has shown.
struct Path {
    /// None of a server that is known by DNS names.
    peer: Option<Verified<Peer>>,
    /// The end of the first of its certificates that ends.
    until: Timestamp,
}

/// Verifies chains of one purpose against its intermediates: signatures, validity, use, path length, and that the one
/// URI name is within what its issuers may give.
///
/// A client's chain that it has verified a while ago, byte for byte, is only held against the clock again: kubectl
/// connects anew for each command. Clones share what is known; another bundle is another verifier, that knows nothing.
#[derive(Clone, Debug)]
pub struct PeerVerifier {
    purpose: Purpose,
    trust_domain: Arc<str>,
    anchors: Arc<[TrustAnchor<'static>]>,
    limits: Arc<[Limit]>, // of the anchors, in their order
    /// Authorities below an anchor that are not believed any more.
    withdrawn: Arc<BTreeSet<KeyId>>,
    provider: Arc<CryptoProvider>,
    known: Arc<Known>,
}

impl PeerVerifier {
    /// Anchors at the intermediates that `bundle` has for `purpose`; without any, nothing is believed.
    ///
    /// # Errors
    /// [`BadBundle`]
    pub fn new(bundle: &TrustBundle, purpose: Purpose, provider: Arc<CryptoProvider>) -> Result<Self, BadBundle> {
        let trusted = |anchor: &crate::trust::Anchor| {
            let certificate = anchor.certificate.certificate();
            let read = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| BadBundle { purpose })?;
            Ok(read.to_owned())
        };
        let anchors = bundle.anchors(purpose).iter().map(trusted).collect::<Result<_, _>>()?;
        let limit = |anchor: &crate::trust::Anchor| {
            let facts = Facts::read(&anchor.certificate.certificate()).ok_or(BadBundle { purpose })?;
            let prefix = anchor.spiffe_prefix.clone();
            Ok(Limit {
                key: key::key_id(&facts.spki),
                prefix,
                not_before: facts.not_before,
                not_after: facts.not_after,
            })
        };
        let limits = bundle.anchors(purpose).iter().map(limit).collect::<Result<_, _>>()?;
        let withdrawn = Arc::new(bundle.retired.union(&bundle.revoked).cloned().collect());
        let (trust_domain, known) = (bundle.trust_domain.as_str().into(), Arc::default());
        Ok(Self { purpose, trust_domain, anchors, limits, withdrawn, provider, known })
    }

    /// Whom `chain` (leaf first) was issued to as a client, if it is valid at `now`. Revocation is not looked at here.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Verified<Peer>, PeerError> {
        // What is too long is not even hashed.
        if chain.len() > MAX_CHAIN {
            return Err(PeerError::Length);
        }
        let digest = Digest::of(chain);
        if let Some(peer) = self.known.peer(&digest, now) {
            return Ok(peer);
        }
        let Path { peer, until } = self.path(chain, now, Usage::Client, None)?;
        let peer = peer.ok_or(PeerError::Name)?;
        self.known.learn(digest, &peer, now..=until);
        Ok(peer)
    }

    /// Checks the chain of the server `name` (leaf first) at `now`; tells who it is where servers of this purpose have a
    /// SPIFFE id. Revocation is not looked at here.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn verify_server(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: Timestamp,
    ) -> Result<Option<Verified<Peer>>, PeerError> {
        self.path(chain, now, Usage::Server, Some(name)).map(|path| path.peer)
    }

    fn path(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
        usage: Usage,
        name: Option<&ServerName<'_>>,
    ) -> Result<Path, PeerError> {
        let (leaf, above) = chain.split_first().ok_or(PeerError::Length)?;
        if chain.len() > MAX_CHAIN {
            return Err(PeerError::Length);
        }
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| explain(&error))?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let path = certificate
            .verify_for_usage(algorithms, &self.anchors, above, unix(now), usage.of_path(), None, None)
            .map_err(|error| explain(&error))?;
        if let Some(name) = name {
            certificate.verify_is_valid_for_subject_name(name).map_err(|_| PeerError::ServerName)?;
        }
        let facts = Facts::of_verified(leaf).ok_or(PeerError::Unreadable)?;
        if !usage.is_of(&facts) {
            return Err(PeerError::Use);
        }
        let between = between(&path)?;
        let limit = self.limit(&path, now)?;
        let mut authorities: Vec<_> = between.iter().map(|authority| key::key_id(&authority.spki)).collect();
        authorities.push(limit.key.clone());
        if authorities.iter().any(|authority| self.withdrawn.contains(authority)) {
            return Err(PeerError::Untrusted);
        }
        let id = self.name(&facts, &between, limit)?;
        let until = between.iter().map(|authority| authority.not_after).fold(limit.not_after, Timestamp::min);
        let until = until.min(facts.not_after);
        let peer = id.map(|id| {
            let spki = key::key_id(&facts.spki);
            Verified::assertion(Peer { id, serial: facts.serial, not_after: facts.not_after, spki, authorities })
        });
        Ok(Path { peer, until })
    }

    /// What the path's anchor may be used for, if it is valid itself: what it has issued is valid no longer than it is.
    /// An anchor may be there twice, renewed with the same key.
    fn limit(&self, path: &VerifiedPath<'_>, now: Timestamp) -> Result<&Limit, PeerError> {
        let key = &path.anchor().subject_public_key_info;
        let mut refusal = PeerError::Untrusted;
        for (anchor, limit) in self.anchors.iter().zip(&*self.limits) {
            match anchor.subject_public_key_info == *key {
                false => {}
                true if now < limit.not_before => refusal = PeerError::NotYetValid,
                true if now > limit.not_after => refusal = PeerError::Expired,
                true => return Ok(limit),
            }
        }
        Err(refusal)
    }

    /// Name constraints cannot restrict URI names, so this does: one SPIFFE id, of this purpose's form, of the trust
    /// domain, below the anchor's prefix, and of the organisation that the intermediate in between is bound to.
    fn name(&self, facts: &Facts, between: &[Facts], limit: &Limit) -> Result<Option<SpiffeId>, PeerError> {
        let Some(prefix) = &limit.prefix else {
            // DNS names only; their name constraint was checked with the path.
            let named = self.purpose == Purpose::Servers && facts.uris.is_empty() && !facts.foreign;
            return if named { Ok(None) } else { Err(PeerError::Name) };
        };
        let ([uri], false) = (facts.uris.as_slice(), facts.foreign) else { return Err(PeerError::Name) };
        let id: SpiffeId = uri.parse().map_err(|_| PeerError::Name)?;
        let bound = match (self.purpose.is_per_org(), between) {
            (true, [org]) => match (org.uris.as_slice(), org_of(&id)) {
                ([bound], Some(of)) => *bound == format!("spiffe://{}/org/{of}", self.trust_domain),
                _ => false,
            },
            (false, []) => true,
            _ => false,
        };
        let dns = facts.dns.is_empty() || !self.purpose.is_per_org();
        let fits = *id.trust_domain == *self.trust_domain && uri.starts_with(prefix) && self.purpose.fits(&id.subject);
        if bound && dns && fits { Ok(Some(id)) } else { Err(PeerError::Name) }
    }
}

/// What is between leaf and anchor. Each has to be allowed to sign certificates by its keyUsage (RFC 5280 §6.1.4 (n)),
/// which webpki does not look at.
pub(crate) fn between(path: &VerifiedPath<'_>) -> Result<Vec<Facts>, PeerError> {
    let read = |certificate: &webpki::Cert<'_>| match Facts::of_verified(&certificate.der()) {
        Some(facts) if facts.authority => Ok(facts),
        Some(_) => Err(PeerError::Use),
        None => Err(PeerError::Unreadable),
    };
    path.intermediate_certificates().map(read).collect()
}

fn org_of(id: &SpiffeId) -> Option<&ztka_core::OrgId> {
    match &id.subject {
        Subject::Agent { org, .. } | Subject::User { org, .. } => Some(org),
        Subject::Proxy(_) | Subject::Controller(_) => None,
    }
}

pub(crate) fn unix(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)))
}

pub(crate) fn explain(error: &webpki::Error) -> PeerError {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => PeerError::Expired,
        Error::CertNotValidYet { .. } => PeerError::NotYetValid,
        Error::UnknownIssuer
        | Error::InvalidSignatureForPublicKey
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => PeerError::Untrusted,
        Error::RequiredEkuNotFoundContext(_) | Error::CaUsedAsEndEntity | Error::EndEntityUsedAsCa => PeerError::Use,
        Error::NameConstraintViolation => PeerError::Name,
        Error::PathLenConstraintViolated => PeerError::PathLength,
        Error::CertNotValidForName(_) => PeerError::ServerName,
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => PeerError::Unreadable,
        _ => PeerError::Invalid,
    }
}
