//! What a guard refuses, and how that is answered and recorded.

use http::{HeaderValue, Response, StatusCode, header};
use ztka_core::{Body, Reason, Status};
use ztka_tunnel::BadFrames;

/// Why the bytes of a connection were refused. The connection ends with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Not one well-formed message after the other: 400.
    #[error("bad framing: {0}")]
    Malformed(&'static str),
    /// The request target is longer than 65,534 bytes: 414.
    #[error("the request target is longer than 65,534 bytes")]
    TargetTooLong,
    /// The head of a request is larger than 128 KiB or has more than 500 header lines: 431.
    #[error("the head of the request is larger than 128 KiB or has more than 500 header lines")]
    HeadTooLarge,
    /// A head was begun and not finished in time: 408.
    #[error("the head of the request was not complete in time")]
    SlowHead,
    /// More frames that carry nothing than any client needs; the connection is closed.
    #[error("flood of {0}")]
    Flood(&'static str),
}

impl From<BadFrames> for Violation {
    fn from(bad: BadFrames) -> Self {
        match bad {
            BadFrames::Flood(what) => Self::Flood(what),
            BadFrames::SlowHead => Self::SlowHead,
            _ => Self::Malformed("the connection does not begin with the preface of HTTP/2"),
        }
    }
}

impl Violation {
    /// The answer over HTTP/1.1, where one can still be given: the connection closes behind it.
    pub(crate) fn answer(&self) -> Response<Body> {
        let mut response = self.status().into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// What the user is told.
    pub fn status(&self) -> Status {
        let code = match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::SlowHead => StatusCode::REQUEST_TIMEOUT,
            Self::Flood(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        Status::new(code, self.to_string())
    }

    /// The same for the record.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(why) => Reason::framing(why),
            Self::TargetTooLong => Reason::framing("the request target is too long"),
            Self::HeadTooLarge => Reason::framing("the head of the request is too large"),
            Self::SlowHead => Reason::framing("the head of the request was not complete in time"),
            Self::Flood(what) => Reason::Overloaded(what),
        }
    }
}
