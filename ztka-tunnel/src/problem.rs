//! Answers of the tunnel's own, in a form that whoever embeds it chooses.

use std::{borrow::Cow, fmt, fmt::Write as _};

use http::{HeaderValue, Response, StatusCode, header};
use ztka_core::{Body, body};

/// Why a request has no answer of the far end's, before that has a form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<u32>,
}

impl Problem {
    /// `detail` says to a person what has happened, and what to do about it.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }

    /// It may be tried again after so many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What has happened, for a person.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// After how many seconds it may be tried again, where that makes sense.
    pub fn seconds(&self) -> Option<u32> {
        self.retry_after
    }

    /// `application/problem+json` (RFC 9457), with `Retry-After` where it may be tried again.
    pub fn into_response(self) -> Response<Body> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut json =
            format!(r#"{{"type":"about:blank","title":"{title}","status":{},"detail":""#, self.status.as_u16());
        for c in self.detail.chars() {
            // RFC 8259 §7; writing to a string does not fail.
            let _ = match c {
                '"' | '\\' => write!(json, "\\{c}"),
                c if c.is_control() && c.is_ascii() => write!(json, "\\u{:04x}", u32::from(c)),
                c => write!(json, "{c}"),
            };
        }
        json.push_str("\"}\n");
        let mut response = Response::new(body(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The form of a server's [`Problem`]s: [`Problem::into_response`] unless it has another one.
#[derive(Clone, Copy)]
pub struct Refusals(fn(Problem) -> Response<Body>);

impl Refusals {
    /// Answers what `form` makes of a problem. Its status should be the problem's.
    pub fn new(form: fn(Problem) -> Response<Body>) -> Self {
        Self(form)
    }

    pub(crate) fn answer(self, problem: Problem) -> Response<Body> {
        (self.0)(problem)
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Problem::into_response)
    }
}

/// The same function is the same form; the other way round a compiler promises nothing.
impl PartialEq for Refusals {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Refusals {}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_problem_is_json_whatever_is_said() {
        let detail = "\"a\\b\"\n\u{1b}[31mü";
        let response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(3).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "3");
        let json = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            json,
            concat!(
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"#,
                r#""detail":"\"a\\b\"\u000a\u001b[31mü"}"#,
                "\n"
            )
        );
    }
}
