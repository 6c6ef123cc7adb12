//! Bodies in and out: JSON, and errors as problem details.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use ztka_api::{Code, PROBLEM_JSON, Problem};
use ztka_core::BoxError;
use ztka_identity::{OutageKind, StoreError};

/// A problem as the answer. Boxed: it is the rare case.
#[derive(Debug)]
pub(crate) struct ApiError {
    problem: Box<Problem>,
    store_failed: bool,
}

/// Extension of an answer that says that the store cannot be used.
#[derive(Clone, Debug)]
pub(super) struct StoreFailed(Problem);

impl StoreFailed {
    /// The same answer with more about it.
    pub(super) fn saying(&self, more: &str) -> Response {
        ApiError::from(self.0.clone().with_detail(format!("{}{more}", self.0.detail()))).into_response()
    }
}

pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: Code, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Problem::new(code, detail, action).into()
    }

    /// The request cannot be understood; `text` says why and, behind the last semicolon, what to do.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::worded(Code::Invalid, text.into())
    }

    /// The same, with where in what was sent it is wrong.
    pub(crate) fn at(self, pointer: impl Into<Box<str>>) -> Self {
        let Self { problem, store_failed } = self;
        Self { problem: Box::new(problem.at(pointer)), store_failed }
    }

    /// The same of one object that was sent, where it is known in the whole policy.
    pub(crate) fn of_one(self) -> Self {
        let Some(pointer) = self.problem.pointer() else { return self };
        // `/bindings/3/when`, but `/settings/viewExec`.
        let mut steps = pointer.trim_start_matches('/').split('/').skip(1).peekable();
        if steps.peek().is_some_and(|step| step.bytes().all(|byte| byte.is_ascii_digit())) {
            steps.next();
        }
        let within: String = steps.map(|step| format!("/{step}")).collect();
        self.at(within)
    }

    fn worded(code: Code, text: String) -> Self {
        match text.rsplit_once("; ") {
            Some((detail, action)) => Self::new(code, detail, action),
            None => Self::new(code, text, "correct that and try again"),
        }
    }

    /// Something of ours failed, which our log describes and the answer does not.
    pub(crate) fn failed(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        tracing::error!(error = &*error, "a request to the API failed");
        if let Some(kind) = OutageKind::of(&*error) {
            let problem = Problem::new(Code::Unavailable, kind.to_string(), kind.action());
            let problem = problem.because(format!("database_{}", kind.as_str()));
            return Self { store_failed: true, ..problem.into() };
        }
        Self::new(Code::Unavailable, "the controller cannot do this now", "try again, and see the controller's log")
    }

    pub(crate) fn not_found(what: &'static str, name: impl ToString) -> Self {
        StoreError::not_found(what, name).into()
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), store_failed: false }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::new(Code::NotFound, error.to_string(), "check the id"),
            StoreError::Exists { .. } => Self::worded(Code::Exists, error.to_string()),
            StoreError::Refused(text) => Self::worded(Code::Refused, text),
            StoreError::Changed { .. } => Self::worded(Code::Changed, error.to_string()),
            StoreError::Compacted => Self::worded(Code::Gone, error.to_string()),
            StoreError::Unavailable(source) => Self { store_failed: true, ..Self::failed(source) },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Strings and a number always serialise.
        let json = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.problem.code().status();
        if self.store_failed {
            response.extensions_mut().insert(StoreFailed(*self.problem.clone()));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// JSON, in a request or an answer.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A new thing, as the answer.
#[derive(Debug)]
pub(crate) struct Created<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        // A browser sends no such request to another site without asking it first.
        if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json")) {
            return Err(ApiError::invalid("the body is not JSON; send it with content-type application/json"));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(Code::TooLarge, "the body is larger than this path takes", "send less at once")
            }
            _ => ApiError::invalid("the body ends early; send it again"),
        })?;
        let object = serde_json::from_slice(&body);
        object
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("the body is not what is expected: {error}; correct it")))
    }
}

fn respond(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => {
            let mut response = Response::new(Body::from(json));
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => ApiError::failed(error).into_response(),
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        respond(StatusCode::OK, &self.0)
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        respond(StatusCode::CREATED, &self.0)
    }
}

/// The query, which has no unknown fields.
pub(crate) fn query<T: DeserializeOwned>(query: Option<&str>) -> Answer<T> {
    let read = serde_urlencoded::from_str(query.unwrap_or_default());
    read.map_err(|error| ApiError::invalid(format!("the query is not what is expected: {error}; correct it")))
}
