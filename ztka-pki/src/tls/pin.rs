//! First contact: nothing is known but the hash of the root's key, which came with the enrolment token.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls::{
    ClientConfig, Error,
    client::{
        Resumption,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;
use ztka_core::Clock;

use super::{
    Time,
    verifier::{self, handshake_signatures},
};
use crate::{
    peer::{PeerError, Usage, between, explain},
    x509::Facts,
};

/// SHA-256 of the SubjectPublicKeyInfo of a root (RFC 7469 §2.4); in text, base64url without padding.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct CaPin([u8; 32]);

/// A text that is not a pin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a CA pin: 43 characters of base64url are expected")]
pub struct InvalidPin;

impl CaPin {
    /// The pin of this certificate; `None` if it cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Facts::read(certificate).map(|facts| Self(Sha256::digest(&facts.spki).into()))
    }
}

impl FromStr for CaPin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidPin)?;
        bytes.try_into().map(Self).map_err(|_| InvalidPin)
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaPin({self})")
    }
}

/// A client of TLS 1.3 without a certificate that believes a server whose chain has a certificate with the pinned key
/// in it, leads up to that one, is for servers, valid now, and for the name that was asked for.
///
/// # Errors
/// [`Error`] if `provider` has no TLS 1.3 cipher suite.
pub fn pinned(
    provider: Arc<CryptoProvider>,
    pin: CaPin,
    clock: Arc<dyn Clock>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { pin, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct PinVerifier {
    pin: CaPin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), PeerError> {
        if intermediates.len() > 5 {
            return Err(PeerError::Length);
        }
        // The leaf itself is never the anchor.
        let pinned = intermediates.iter().find(|above| CaPin::of(above) == Some(self.pin));
        let pinned = pinned.ok_or(PeerError::Untrusted)?;
        let anchors = [webpki::anchor_from_trusted_cert(pinned).map_err(|_| PeerError::Unreadable)?];
        let leaf = EndEntityCert::try_from(end_entity).map_err(|error| explain(&error))?;
        let usage = Usage::Server;
        let path = leaf
            .verify_for_usage(self.algorithms.all, &anchors, intermediates, now, usage.of_path(), None, None)
            .map_err(|error| explain(&error))?;
        between(&path)?;
        leaf.verify_is_valid_for_subject_name(name).map_err(|_| PeerError::ServerName)?;
        let facts = Facts::read(end_entity).ok_or(PeerError::Unreadable)?;
        if usage.is_of(&facts) { Ok(()) } else { Err(PeerError::Use) }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, server_name, now).map_err(verifier::alert)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}
