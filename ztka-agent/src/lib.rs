//! The agent as a library: checks again what a proxy says, then sends to the one apiserver it is for.
//!
//! The stages are the proxy's. What differs is who makes them: the principal comes from the evidence that a proxy hands
//! over, the record is a receipt of the cluster's owner, policy is checked by the agent itself, and [`Upstream`] takes
//! the place of dispatch.
pub mod accounts;
mod control;
mod credential;
mod evidence;
mod limits;
pub mod selfreview;
mod status;
mod upstream;
mod watched;

pub use self::{
    control::{Control, ControlLayer},
    credential::{CREDENTIAL_SECRET, SecretStore},
    evidence::{Witness, Witnessed},
    limits::{LIMITS_CONFIG_MAP, LimitsError, OwnerLimits, Unusable},
    status::refusals,
    upstream::{Accounts, InvalidApiserver, Pool, Upstream, UpstreamError},
    watched::{PeerOf, Watched, Watching},
};
