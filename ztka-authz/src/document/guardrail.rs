//! What no role reaches without a setting of its own, and what has to be seen to where something is let in.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
pub use ztka_core::AuditLevel;
use ztka_core::Recording;

use super::{ClusterSelector, Subject};

/// Namespaces that are protected, and verbs that are more than they look.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Guardrails {
    /// Namespaces that roles do not reach into.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protected_namespaces: Vec<ProtectedNamespaces>,
    /// Who may do what amounts to becoming somebody else.
    #[serde(skip_serializing_if = "Gates::is_default")]
    pub gates: Gates,
}

impl Guardrails {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Namespaces that are closed to everybody but some.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectedNamespaces {
    /// Their names.
    pub namespaces: Vec<String>,
    /// What is left to roles there.
    #[serde(default)]
    pub access: ProtectedAccess,
    /// On which clusters.
    pub clusters: ClusterSelector,
    /// Whose roles count there as anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Subject>,
}

/// What is left to roles in a protected namespace.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtectedAccess {
    /// To look at what is not confidential.
    #[default]
    Read,
    /// Nothing.
    None,
}

/// Who passes each gate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// Verb `escalate`: to write roles that allow more than one has.
    pub escalate: Opening,
    /// Verb `bind`: to bind roles that allow more than one has.
    pub bind: Opening,
    /// Verb `impersonate`. Proxies and agents carry on no request that asks for it, whatever is said here.
    pub impersonate: Opening,
    /// Verb `approve`, and approving certificate signing requests.
    pub approve: Opening,
    /// Verb `sign`, and writing certificates into their requests.
    pub sign: Opening,
    /// Making tokens of service accounts.
    pub token: Opening,
}

impl Default for Gates {
    fn default() -> Self {
        let (escalate, bind, approve, sign, token) = Default::default();
        Self { escalate, bind, impersonate: Opening::Closed, approve, sign, token }
    }
}

impl Gates {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Who passes `gate`.
    pub fn opening(&self, gate: Gate) -> Opening {
        match gate {
            Gate::Escalate => self.escalate,
            Gate::Bind => self.bind,
            Gate::Impersonate => self.impersonate,
            Gate::Approve => self.approve,
            Gate::Sign => self.sign,
            Gate::Token => self.token,
        }
    }
}

/// One thing that amounts to becoming somebody else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "they are the fields of Gates")]
pub enum Gate {
    Escalate,
    Bind,
    Impersonate,
    Approve,
    Sign,
    Token,
}

impl Gate {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Escalate => "escalate",
            Self::Bind => "bind",
            Self::Impersonate => "impersonate",
            Self::Approve => "approve",
            Self::Sign => "sign",
            Self::Token => "token",
        }
    }
}

/// Whom a gate lets through.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Opening {
    /// Nobody.
    Closed,
    /// Roles that allow every verb on every resource.
    #[default]
    Admins,
    /// Every role that gives it.
    Roles,
}

/// What has to be seen to where something is let in. A server that cannot see to it does not let it in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Obligations {
    /// The audit event says at least this much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditLevel>,
    /// Sessions of exec and attach are recorded: `on` if they can be, `required` (or `true`) or they do not take place.
    #[serde(with = "super::recording", skip_serializing_if = "super::recording::is_off")]
    pub record: Recording,
    /// Streams and watches end after this long, `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<SignedDuration>,
    /// The user confirms it by a second factor, now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub step_up: bool,
}
