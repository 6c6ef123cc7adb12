//! Errors of our own as the Kubernetes `Status` object that kubectl prints well (`meta/v1` `Status`).

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{Body, Principal, Reason, RequestAttributes, RequestTarget, body};

/// A `Status` of `kind: Status, apiVersion: v1`; every error that ZTKA answers with is one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Box<Details>>,
    retry_after: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: serde_json::Map<String, serde_json::Value>,
    status: &'static str,
    message: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: &'a Option<Box<Details>>,
    code: u16,
}

/// `metav1.StatusReason` of an HTTP status; empty where Kubernetes has none.
fn reason_of(code: StatusCode) -> &'static str {
    match code {
        StatusCode::BAD_REQUEST | StatusCode::URI_TOO_LONG => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "Timeout",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::GONE => "Expired",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY => "InternalError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "",
    }
}

impl Status {
    /// An error with this code and message.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        let reason = reason_of(code);
        Self { code, reason, message: message.into(), details: None, retry_after: None }
    }

    /// Tells the client to try again after this many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// 403 in the words of the apiserver's own RBAC authorizer, with policy's reason behind them
    /// (`k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`).
    pub fn forbidden(who: &Principal, what: &RequestAttributes, why: &str) -> Self {
        let (user, verb) = (who.name(), what.verb());
        // As the apiserver does: its answer must not look like HTML to a browser.
        let plain = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let (message, details) = match what.target() {
            RequestTarget::NonResource { path } => {
                let said = plain(format!("User \"{user}\" cannot {verb} path {path:?}"));
                (format!("forbidden: {said}: {why}"), Details::default())
            }
            RequestTarget::Resource { group, namespace, resource, subresource, name, .. } => {
                let kind = match subresource {
                    Some(subresource) => format!("{resource}/{subresource}"),
                    None => resource.clone(),
                };
                let qualified = match group.is_empty() {
                    true => resource.clone(),
                    false => format!("{resource}.{group}"),
                };
                let object = match name {
                    Some(name) => format!("{qualified} {name:?}"),
                    None => qualified,
                };
                let scope = match namespace {
                    Some(namespace) => format!("in the namespace {namespace:?}"),
                    None => "at the cluster scope".into(),
                };
                let said =
                    plain(format!("User \"{user}\" cannot {verb} resource {kind:?} in API group {group:?} {scope}"));
                let message = format!("{object} is forbidden: {said}: {why}");
                let details = Details {
                    name: name.clone().unwrap_or_default(),
                    group: group.clone(),
                    kind: resource.clone(),
                    retry_after_seconds: None,
                };
                (message, details)
            }
        };
        Self { details: Some(Box::new(details)), ..Self::new(StatusCode::FORBIDDEN, message) }
    }

    /// The HTTP status.
    pub fn code(&self) -> StatusCode {
        self.code
    }

    /// What kubectl prints.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The answer: JSON, whatever the client accepts, as the apiserver does for errors it cannot encode.
    pub fn into_response(self) -> Response<Body> {
        let wire = Wire {
            kind: "Status",
            api_version: "v1",
            metadata: serde_json::Map::new(),
            status: "Failure",
            message: &self.message,
            reason: self.reason,
            details: &self.details,
            code: self.code.as_u16(),
        };
        // Strings and numbers always serialise.
        let json = serde_json::to_vec(&wire).unwrap_or_default();
        let mut response = Response::new(body(json));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        // kubectl drops the message of a 401 where it asks what the cluster serves (client-go's `Result.Raw`), which comes
        // first with an empty cache; a warning it prints always.
        if self.code == StatusCode::UNAUTHORIZED
            && let Some(warning) = warning(&self.message)
        {
            headers.insert(header::WARNING, warning);
        }
        response
    }
}

/// `299 - "text"` (RFC 9111 §5.5 as Kubernetes uses it, `k8s.io/apimachinery/pkg/util/net/http.go`); what is not visible
/// ASCII is replaced.
fn warning(text: &str) -> Option<HeaderValue> {
    let mut quoted = String::with_capacity(text.len() + 8);
    quoted.push_str("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    HeaderValue::try_from(quoted).ok()
}

impl From<&Reason> for Status {
    fn from(reason: &Reason) -> Self {
        let code = match reason {
            Reason::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Reason::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Reason::Malformed(malformed) if malformed.is_too_long() => StatusCode::URI_TOO_LONG,
            Reason::Malformed(_) => StatusCode::BAD_REQUEST,
            Reason::Unrecorded(_) | Reason::NoPolicy(_) | Reason::Stale(_) => StatusCode::SERVICE_UNAVAILABLE,
            Reason::Denied(_) => StatusCode::FORBIDDEN,
            Reason::Overloaded(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        let status = Self::new(code, reason.to_string());
        match reason {
            Reason::Unrecorded(_) | Reason::NoPolicy(_) => status.retry_after(5),
            Reason::Overloaded(_) => status.retry_after(1),
            _ => status,
        }
    }
}

#[cfg(test)]
mod tests;
