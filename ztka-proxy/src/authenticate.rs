//! Who a request is from, and for which cluster: certificate, current session, and address.

use http::request::Parts;
use ztka_core::{Identity, Reason, Subject};
use ztka_pki::Authenticator;

use crate::{Connection, Directory, Names, address};

/// Authenticates by the certificate of the [`Connection`] (an extension of the request) and the session of its
/// credential. Looks at both anew for every request, so that revocation and the end of a session count at once.
#[derive(Clone, Debug)]
pub struct CertificateAuthenticator {
    directory: Directory,
    names: std::sync::Arc<Names>,
}

impl CertificateAuthenticator {
    /// Knows users from `directory` and clusters by `names`.
    pub fn new(directory: Directory, names: Names) -> Self {
        Self { directory, names: names.into() }
    }
}

impl Authenticator for CertificateAuthenticator {
    fn authenticate(&self, head: &Parts) -> Result<Identity, Reason> {
        let login = self.directory.login();
        let unauthenticated = |what: &str| Err(Reason::Unauthenticated(format!("{what}: {login}")));
        let Some(connection) = head.extensions.get::<Connection>() else {
            return unauthenticated("nothing is known of the connection");
        };
        let Some(certificate) = connection.certificate() else {
            return unauthenticated("no client certificate was presented; use a kubeconfig that has one");
        };
        let peer = &certificate.peer;
        let Subject::User { org, user, credential } = &peer.id.subject else {
            return unauthenticated("the client certificate is not a user's");
        };
        if peer.not_after <= self.directory.clock().now() {
            return unauthenticated("the client certificate has expired");
        }
        if self.directory.trust().is_revoked(peer) {
            return unauthenticated("this credential is revoked or its user is disabled");
        }
        let known = self.directory.session(org, user, credential, connection.known().as_ref())?;
        if connection.is_crowded() {
            return Err(Reason::Overloaded("you have too many connections open; close some"));
        }
        let (cluster, prefix) = address::locate(&self.names, connection, head)?;
        if self.directory.engine().policy(org)?.cluster(&cluster).is_none() {
            return Err(Reason::Misdirected("there is no such cluster in your organisation"));
        }
        let Some(evidence) = connection.evidence(&known) else {
            return unauthenticated("nothing is known of the certificate");
        };
        let identity = Identity::new(known.principal.clone(), cluster, evidence);
        Ok(identity.addressed_by(prefix).from_source(Some(connection.source())))
    }
}
