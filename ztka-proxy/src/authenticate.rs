//! Who a request is from, and for which cluster: certificate, current session, and address.

use std::sync::Arc;

use http::request::Parts;
use ztka_core::{Caller, Identity, Reason};
use ztka_pki::{Authenticator, NotAuthenticated, Peer};

use crate::{Certificate, Connection, Directory, Names, address, directory::Known};

/// Authenticates by the certificate of the [`Connection`] (an extension of the request) and the session of its
/// credential. Looks at both anew for every request, so that revocation and the end of a session count at once.
#[derive(Clone, Debug)]
pub struct CertificateAuthenticator {
    directory: Directory,
    names: Arc<Names>,
}

impl CertificateAuthenticator {
    /// Knows users from `directory` and clusters by `names`.
    pub fn new(directory: Directory, names: Names) -> Self {
        Self { directory, names: names.into() }
    }
}

impl CertificateAuthenticator {
    /// The session of the credential that `certificate` is of.
    fn session(&self, certificate: &Certificate) -> Result<Arc<Known>, Reason> {
        self.directory.session_of(&certificate.peer)
    }

    /// Whether the connection may be used, and what for.
    fn identity(&self, connection: &Connection, known: &Arc<Known>, head: &Parts) -> Result<Identity, Reason> {
        if connection.is_crowded() {
            return Err(Reason::Overloaded(
                "you have too many connections open, open them too fast, or give up too many requests; close some and try \
                 again later",
            ));
        }
        let (cluster, prefix) = address::locate(&self.names, connection, head)?;
        if self.directory.engine().policy(known.principal.org())?.cluster(&cluster).is_none() {
            return Err(Reason::Misdirected("there is no such cluster in your organisation"));
        }
        let Some(evidence) = connection.evidence(known) else {
            let text = format!("nothing is known of the certificate: {}", self.directory.login());
            return Err(Reason::Unauthenticated(text));
        };
        let identity = Identity::new(known.principal.clone(), cluster, evidence);
        Ok(identity.addressed_by(prefix).from_source(Some(connection.source())))
    }
}

impl Authenticator for CertificateAuthenticator {
    fn authenticate(&self, head: &Parts) -> Result<Identity, NotAuthenticated> {
        let login = self.directory.login();
        let unauthenticated = |what: &str| NotAuthenticated::from(Reason::Unauthenticated(format!("{what}: {login}")));
        let Some(connection) = head.extensions.get::<Connection>() else {
            return Err(unauthenticated("nothing is known of the connection"));
        };
        let Some(certificate) = connection.certificate() else {
            return Err(unauthenticated("no client certificate was presented; use a kubeconfig that has one"));
        };
        let by_certificate = |reason| NotAuthenticated::by(Peer::as_caller(&certificate.peer), reason);
        let known = self.session(certificate).map_err(by_certificate)?;
        let by_session = |reason| NotAuthenticated::by(Caller::Principal(known.principal.clone()), reason);
        self.identity(connection, &known, head).map_err(by_session)
    }
}
