//! Errors as the API gives them: problem details of RFC 9457.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of error it is. Stable: scripts may rely on it, unlike on the texts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No valid client certificate, or its session is over, revoked or disabled: 401.
    Unauthenticated,
    /// The caller may not do this: 403.
    Forbidden,
    /// No such thing, or not one that the caller may know of: 404.
    NotFound,
    /// The path exists, but not with this method: 405.
    MethodNotAllowed,
    /// The name is taken: 409.
    Exists,
    /// The state of things does not allow it: 409.
    Refused,
    /// Somebody else has changed it since the version that `If-Match` names: 412.
    Changed,
    /// What was asked for is not kept any more; begin again: 410.
    Gone,
    /// The request cannot be understood: 400.
    Invalid,
    /// The body is larger than this route takes: 413.
    TooLarge,
    /// The controller cannot do it now; try again: 503.
    Unavailable,
    /// A fault of the controller, described in its log: 500.
    Internal,
    /// A code newer than this client.
    #[serde(other)]
    Unknown,
}

/// An error of the API.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// RFC 9457's type: always `about:blank`, as `code` is what tells kinds apart.
    #[serde(rename = "type", default = "blank")]
    kind: String,
    /// The HTTP status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong, this time.
    detail: String,
    /// What kind of error it is.
    code: Code,
    /// What to do about it.
    action: String,
    /// In which way the controller cannot do it now: a word as stable as the code, such as `database_full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Box<str>>,
    /// Where in what was sent it is wrong: a JSON pointer (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pointer: Option<Box<str>>,
}

fn blank() -> String {
    "about:blank".into()
}

impl Code {
    /// The HTTP status that goes with it.
    pub fn status(self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Exists | Self::Refused => StatusCode::CONFLICT,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::Gone => StatusCode::GONE,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Problem {
    /// An error of this kind; `detail` says what is wrong, `action` what to do.
    pub fn new(code: Code, detail: impl Into<String>, action: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            kind: blank(),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            action: action.into(),
            reason: None,
            pointer: None,
        }
    }

    /// The same, with a word for programs.
    #[must_use]
    pub fn because(self, reason: impl Into<Box<str>>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    /// The same, with something added to what is wrong.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// The same, with where in what was sent it is wrong.
    #[must_use]
    pub fn at(self, pointer: impl Into<Box<str>>) -> Self {
        Self { pointer: Some(pointer.into()), ..self }
    }

    /// Where in what was sent it is wrong, if it says so: a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }

    /// In which way the controller cannot do it now, if it says so.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// What kind of error it is.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What is wrong.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What to do about it.
    pub fn action(&self) -> &str {
        &self.action
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action.is_empty() {
            true => f.write_str(&self.detail),
            false => write!(f, "{}; {}", self.detail, self.action),
        }
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_problem_json_and_survives_newer_codes() {
        let problem = Problem::new(Code::Exists, "there is a user \"a\" already", "choose another name");
        let json = serde_json::to_value(&problem).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Conflict", "status": 409,
            "detail": "there is a user \"a\" already", "code": "exists", "action": "choose another name",
        });
        assert_eq!(json, expected);
        assert_eq!(problem.to_string(), "there is a user \"a\" already; choose another name");
        let newer = r#"{"title": "Teapot", "status": 418, "detail": "tea", "code": "teapot", "action": "", "more": 1}"#;
        assert_eq!(serde_json::from_str::<Problem>(newer).unwrap().code(), Code::Unknown);
    }
}
