//! Certificate verifiers of TLS that read the trust of the moment.

use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use rustls::{
    CertificateError, DistinguishedName, Error,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    Purpose,
    peer::PeerError,
    trust::{TrustBundle, TrustSource},
    x509::Facts,
};

/// The methods that every verifier has alike: a handshake's signature is checked with `self.algorithms`.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}
pub(super) use handshake_signatures;

/// Believes clients of some purposes.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) trust: TrustSource,
    pub(super) purposes: Vec<Purpose>,
    pub(super) mandatory: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) hints: Hints,
}

/// The `certificate_authorities` of a CertificateRequest (RFC 8446 §4.2.4): the intermediates that this listener anchors
/// at, so that a client that holds several certificates shows the right one.
#[derive(Debug, Default)]
pub(super) struct Hints(RwLock<Option<(Arc<TrustBundle>, &'static [DistinguishedName])>>);

impl Hints {
    fn of(&self, trust: &TrustSource, purposes: &[Purpose]) -> &'static [DistinguishedName] {
        let bundle = trust.bundle();
        if let Some((of, names)) = &*self.0.read().unwrap_or_else(PoisonError::into_inner)
            && Arc::ptr_eq(of, &bundle)
        {
            return names;
        }
        let anchors = purposes.iter().flat_map(|purpose| bundle.anchors(*purpose));
        let facts = anchors.filter_map(|anchor| Facts::read(&anchor.certificate.certificate()));
        let mut names: Vec<Vec<u8>> = Vec::new();
        for facts in facts {
            if !names.contains(&facts.subject) {
                names.push(facts.subject);
            }
        }
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = |held: &[DistinguishedName]| held.iter().map(AsRef::as_ref).eq(names.iter().map(Vec::as_slice));
        let names: &'static [DistinguishedName] = match *held {
            Some((_, same)) if is_same(same) => same,
            // rustls wants them for as long as the configuration lives, and they change while it does: a few hundred
            // bytes stay behind with each authority that comes or goes, which is once in years.
            _ => Box::leak(names.into_iter().map(DistinguishedName::from).collect()),
        };
        *held = Some((bundle, names));
        names
    }
}

/// Believes servers of one purpose.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) trust: TrustSource,
    pub(super) purpose: Purpose,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.hints.of(&self.trust, &self.purposes)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (chain, now) = (chain(end_entity, intermediates), timestamp(now)?);
        let mut refusal = PeerError::Untrusted;
        for purpose in &self.purposes {
            match self.trust.verify_client(*purpose, &chain, now) {
                Ok(peer) if self.mandatory && self.trust.is_revoked(&peer) => refusal = PeerError::Revoked,
                Ok(_) => return Ok(ClientCertVerified::assertion()),
                // Of several purposes the one that knows the issuer has the better reason.
                Err(PeerError::Untrusted) => {}
                Err(error) => refusal = error,
            }
        }
        Err(alert(refusal))
    }

    handshake_signatures!();
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = chain(end_entity, intermediates);
        let verified = self.trust.verify_server(self.purpose, &chain, server_name, timestamp(now)?);
        verified.map_err(alert)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

pub(super) fn chain<'a>(
    end_entity: &CertificateDer<'a>,
    intermediates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    [end_entity].into_iter().chain(intermediates).cloned().collect()
}

pub(super) fn timestamp(now: UnixTime) -> Result<Timestamp, Error> {
    let seconds = i64::try_from(now.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.ok_or(Error::FailedToGetCurrentTime)
}

/// The alert that the other side gets (RFC 8446 §6.2).
pub(super) fn alert(error: PeerError) -> Error {
    Error::InvalidCertificate(match error {
        PeerError::Length | PeerError::Unreadable => CertificateError::BadEncoding,
        PeerError::Untrusted => CertificateError::UnknownIssuer,
        PeerError::Expired => CertificateError::Expired,
        PeerError::NotYetValid => CertificateError::NotValidYet,
        PeerError::Use => CertificateError::InvalidPurpose,
        PeerError::ServerName => CertificateError::NotValidForName,
        PeerError::Name | PeerError::PathLength | PeerError::Invalid => {
            CertificateError::ApplicationVerificationFailure
        }
        PeerError::Revoked => CertificateError::Revoked,
    })
}
