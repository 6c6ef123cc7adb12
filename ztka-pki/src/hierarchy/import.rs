//! Intermediates that somebody else signs: what is asked for, and whether what comes back is that.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::{
    Certificate,
    der::{
        Decode as _,
        oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, NameConstraints, name::GeneralName},
};

use super::{Kept, Names, StoredAuthority, purpose_profile};
use crate::{
    Purpose,
    authority::{CertificateAuthority, DOCUMENT_SIGNING_DER, DOCUMENT_SIGNING_OID, IssueError, Profile},
    key::{KeyName, Signer},
    peer::{PeerError, explain, unix},
    x509::{self, Facts},
};

/// Above an intermediate, the root included.
const MAX_ABOVE: usize = 3;

/// Why the certificate of an intermediate, as somebody else has signed it, is refused. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not PEM, or empty.
    #[error(
        "the chain of {0} is not one or more certificates in PEM: put the intermediate first, its issuers after it"
    )]
    Unreadable(Purpose),
    /// Too long.
    #[error(
        "the chain of {0} has more than three certificates above the intermediate; have it signed nearer to the root"
    )]
    Length(Purpose),
    /// Another key's.
    #[error("the certificate of {0} is for another key than the one requested; have the newest request signed")]
    Key(Purpose),
    /// Not a CA.
    #[error("the certificate of {0} may not sign certificates: it needs basicConstraints CA:TRUE and keyCertSign")]
    NotAuthority(Purpose),
    /// Path length.
    #[error(
        "the certificate of {purpose} allows too few authorities below it: it needs a path length of {needed} or more"
    )]
    PathLength {
        /// Whose.
        purpose: Purpose,
        /// The least that does.
        needed: u8,
    },
    /// Extended key usage.
    #[error(
        "the certificate of {purpose} does not allow {usage}: its extendedKeyUsage needs that, or has to be left out"
    )]
    Usage {
        /// Whose.
        purpose: Purpose,
        /// What is missing.
        usage: &'static str,
    },
    /// Name constraints.
    #[error(
        "the name constraints of {0} are not one permitted DNS name that the domain of this installation is at or under"
    )]
    NameConstraints(Purpose),
    /// None where one is needed.
    #[error("the certificate of servers has no name constraints; it needs the domain as permitted DNS name")]
    Unconstrained,
    /// Not valid now.
    #[error("the certificate of {0} is not valid now; check its dates and the clock")]
    NotValid(Purpose),
    /// Not below the root.
    #[error("the chain of {0} does not lead up to the root that was given; add the certificates in between")]
    NotBelowRoot(Purpose),
    /// The root is none.
    #[error("the root is not one CA certificate in PEM that is valid now")]
    Root,
    /// The cross-certificate is none.
    #[error(
        "the cross-certificate is not one certificate in PEM of the new root's key by the old root; have the old root \
         sign the new one's key and name, and give that alone"
    )]
    Cross,
    /// Another rule is broken.
    #[error("the chain of {purpose} is refused: {reason}")]
    Chain {
        /// Whose.
        purpose: Purpose,
        /// Why.
        reason: PeerError,
    },
    /// A purpose is missing.
    #[error("there is no certificate for {0}; all six have to be there")]
    Missing(Purpose),
    /// The key that was requested cannot be used.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// The request for the intermediate of `purpose`, in PEM: its names, its constraints and its key.
pub(super) async fn request(purpose: Purpose, names: &Names, signer: &dyn Signer) -> Result<String, IssueError> {
    names.check()?;
    purpose_profile(purpose, names, signer.public_key().id()).request(signer).await
}

/// A root of somebody else's.
pub(super) fn root(pem: &str, now: Timestamp) -> Result<CertificateDer<'static>, ImportError> {
    let mut read = x509::from_pem(pem.as_bytes()).unwrap_or_default();
    let (Some(certificate), None) = (read.pop(), read.pop()) else { return Err(ImportError::Root) };
    let facts = Facts::read(&certificate).ok_or(ImportError::Root)?;
    let valid = facts.authority && facts.not_before <= now && now < facts.not_after;
    if valid { Ok(certificate) } else { Err(ImportError::Root) }
}

/// Whether `pem` is one certificate of the root `new` by the root `old`, as far as its names say; that signatures are
/// right is found out with the chain of servers, which it becomes a part of.
pub(super) fn cross(
    pem: &str,
    new: &CertificateDer<'static>,
    old: &CertificateDer<'static>,
) -> Result<(), ImportError> {
    let mut read = x509::from_pem(pem.as_bytes()).unwrap_or_default();
    let (Some(certificate), None) = (read.pop(), read.pop()) else { return Err(ImportError::Cross) };
    let facts = [&certificate, new, old].map(Facts::read);
    let [Some(cross), Some(new), Some(old)] = facts else { return Err(ImportError::Cross) };
    let fits = (&cross.subject, &cross.spki, &cross.issuer) == (&new.subject, &new.spki, &old.subject);
    if fits { Ok(()) } else { Err(ImportError::Cross) }
}

