//! Certificate authorities and their rotation.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The certificate authorities, and who goes by them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pki {
    /// DNS domain that servers are named under.
    pub domain: String,
    /// Trust domain of SPIFFE ids.
    pub trust_domain: String,
    /// The roots that kubeconfigs are given (PEM), the one that signs first.
    pub root: String,
    /// Root and purposes; organisations' own while they are rotated.
    pub authorities: Vec<Authority>,
    /// The newest `trust` document, `<epoch>.<version>`.
    pub trust: Option<String>,
    /// Agents and proxies whose certificates are not over.
    pub members: usize,
    /// Those of them that have confirmed the newest `trust` document.
    pub current: usize,
}

/// A certificate authority: the one that signs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Authority {
    /// `root`, a purpose, or `<purpose>.<organisation id>`.
    pub name: String,
    /// SHA-256 of its public key.
    pub key: String,
    /// Beginning of its certificate.
    pub not_before: Timestamp,
    /// End of its certificate.
    pub not_after: Timestamp,
    /// False for a root whose key is kept elsewhere.
    pub key_here: bool,
    /// Its rotation, if one is under way.
    pub rotation: Option<PkiRotation>,
}

/// A rotation under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PkiRotation {
    /// `requested`, `published` or `activated`.
    pub phase: String,
    /// Since when.
    pub since: Timestamp,
    /// Each step is taken as soon as nobody has to be waited for.
    pub automatic: bool,
    /// No step is taken.
    pub paused: bool,
    /// It was rolled back after it was activated.
    pub reversed: bool,
    /// SHA-256 of the other one's public key: of the one to come, or (`activated`) the one to go.
    pub other_key: Option<String>,
    /// Whom the next step waits for.
    pub waiting: Vec<Waiting>,
}

/// Somebody who is waited for, or who is left outside.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Waiting {
    /// The path of a SPIFFE id.
    pub who: String,
    /// For what.
    pub awaited: String,
    /// When they were last heard of, if ever.
    pub last_seen: Option<Timestamp>,
    /// When their certificate ends.
    pub until: Option<Timestamp>,
}

/// A step of a rotation; its word is part of the path.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PkiStep {
    /// Make a successor, and have it believed.
    Publish,
    /// Make a successor's key, and the request that the root has to sign.
    Request,
    /// Let the successor sign.
    Activate,
    /// Believe the old one no longer.
    Retire,
    /// Go back.
    Rollback,
    /// Take no step.
    Pause,
    /// Take steps again.
    Resume,
    /// Emergency: believe the old one no longer, at once.
    CutOff,
}

impl PkiStep {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Request => "request",
            Self::Activate => "activate",
            Self::Retire => "retire",
            Self::Rollback => "rollback",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::CutOff => "cut-off",
        }
    }
}

/// A word that is no step.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a step: use publish, request, activate, retire, rollback, pause, resume or cut-off")]
pub struct UnknownStep;

impl FromStr for PkiStep {
    type Err = UnknownStep;

    fn from_str(word: &str) -> Result<Self, UnknownStep> {
        let all = [
            Self::Publish,
            Self::Request,
            Self::Activate,
            Self::Retire,
            Self::Rollback,
            Self::Pause,
            Self::Resume,
            Self::CutOff,
        ];
        all.into_iter().find(|step| step.as_str() == word).ok_or(UnknownStep)
    }
}

impl fmt::Display for PkiStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A new root whose key is elsewhere, all in PEM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewRoot {
    /// Itself.
    pub root: String,
    /// Its key, certified by the old root; empty if the controller is to do that, which has to have the old root's key.
    #[serde(default)]
    pub cross: String,
    /// For each purpose the certificate of the key that signs, with those between it and the root.
    pub certificates: BTreeMap<String, String>,
}

/// How a step is to be taken.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TakeStep {
    /// `publish`: take the steps that follow as soon as nobody has to be waited for.
    #[serde(default)]
    pub automatic: bool,
    /// `activate`, `retire`: do not wait for anybody.
    #[serde(default)]
    pub anyway: bool,
    /// `publish` after `request`: the certificate with those up to the root (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// `publish` of a root whose key is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<NewRoot>,
}

/// A step was taken.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StepTaken {
    /// The authority afterwards.
    pub authority: Authority,
    /// `cut-off`: who is left outside. `rollback`: the enrolment tokens that are of no use any more.
    pub broken: Vec<Waiting>,
    /// `request`: what the root has to sign (PEM), by purpose; all six for a new root.
    pub requests: BTreeMap<String, String>,
}
