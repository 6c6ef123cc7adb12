//! A new credential over a key that is made here and never leaves.

use std::time::Duration;

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair};
use ztka_api::{CreateCredential, IssuedCredential, User};
use ztka_core::OrgId;

use super::seconds;
use crate::session::Session;

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) answer: IssuedCredential,
    pub(crate) key: String,
}

/// Asks for a certificate of `user` that lives for `life`.
pub(crate) async fn issue(
    session: &Session,
    org: &OrgId,
    user: &User,
    life: Option<Duration>,
) -> anyhow::Result<Issued> {
    let key = KeyPair::generate().context("a key cannot be made")?;
    // The issuer takes nothing from the request but the key.
    let csr = CertificateParams::default().serialize_request(&key).context("a CSR cannot be made")?;
    let wanted = CreateCredential { csr: csr.pem()?, life_seconds: seconds(life)? };
    let answer = session.api.create_credential(org, &user.id, &wanted).await?;
    Ok(Issued { answer, key: key.serialize_pem() })
}

/// The user named, or the caller.
pub(crate) async fn user(session: &Session, name: Option<&str>) -> anyhow::Result<(OrgId, User)> {
    match name {
        Some(name) => {
            let org = session.org().await?;
            let user = session.user(&org, name).await?;
            Ok((org, user))
        }
        None => {
            let who = session.api.whoami().await?;
            Ok((who.org.id, who.user))
        }
    }
}
