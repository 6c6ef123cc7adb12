//! Private PKI: certificate authorities, enrolment, rotation, TLS configurations, and who is behind a certificate.
//!
//! ```text
//! KeyStore ─ Signer                    the keys: files, memory, a PKCS#11 token, an embedder's own
//!      │
//! Hierarchy ── issue_… ─► Issued       every name is the issuer's; a ValidCsr gives its key only
//!      │   └─ sign_document
//!      ▼
//! TrustBundle ─► TrustSource ─┐        anchors by purpose and revocations, as they are now
//!                             ├─► tls::server, tls::client ─► Verified<Peer>
//! Credential ─► CredentialSource       chain and key, as they are now
//!      ▲              ▲
//! EnrolmentClient     Renewer          EnrolmentService, RenewalService on the other side
//! ```
//!
//! **A purpose is a trust anchor.** Servers, agents, users, proxies and controllers each have an intermediate of their
//! own ([`Purpose`]), and a verifier anchors at those of one purpose, never at the root. What a URI name may say is
//! bounded too: the trust document lists a prefix for each anchor, an organisation's intermediate carries the
//! organisation it is bound to, and [`PeerVerifier`] holds every chain against both, because name constraints
//! (RFC 5280 §4.2.1.10) cannot.
//!
//! **Nothing is cached across a change.** TLS configurations read [`TrustSource`] and [`CredentialSource`] at every
//! handshake; there is no resumption. What was let in before is asked again: [`TrustSource::is_revoked`].
//!
//! **First contact is verified.** An [`EnrolmentToken`] carries the pin of the root, so that the secret in it is sent to
//! nobody else. The first key that spends it owns it; where the token says so, an administrator has to approve that key.
//! Members that share a credential have a certificate each by it ([`ReplicaService`]).
//!
//! ```
//! # use std::sync::Arc;
//! use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names, Purpose, SoftwareKey, TrustSource, ValidCsr};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ztka_core::BoxError> {
//! let provider = Arc::new(rustls::crypto::ring::default_provider());
//! let (keys, clock) = (Arc::new(MemoryKeyStore::new(provider.clone())), Arc::new(ztka_core::SystemClock));
//! let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await?;
//! hierarchy.create_org(&"acme".parse()?).await?;
//!
//! let key = SoftwareKey::generate(&provider)?; // where it is used, and never elsewhere
//! let csr = ValidCsr::from_der(&key.csr()?)?;
//! let issued = hierarchy.issue_agent(&csr, &"acme".parse()?, &"c1".parse()?, &"i1".parse()?).await?;
//!
//! let trust = TrustSource::new(hierarchy.trust_bundle(), provider, clock)?;
//! let peer = trust.verify(Purpose::Agents, issued.chain())?;
//! assert_eq!(peer.id.to_string(), "spiffe://example.com/org/acme/cluster/c1/agent/i1");
//! assert!(trust.verify(Purpose::Users, issued.chain()).is_err());
//! # Ok(())
//! # }
//! ```
//!
//! Copies of private keys that this crate makes are wiped when they are dropped; those inside the crypto provider are
//! the provider's.
mod authenticate;
mod authority;
mod certify;
#[cfg(feature = "conformance")]
pub mod conformance;
mod credential;
mod crl;
mod csr;
mod enrol;
pub mod file;
mod hierarchy;
mod key;
mod peer;
mod purpose;
mod signing_chain;
pub mod tls;
mod trust;
mod x509;

/// The crates whose types and traits stand in signatures here, in the versions that they are of; and `async_trait`, which
/// implementations of our traits need.
pub use {
    async_trait, bytes, http, http_body, jiff, rustls, rustls_pki_types, serde, serde_json, tokio, tower, zeroize,
    ztka_core,
};

#[cfg(feature = "pkcs11")]
pub use self::key::{Pkcs11KeyStore, Pkcs11Token, Pkcs11WrappingKey};
pub use self::{
    authenticate::{Authenticate, AuthenticateLayer, Authenticator, NotAuthenticated},
    authority::{CertificateAuthority, IssueError, Issued},
    credential::{Credential, CredentialChanges, CredentialError, CredentialSource},
    crl::{CrlContents, CrlReason, RevokedCertificate},
    csr::{CsrError, ValidCsr},
    enrol::*,
    hierarchy::{
        Announcer, AuthorityName, AuthorityStates, Awaited, Hierarchy, HierarchyState, ImportError, IssuanceRecord,
        IssuedRecord, Issuer, Lifetimes, Names, OrgState, OrgStates, Phase, Population, Root, RootChange, Rotation,
        RotationError, Rotator, Signed, StoredAuthority, Straggler, UnknownAuthority, Withdrawn,
    },
    key::{
        FileKeyStore, KeyError, KeyKind, KeyName, KeyStore, MemoryKeyStore, Passphrase, PublicKey, Signer, SoftwareKey,
        WeakKey, WrappingKey,
    },
    peer::{BadBundle, Peer, PeerError, PeerVerifier},
    purpose::{Purpose, UnknownPurpose},
    signing_chain::signing_key,
    tls::{CaPin, ClientAuth},
    trust::{Anchor, Der, InvalidDer, Revocations, SigningKey, TrustBundle, TrustChanges, TrustSource},
};
