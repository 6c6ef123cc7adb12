//! What is revoked by name.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Revokes something, for good unless it is an organisation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Of an organisation `serial` or `instance`; of the installation `serial`, `proxy` or `org`.
    pub kind: String,
    /// Its id; of a certificate the serial number, two lower-case hexadecimal digits for each byte, without zero bytes in
    /// front.
    pub name: String,
}

/// Something that is revoked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Revocation {
    /// As in [`Revoke`].
    pub kind: String,
    /// As in [`Revoke`].
    pub name: String,
    /// Since when.
    pub since: Timestamp,
    /// When the last certificate that it is about has expired; none for an organisation.
    #[serde(default)]
    pub ends: Option<Timestamp>,
}
