//! Private PKI: certificate authorities, TLS configurations, and who is behind a certificate.
mod authenticate;
mod authority;
mod certify;
mod credential;
mod csr;
pub mod file;
mod hierarchy;
mod key;
mod peer;
mod purpose;
pub mod tls;
mod trust;
mod x509;

pub use self::{
    authenticate::{Authenticate, AuthenticateLayer, Authenticator},
    authority::{CertificateAuthority, IssueError, Issued},
    credential::{Credential, CredentialChanges, CredentialError, CredentialSource},
    csr::{CsrError, ValidCsr},
    hierarchy::{Hierarchy, HierarchyState, Lifetimes, Names, OrgState, StoredAuthority},
    key::{FileKeyStore, KeyError, KeyName, KeyStore, MemoryKeyStore, PublicKey, Signer, SoftwareKey, WeakKey},
    peer::{BadBundle, Peer, PeerError, PeerVerifier},
    purpose::Purpose,
    tls::{CaPin, ClientAuth},
    trust::{Anchor, Der, Revocations, SigningKey, TrustBundle, TrustChanges, TrustSource},
};
