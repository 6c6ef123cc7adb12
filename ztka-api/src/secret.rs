//! Private keys as text.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A private key in PEM: shown by nothing, and wiped from memory when it is dropped.
///
/// It is written out only as a part of [`CredentialFile`](crate::CredentialFile): wipe that text too.
#[derive(Clone)]
pub struct SecretPem(Zeroizing<String>);

impl SecretPem {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<Zeroizing<String>> for SecretPem {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem")
    }
}

impl Serialize for SecretPem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretPem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_and_written_and_not_shown() {
        let secret: SecretPem = serde_json::from_str("\"-----BEGIN\"").unwrap();
        assert_eq!(secret.expose(), "-----BEGIN");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"-----BEGIN\"");
        assert_eq!(format!("{secret:?}"), "SecretPem");
    }
}
