//! A new credential over a key that is made here and never leaves.

use std::time::Duration;

use anyhow::Context as _;
use ztka_api::{Client, CreateCredential, IssuedCredential, RenewCredential, SecretPem, User};
use ztka_core::OrgId;
use ztka_pki::SoftwareKey;

use super::seconds;
use crate::session::Session;

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) answer: IssuedCredential,
    pub(crate) key: SecretPem,
}

/// Asks for a certificate of `user` that lives for `life`.
pub(crate) async fn issue(
    session: &Session,
    org: &OrgId,
    user: &User,
    life: Option<Duration>,
) -> anyhow::Result<Issued> {
    let key = SoftwareKey::generate(&rustls::crypto::ring::default_provider()).context("a key cannot be made")?;
    let csr = key.csr_pem().context("a CSR cannot be made")?;
    let wanted = CreateCredential { csr, life_seconds: seconds(life)? };
    let answer = session.api.create_credential(org, &user.id, &wanted).await?;
    Ok(Issued { answer, key: key.to_pem().into() })
}

/// Asks for a new certificate of the credential that `api` connects with.
pub(crate) async fn renew(api: &Client) -> anyhow::Result<Issued> {
    let key = SoftwareKey::generate(&rustls::crypto::ring::default_provider()).context("a key cannot be made")?;
    let csr = key.csr_pem().context("a CSR cannot be made")?;
    let answer = api.renew_credential(&RenewCredential { csr }).await?;
    Ok(Issued { answer, key: key.to_pem().into() })
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
