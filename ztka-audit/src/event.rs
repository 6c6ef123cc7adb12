//! The audit event, in the shape of `audit.k8s.io/v1` `Event` (`k8s.io/apiserver/pkg/apis/audit/v1/types.go`).

mod annotations;
mod json;
mod redact;

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use ztka_core::{AuditId, AuditLevel, Impersonation, Principal, RequestTarget, SpiffeId, Subject};

pub use self::{annotations::Annotations, json::printable};
pub(crate) use self::{
    json::line,
    redact::{argument, clean},
};

/// Longest `requestURI`, in bytes; longer ones are cut, and an annotation says so.
pub(crate) const MAX_URI: usize = 8192;
/// Longest of every other text of an event, in bytes.
pub(crate) const MAX_TEXT: usize = 1024;
/// Most groups that an event lists.
const MAX_GROUPS: usize = 256;

/// How much of a request is recorded. Ordered: a higher level has all of the lower.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and how it ended.
    Metadata,
    /// And the request's body.
    Request,
    /// And the response's body.
    RequestResponse,
}

/// When in the life of a request an event was made. Ordered as they happen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Stage {
    /// Known and about to go on. Durable before it does.
    RequestReceived,
    /// The head of the answer is there; of long-running requests only.
    ResponseStarted,
    /// All is over, however it ended.
    ResponseComplete,
    /// The code that served it panicked: in the place of [`Self::ResponseComplete`].
    Panic,
}

impl Level {
    /// As it is spelt in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

impl From<AuditLevel> for Level {
    fn from(asked: AuditLevel) -> Self {
        match asked {
            AuditLevel::Metadata => Self::Metadata,
            AuditLevel::Request => Self::Request,
            AuditLevel::RequestResponse => Self::RequestResponse,
        }
    }
}

impl Stage {
    /// True for the last event of a record.
    pub fn is_last(self) -> bool {
        matches!(self, Self::ResponseComplete | Self::Panic)
    }

    /// As it is spelt in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// How a record ended: annotation `ztka.dev/end`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// All was sent.
    Complete,
    /// The client left first, or the request was cut off.
    Cancelled,
    /// The far side failed.
    Failed,
    /// The code that served it panicked.
    Panicked,
    /// What the client sent could not be recorded; it was not sent on, and the stream was ended.
    Unrecorded,
    /// It was let in and would not be any more, or asked for more than it may: the annotation `reason` says why.
    Denied,
    /// The process was gone before it ended; noted by its next start.
    Interrupted,
    /// The server stopped, and what would have gone on had its grace; the client was told to connect again.
    Stopped,
}

impl End {
    /// As the annotation spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Unrecorded => "unrecorded",
            Self::Denied => "denied",
            Self::Interrupted => "interrupted",
            Self::Stopped => "stopped",
        }
    }
}

/// Who asked (`authentication.k8s.io/v1` `UserInfo`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// The user's name, as policy and Kubernetes know it.
    pub username: String,
    /// The user's immutable id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The user's groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The user's attributes, by which conditions decide.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What was asked for, of requests for API objects.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// What was answered (`metav1.Status`, of which an event needs little).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResponseStatus {
    metadata: Empty,
    /// `Failure`, where the answer is an error of ours.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// What an error of ours said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The HTTP status.
    pub code: u16,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Empty {}

impl From<StatusCode> for ResponseStatus {
    fn from(code: StatusCode) -> Self {
        Self { code: code.as_u16(), ..Self::default() }
    }
}

/// One stage of one request.
///
/// Facts that `audit.k8s.io/v1` has no field for are annotations named `ztka.dev/<name>`; `docs` of the crate list them.
/// Every text was cleaned when it was put in: cut to a bound, and what has the look of a token replaced.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    kind: Cow<'static, str>,
    api_version: Cow<'static, str>,
    /// How much is recorded.
    pub level: Level,
    /// Names the request here, in the agent's receipts and in the apiserver's own log.
    #[serde(rename = "auditID")]
    pub audit_id: AuditId,
    /// When in the request's life.
    pub stage: Stage,
    /// Canonical path and query; of a malformed request those received.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// RBAC's verb; empty where it is not known.
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// Whom the request asks to act as; whether that was allowed is in the annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    /// Where from, as far as known.
    #[serde(rename = "sourceIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<IpAddr>,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    /// What was answered; none before an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    /// The request's body as it is recorded: an API object, or an object of kind `Body` that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Value>,
    /// The response's body, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Value>,
    /// When the request came, to the microsecond.
    #[serde(serialize_with = "micro")]
    pub request_received_timestamp: Timestamp,
    /// When this stage was reached, to the microsecond.
    #[serde(serialize_with = "micro")]
    pub stage_timestamp: Timestamp,
    /// Facts of our own.
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

