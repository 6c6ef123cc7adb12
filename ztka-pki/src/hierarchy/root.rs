//! A root whose key is at hand, here or on the machine of whoever keeps it.

mod repeat;

use std::sync::Arc;

use jiff::Timestamp;

use super::{Lifetimes, Names, common_name, purpose_profile};
use crate::{
    Purpose,
    authority::{CertificateAuthority, IssueError, Profile},
    csr::ValidCsr,
    key::{PublicKey, Signer},
    x509::{self, Facts},
};

const NOT_A_ROOT: &str = "the new root is not one CA certificate in PEM with a key that is strong enough";

/// A root with its key, which certifies the intermediates of a hierarchy.
///
/// The key may be anywhere that a [`Signer`] reaches: with it offline, a controller keeps the intermediates' keys alone,
/// and whoever keeps the root signs what [`Rotator::request`](super::Rotator::request) asks for.
#[derive(Clone, Debug)]
pub struct Root {
    authority: CertificateAuthority,
}

fn profile(key: &PublicKey) -> Profile {
    Profile {
        common_name: common_name("root", key.id()),
        organization: Some("ZTKA".into()),
        authority: Some(2),
        ..Profile::default()
    }
}

impl Root {
    /// Makes the certificate of a new root.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn create(signer: Arc<dyn Signer>, lifetimes: &Lifetimes, now: Timestamp) -> Result<Self, IssueError> {
        let profile = profile(signer.public_key());
        let authority = CertificateAuthority::self_signed(profile, signer, now, lifetimes.root).await?;
        Ok(Self { authority })
    }

    /// The root of a certificate in PEM, with its key.
    ///
    /// # Errors
    /// [`IssueError::State`] if they do not belong together, or it is no CA.
    pub fn open(certificate: &str, signer: Arc<dyn Signer>) -> Result<Self, IssueError> {
        let mut read = x509::from_pem(certificate.as_bytes()).unwrap_or_default();
        match (read.pop(), read.pop()) {
            (Some(certificate), None) => Ok(Self { authority: CertificateAuthority::new(certificate, signer)? }),
            _ => Err(IssueError::State("the root certificate is not one certificate in PEM")),
        }
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.authority.pem()
    }

    /// Certifies the key of a request as the intermediate of `purpose`; in PEM.
    ///
    /// # Errors
    /// [`IssueError`]; a request that is not signed by its own key is [`IssueError::State`].
    pub async fn certify(
        &self,
        purpose: Purpose,
        request: &str,
        names: &Names,
        lifetimes: &Lifetimes,
        now: Timestamp,
    ) -> Result<String, IssueError> {
        let key = ValidCsr::authority_key(request.as_bytes());
        let key =
            key.map_err(|_| IssueError::State("not a certificate signing request, or not signed by its own key"))?;
        let certificate = self.certify_key(purpose, &key, names, lifetimes, now).await?;
        Ok(x509::to_pem([&certificate]))
    }

    pub(super) async fn certify_key(
        &self,
        purpose: Purpose,
        key: &PublicKey,
        names: &Names,
        lifetimes: &Lifetimes,
        now: Timestamp,
    ) -> Result<rustls_pki_types::CertificateDer<'static>, IssueError> {
        names.check()?;
        self.authority.certify(purpose_profile(purpose, names, key.id()), key, now, lifetimes.purpose).await
    }

    /// Certifies name and key of the root that comes after this one, `next` in PEM, which may be somebody else's: who
    /// knows this one only is shown that.
    ///
    /// # Errors
    /// [`IssueError`]; [`IssueError::State`] if `next` is not one CA certificate, or has a name that cannot be repeated.
    pub async fn cross_certify(&self, next: &str, now: Timestamp) -> Result<String, IssueError> {
        let mut read = x509::from_pem(next.as_bytes()).unwrap_or_default();
        let (Some(next), None) = (read.pop(), read.pop()) else { return Err(IssueError::State(NOT_A_ROOT)) };
        let facts = Facts::read(&next).filter(|facts| facts.authority).ok_or(IssueError::State(NOT_A_ROOT))?;
        let key = PublicKey::from_spki(&facts.spki).map_err(|_| IssueError::State(NOT_A_ROOT))?;
        let (subject, key_identifier) = repeat::subject(&next)?;
        let profile = Profile { subject: Some(subject), key_identifier, ..profile(&key) };
        let life = facts.not_after.duration_since(now);
        let certificate = self.authority.certify(profile, &key, now, life).await?;
        // What it has issued names it by this.
        match Facts::read(&certificate) {
            Some(made) if made.subject == facts.subject => Ok(x509::to_pem([&certificate])),
            _ => Err(IssueError::State(repeat::NAME)),
        }
    }
}
