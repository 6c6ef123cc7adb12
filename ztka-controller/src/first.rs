//! The first administrator, who comes from nowhere but the machine that the controller runs on.

use jiff::{SignedDuration, Timestamp};
use ztka_api::{CredentialFile, SecretPem};
use ztka_core::{OrgId, UserName};
use ztka_identity::{AdminRole, StoreError, User};
use ztka_pki::{KeyError, SoftwareKey, ValidCsr};

use crate::{Controller, api::CredentialError};

/// A credential of a system-admin, to be written to a file of mode 0600.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    /// The user, of the installation's own organisation.
    pub user: User,
    /// Certificate and intermediates (PEM, leaf first).
    pub chain: String,
    /// The private key (PEM): a secret.
    pub key: SecretPem,
    /// What the controller's certificate is verified by (PEM).
    pub ca_bundle: String,
    /// When the certificate expires.
    pub not_after: Timestamp,
}

impl FirstAdmin {
    /// The credential as the command line reads it, for the API at `address` (`host:port`) under `server_name`.
    pub fn credential_file(&self, address: String, server_name: String) -> CredentialFile {
        CredentialFile {
            address,
            server_name,
            ca_bundle: self.ca_bundle.clone(),
            chain: self.chain.clone(),
            key: self.key.clone(),
        }
    }
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum FirstAdminError {
    /// The store cannot be used, or the name belongs to a disabled user.
    #[error("the administrator cannot be kept")]
    Store(#[from] StoreError),
    /// No key could be made.
    #[error("no key for the administrator could be made")]
    Key(#[from] KeyError),
    /// No certificate could be issued.
    #[error("no certificate for the administrator could be issued")]
    Issue(#[source] ztka_core::BoxError),
}

impl Controller {
    /// Issues a credential to the system-admin `name`, who is made if there is none of that name, and enabled if need be. For whoever has the
    /// controller's own store, as at the first start or after every credential was lost; never reachable from outside.
    ///
    /// # Errors
    /// [`FirstAdminError`]
    pub async fn admin_credential(&self, name: UserName, life: SignedDuration) -> Result<FirstAdmin, FirstAdminError> {
        let org = OrgId::installation();
        let directory = self.directory();
        let user = match directory.store().user_named(&org, &name).await? {
            Some(user) => {
                // Whoever has the store could do as much; and an installation without administrators is lost.
                directory.enable(&user.id).await?;
                user
            }
            None => directory.create_user(&org, name, Some(AdminRole::SystemAdmin)).await?,
        };
        let key = SoftwareKey::generate(&self.0.provider)?;
        let csr = ValidCsr::from_der(&key.csr()?).map_err(|error| FirstAdminError::Issue(error.into()))?;
        let issued = self.issue_credential(&user, &csr, life, None).await.map_err(|error| match error {
            CredentialError::Store(error) => FirstAdminError::Store(error),
            CredentialError::Issue(error) => FirstAdminError::Issue(error.into()),
            CredentialError::KeyBound => FirstAdminError::Issue("the new key is another's".into()),
        })?;
        Ok(FirstAdmin {
            user,
            chain: issued.chain,
            key: key.to_pem().into(),
            ca_bundle: self.hierarchy().root_pem(),
            not_after: issued.credential.not_after,
        })
    }
}
