//! The file that says who the caller of the command line is to the controller.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::SecretPem;

/// A caller's certificate and key, and where the controller's API is. Kept as TOML with mode 0600.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialFile {
    /// `host:port` to dial.
    pub address: String,
    /// The name in the API's certificate: `api.<domain>`.
    pub server_name: String,
    /// What the API's certificate is verified by (PEM).
    pub ca_bundle: String,
    /// The caller's certificate and its intermediates (PEM, leaf first).
    pub chain: String,
    /// The caller's private key (PKCS #8, PEM): a secret.
    pub key: SecretPem,
}

impl fmt::Debug for CredentialFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, server_name, .. } = self;
        f.debug_struct("CredentialFile")
            .field("address", address)
            .field("server_name", server_name)
            .finish_non_exhaustive()
    }
}
