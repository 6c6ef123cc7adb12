//! Requests and answers in JSON.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use ztka_core::{Body, BoxError, KeyId, body};

use super::event::EnrolmentRefusal;
use crate::trust::TrustBundle;

/// Where [`EnrolmentService`](super::EnrolmentService) answers.
pub const ENROL_PATH: &str = "/v1/enrol";
/// Where [`RenewalService`](super::RenewalService) answers.
pub const RENEW_PATH: &str = "/v1/renew";
/// Where [`ReplicaService`](super::ReplicaService) answers.
pub const INSTANCES_PATH: &str = "/v1/instances";

const MAX_REQUEST: usize = 64 * 1024;

/// `POST /v1/enrol`
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRequest {
    /// The token's text.
    pub token: String,
    /// The certificate signing request in PEM.
    pub csr: String,
}

impl std::fmt::Debug for EnrolmentRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentRequest").field("csr", &self.csr).finish_non_exhaustive()
    }
}

/// `POST /v1/renew`, over a connection that was made with the certificate to be renewed; and `POST /v1/instances`, over
/// one made with that of another agent of the cluster.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenewalRequest {
    /// The certificate signing request in PEM; its key should be new.
    pub csr: String,
}

/// The answer to all.
#[derive(Debug, Deserialize, Serialize)]
pub struct EnrolmentAnswer {
    /// The name given: a SPIFFE id.
    pub id: String,
    /// The chain in PEM, the leaf first.
    pub chain: String,
    /// Whom to trust from now on.
    pub trust: TrustBundle,
    /// The `trust` document in wire form, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<RawValue>>,
}

impl EnrolmentAnswer {
    pub(super) fn into_response(self) -> Response<Body> {
        // Strings, lists and JSON always serialise.
        let mut response = Response::new(body(serde_json::to_vec(&self).unwrap_or_default()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The answer, with status 202, to a key that waits for approval: ask again.
#[derive(Debug, Deserialize, Serialize)]
pub struct WaitingAnswer {
    /// What is waited for, and by which key.
    pub message: String,
    /// The key: SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
    pub key: KeyId,
    /// When to ask again, in seconds; `Retry-After` says the same.
    pub retry_after_seconds: u32,
}

impl WaitingAnswer {
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(body(serde_json::to_vec(&self).unwrap_or_default()));
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::RETRY_AFTER, self.retry_after_seconds.into());
        response
    }
}

/// Head, and the object in the body, of at most 64 KiB.
pub(super) async fn read<T, B>(request: Request<B>) -> (Parts, Result<T, EnrolmentRefusal>)
where
    T: DeserializeOwned,
    B: http_body::Body<Error: Into<BoxError>> + Send,
{
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_REQUEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return (head, Err(EnrolmentRefusal::TooLarge)),
        Err(_) => return (head, Err(EnrolmentRefusal::Request("the body ends early".into()))),
    };
    let object = parse(&body);
    (head, object)
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, EnrolmentRefusal> {
    // A list of the fields would be taken for the object: one spelling is enough.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(EnrolmentRefusal::Request("it is no object".into()));
    }
    // The place only: the text may hold a secret.
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or of another type",
            _ => "it is not well-formed",
        };
        EnrolmentRefusal::Request(format!("{what} (line {}, column {})", error.line(), error.column()))
    })
}
