//! Whom an auditor believes: the root certificate, or the signing key itself. Nothing here talks to anybody.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use ztka_audit::log::{SignedHead, TreeHead};
use ztka_core::BoxError;
use ztka_pki::{PublicKey, signing_key};

use crate::credential;

#[derive(Args, Debug, Default)]
pub(crate) struct Trust {
    /// Root certificates (PEM) that the signing key has to lead to; those of your credential file by default
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    trust: Option<PathBuf>,
    /// The signing key itself (PEM, SubjectPublicKeyInfo), in the place of a root
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// What signatures are held against.
#[derive(Debug)]
pub(crate) enum Anchors {
    Roots(Vec<CertificateDer<'static>>),
    Key(Box<PublicKey>),
}

fn text(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn roots(pem: &[u8], of: &str) -> anyhow::Result<Anchors> {
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let roots = roots.with_context(|| format!("{of} has no certificates in PEM"))?;
    ensure!(!roots.is_empty(), "{of} has no certificates in PEM");
    Ok(Anchors::Roots(roots))
}

impl Trust {
    /// Reads the files; without any the credential's.
    pub(crate) fn anchors(&self, credential: Option<&Path>) -> anyhow::Result<Anchors> {
        if let Some(key) = &self.key {
            let name = key.display();
            let spki = SubjectPublicKeyInfoDer::from_pem_slice(&text(key)?);
            let spki = spki.with_context(|| format!("{name} has no public key in PEM"))?;
            let key = PublicKey::from_spki(&spki).with_context(|| format!("the key in {name} cannot be used"))?;
            return Ok(Anchors::Key(Box::new(key)));
        }
        if let Some(trust) = &self.trust {
            return roots(&text(trust)?, &trust.display().to_string());
        }
        let credential = credential::open(credential).context("name the root certificate by --trust")?;
        roots(credential.ca_bundle.as_bytes(), "the credential's ca_bundle")
    }
}

impl Anchors {
    /// Believes a head that was signed by this key, or by one that a root has certified for that.
    pub(crate) fn believe(&self, signed: &SignedHead) -> Result<TreeHead, BoxError> {
        let of_root;
        let key = match self {
            Self::Key(key) => &**key,
            Self::Roots(roots) => {
                let chain: Vec<_> = signed.certificates()?.into_iter().map(CertificateDer::from).collect();
                of_root = signing_key(&chain, roots, signed.claimed()?.time)?;
                &of_root
            }
        };
        Ok(signed.verified(|id, message, signature| id == key.id() && key.is_signed(message, signature))?)
    }
}