/// Whether `chain` (PEM, the intermediate first; the root may be left out) certifies `signer`'s key as what was asked for.
pub(super) async fn check(
    purpose: Purpose,
    names: &Names,
    (key, signer): (&KeyName, Arc<dyn Signer>),
    chain: &str,
    root: &CertificateDer<'static>,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<StoredAuthority, ImportError> {
    let mut chain = x509::from_pem(chain.as_bytes()).ok_or(ImportError::Unreadable(purpose))?;
    if chain.last() == Some(root) {
        chain.pop();
    }
    if chain.len() > MAX_ABOVE {
        return Err(ImportError::Length(purpose));
    }
    let mut chain = chain.into_iter();
    let certificate = chain.next().ok_or(ImportError::Unreadable(purpose))?;
    let above: Vec<_> = chain.collect();
    let facts = Facts::read(&certificate).ok_or(ImportError::Unreadable(purpose))?;
    if facts.spki != signer.public_key().der() {
        return Err(ImportError::Key(purpose));
    }
    if !facts.authority {
        return Err(ImportError::NotAuthority(purpose));
    }
    if !(facts.not_before <= now && now < facts.not_after) {
        return Err(ImportError::NotValid(purpose));
    }
    constraints(purpose, names, &certificate)?;
    let authority = CertificateAuthority::new(certificate, signer)?;
    probe(purpose, names, &authority, &above, root, provider, now).await?;
    Ok(StoredAuthority::of(&Kept { key: key.clone(), authority, above }))
}

fn constraints(purpose: Purpose, names: &Names, certificate: &CertificateDer<'_>) -> Result<(), ImportError> {
    let unreadable = || ImportError::Unreadable(purpose);
    let read = Certificate::from_der(certificate).map_err(|_| unreadable())?;
    let read = read.tbs_certificate();
    let needed = u8::from(purpose.is_per_org());
    let basic = read.get_extension::<BasicConstraints>().map_err(|_| unreadable())?;
    if basic.and_then(|(_, basic)| basic.path_len_constraint).is_some_and(|length| length < needed) {
        return Err(ImportError::PathLength { purpose, needed });
    }
    if let Some((_, ExtendedKeyUsage(usages))) = read.get_extension::<ExtendedKeyUsage>().map_err(|_| unreadable())? {
        let profile = purpose_profile(purpose, names, &ztka_core::KeyId(String::new()));
        let wanted = [
            (profile.server, ID_KP_SERVER_AUTH, "serverAuth"),
            (profile.client, ID_KP_CLIENT_AUTH, "clientAuth"),
            (profile.documents, DOCUMENT_SIGNING_OID, "documentSigning (1.3.6.1.5.5.7.3.36)"),
        ];
        for (on, oid, usage) in wanted {
            if on && !usages.contains(&oid) && !usages.contains(&ANY_EXTENDED_KEY_USAGE) {
                return Err(ImportError::Usage { purpose, usage });
            }
        }
    }
    let constraints = read.get_extension::<NameConstraints>().map_err(|_| unreadable())?;
    let Some((_, NameConstraints { permitted_subtrees, excluded_subtrees })) = constraints else {
        return if purpose == Purpose::Servers { Err(ImportError::Unconstrained) } else { Ok(()) };
    };
    // Verifiers fail closed on constraints of names that they do not know, and only servers have DNS names alone.
    let fits = match permitted_subtrees.as_deref() {
        Some([only]) => match &only.base {
            GeneralName::DnsName(permitted) => {
                let below = names.domain.strip_suffix(permitted.as_str().trim_start_matches('.'));
                below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
            _ => false,
        },
        _ => false,
    };
    if purpose == Purpose::Servers && fits && excluded_subtrees.is_none() {
        Ok(())
    } else {
        Err(ImportError::NameConstraints(purpose))
    }
}

/// Issues a certificate to nobody and verifies it from the root, as others will: signatures, constraints, all of it.
async fn probe(
    purpose: Purpose,
    names: &Names,
    authority: &CertificateAuthority,
    above: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<(), ImportError> {
    let wanted = purpose_profile(purpose, names, &ztka_core::KeyId(String::new()));
    let leaf = Profile {
        common_name: "probe".into(),
        server: wanted.server,
        client: wanted.client,
        documents: wanted.documents,
        dns: if wanted.server { vec![format!("probe.{}", names.domain)] } else { Vec::new() },
        ..Profile::default()
    };
    let life = jiff::SignedDuration::from_mins(5);
    let issued = authority.issue(leaf, authority.public_key(), now, life).await?;
    let (leaf, below) = issued.chain().split_first().ok_or(ImportError::Unreadable(purpose))?;
    let chain: Vec<_> = below.iter().chain(above).cloned().collect();
    let refused = |error: webpki::Error| match explain(&error) {
        PeerError::Untrusted => ImportError::NotBelowRoot(purpose),
        PeerError::Expired | PeerError::NotYetValid => ImportError::NotValid(purpose),
        reason => ImportError::Chain { purpose, reason },
    };
    let anchors = [webpki::anchor_from_trusted_cert(root).map_err(|_| ImportError::Root)?];
    let usage = match (wanted.server, wanted.client) {
        (true, _) => KeyUsage::server_auth(),
        (_, true) => KeyUsage::client_auth(),
        _ => KeyUsage::required_if_present(DOCUMENT_SIGNING_DER),
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(refused)?;
    let algorithms = provider.signature_verification_algorithms.all;
    leaf.verify_for_usage(algorithms, &anchors, &chain, unix(now), usage, None, None).map_err(refused)?;
    Ok(())
}
