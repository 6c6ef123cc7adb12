//! How many connections a controller's listeners have, and how long they last without a certificate.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// Limits of a controller's listeners. Beyond them a connection is closed at once; none waits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once under each server name, so that no name's can take another's places, and as many that
    /// have not named theirs yet. Default 10,000. How many of them come from one address is the proxies' limit.
    pub connections: usize,
    /// A connection without a client certificate takes no new requests after this, with a unit as in `30s`; those under
    /// way have another 60 s. Default 30 s.
    pub without_certificate: SignedDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, without_certificate: SignedDuration::from_secs(30) }
    }
}