/// `metav1.MicroTime`: RFC 3339 with exactly six digits.
pub(crate) fn micro<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

impl Event {
    /// An event of nobody asking for nothing; the parts that are known are filled in.
    pub fn new(audit_id: AuditId, stage: Stage, now: Timestamp) -> Self {
        Self {
            kind: Cow::Borrowed("Event"),
            api_version: Cow::Borrowed("audit.k8s.io/v1"),
            level: Level::Metadata,
            audit_id,
            stage,
            request_uri: String::new(),
            verb: String::new(),
            user: User { username: "system:anonymous".into(), ..User::default() },
            impersonated_user: None,
            source_ips: Vec::new(),
            user_agent: String::new(),
            object_ref: None,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now,
            stage_timestamp: now,
            annotations: Annotations::default(),
        }
    }

    /// Reads an event that [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// What is wrong with the JSON; fields that are not known are passed over.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The event as JSON: one line of printable characters whatever clients sent.
    pub fn to_json(&self) -> Vec<u8> {
        json::line(self)
    }

    /// The value of annotation `ztka.dev/<name>`.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.annotations.fact(name)
    }

    /// The least that is on record of any request, for level `None`: without path, object, client and addresses.
    pub(crate) fn least(&self) -> Self {
        let user = User { groups: Vec::new(), extra: BTreeMap::new(), ..self.user.clone() };
        let mut annotations = self.annotations.clone();
        annotations.remove("truncated");
        Self {
            request_uri: String::new(),
            user,
            source_ips: Vec::new(),
            user_agent: String::new(),
            object_ref: None,
            annotations,
            ..self.clone()
        }
    }

    pub(crate) fn asked_by(&mut self, who: &Principal) {
        let groups = who.groups().iter().take(MAX_GROUPS).map(ToString::to_string).collect();
        let extra = who.attributes().iter().take(MAX_GROUPS);
        let extra = extra.map(|(key, value)| (clean(key, MAX_TEXT), vec![clean(value, MAX_TEXT)])).collect();
        self.user = User { username: who.name().to_string(), uid: who.user().to_string(), groups, extra };
        self.annotations.set("org", who.org().as_str());
        self.annotations.set("credential", who.credential().as_str());
    }

    /// By somebody of whom no more is known than the certificate says: there is no name, only ids.
    pub(crate) fn asked_with(&mut self, certificate: &SpiffeId) {
        self.user.username = certificate.subject.to_string();
        match &certificate.subject {
            Subject::User { org, user, credential } => {
                self.user.uid = user.to_string();
                self.annotations.set("org", org.as_str());
                self.annotations.set("credential", credential.as_str());
            }
            Subject::Agent { org, .. } => self.annotations.set("org", org.as_str()),
            Subject::Proxy(_) | Subject::Controller(_) => {}
        }
    }

    pub(crate) fn asked_as(&mut self, whom: &Impersonation) {
        self.impersonated_user = Some(User {
            username: clean(whom.user(), MAX_TEXT),
            uid: clean(whom.uid().unwrap_or_default(), MAX_TEXT),
            groups: whom.groups().iter().take(MAX_GROUPS / 4).map(|group| clean(group, MAX_TEXT / 4)).collect(),
            extra: BTreeMap::new(),
        });
    }

    pub(crate) fn asked_at(&mut self, uri: &str) {
        let (uri, cut) = redact::target(uri, MAX_URI);
        self.request_uri = uri;
        if let Some(cut) = cut {
            self.annotations.set("truncated", format!("requestURI by {cut} bytes"));
        }
    }

    pub(crate) fn asked_for(&mut self, target: &RequestTarget) {
        if let RequestTarget::Resource { group, version, namespace, resource, subresource, name } = target {
            let text = |text: &Option<String>| text.as_deref().map(|text| clean(text, MAX_TEXT)).unwrap_or_default();
            self.object_ref = Some(ObjectRef {
                resource: clean(resource, MAX_TEXT),
                namespace: text(namespace),
                name: text(name),
                api_group: clean(group, MAX_TEXT),
                api_version: clean(version, MAX_TEXT),
                subresource: text(subresource),
            });
        }
    }
}

#[cfg(test)]
mod tests;
