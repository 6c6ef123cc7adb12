//! JSON calls to the apiserver: as the agent itself, and as an account to see how far it has come.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::timeout;
use ztka_core::{Body, Status, body, empty};

use super::acting::Acting;
use crate::{Pool, UpstreamError};

/// Items of a list in one answer.
const PAGE: usize = 250;
/// The longest answer that is read.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// For one call.
const PATIENCE: Duration = Duration::from_secs(15);

/// The agent's own credential: a service account token in a file, which the kubelet replaces before it expires.
///
/// It is a file and never a client certificate: users' requests go over connections of the same TLS configuration, and
/// an apiserver believes a client certificate before a bearer token.
#[derive(Clone, Debug)]
pub struct AgentToken(PathBuf);

impl AgentToken {
    /// Where a pod finds the token of its service account.
    pub const IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

    /// Read anew for each call, so that a new token is used at once.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self(path.as_ref().into())
    }

    async fn authorization(&self) -> Result<HeaderValue, CallError> {
        let read = tokio::fs::read_to_string(&self.0).await;
        let token = read.map_err(|source| CallError::Token { path: self.0.clone(), source })?;
        bearer(token.trim()).ok_or_else(|| CallError::NoToken { path: self.0.clone() })
    }
}

/// A value for `Authorization` that no log shows.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

/// A call did not get the answer it was made for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the token file {} cannot be read; check token_file and its permissions", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the token file {} holds no token", path.display())]
    NoToken { path: PathBuf },
    #[error("the call could not be made")]
    Unanswered(#[source] UpstreamError),
    #[error("the apiserver did not answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the answer cannot be read")]
    Unreadable,
    #[error("{what} was refused with {code}: {message}")]
    Refused { what: &'static str, code: StatusCode, message: String },
    #[error("the cluster has not taken up the account's permissions yet")]
    NotReady,
}

impl CallError {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: StatusCode::NOT_FOUND, .. })
    }

    /// What the user is told; the log has the rest.
    pub(crate) fn status(&self) -> Status {
        let (message, seconds) = match self {
            Self::NotReady => ("the cluster is still taking up your permissions; try again".to_owned(), 1),
            Self::Refused { code: StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, .. } => (
                "the cluster's agent may not prepare your account; its owner is to apply the agent's manifest again"
                    .to_owned(),
                30,
            ),
            other => (format!("the cluster's agent could not prepare your account: {other}"), 2),
        };
        Status::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(seconds)
    }
}

/// What an apiserver answered: any status, and JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) json: Value,
}

impl Answer {
    /// The JSON of an answer that says yes.
    pub(crate) fn accepted(self, what: &'static str) -> Result<Value, CallError> {
        if self.code.is_success() {
            return Ok(self.json);
        }
        let message = self.json.get("message").and_then(Value::as_str).unwrap_or_default();
        let message = message.chars().take(500).collect();
        Err(CallError::Refused { what, code: self.code, message })
    }
}

/// Calls one apiserver.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pool,
    token: AgentToken,
}

impl Client {
    /// Calls by `pool` with `token`.
    pub fn new(pool: Pool, token: AgentToken) -> Self {
        Self { pool, token }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, CallError> {
        self.call(Method::GET, path, None, self.itself().await?).await
    }

    /// All items of a collection, page by page; `path` has a query already.
    pub(crate) async fn list(&self, what: &'static str, path: &str) -> Result<Vec<Value>, CallError> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}&limit={PAGE}{next}")).await?.accepted(what)?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                None | Some("") => return Ok(items),
                // Base64 in the alphabet for URLs.
                Some(token) => next = format!("&continue={token}"),
            }
        }
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, CallError> {
        self.call(Method::DELETE, path, None, self.itself().await?).await
    }

    /// Replaces an object by one that says which version of it is replaced.
    pub(crate) async fn put(&self, path: &str, json: &Value) -> Result<Answer, CallError> {
        let content = ("application/json", json);
        self.call(Method::PUT, path, Some(content), self.itself().await?).await
    }

    pub(crate) async fn post(&self, path: &str, json: &Value) -> Result<Answer, CallError> {
        let content = ("application/json", json);
        self.call(Method::POST, path, Some(content), self.itself().await?).await
    }

    /// Server-side apply: creates or changes, and writes nothing where nothing differs.
    pub(crate) async fn apply(&self, path: &str, json: &Value) -> Result<Answer, CallError> {
        let path = format!("{path}?fieldManager=ztka-agent&force=true");
        let content = ("application/apply-patch+yaml", json);
        self.call(Method::PATCH, &path, Some(content), self.itself().await?).await
    }

    /// The same for what is the agent's alone: an object of its name that cannot be made what it should be, since somebody has
    /// made it by hand with what cannot be changed, is removed first.
    pub(crate) async fn impose(&self, path: &str, json: &Value) -> Result<Answer, CallError> {
        let answer = self.apply(path, json).await?;
        if answer.code != StatusCode::UNPROCESSABLE_ENTITY {
            return Ok(answer);
        }
        self.delete(path).await?;
        self.apply(path, json).await
    }

    /// Calls as an account.
    pub(crate) async fn post_as(&self, who: Acting, path: &str, json: &Value) -> Result<Answer, CallError> {
        self.call(Method::POST, path, Some(("application/json", json)), who).await
    }

    async fn itself(&self) -> Result<Acting, CallError> {
        self.token.authorization().await.map(Acting::by_token)
    }

    async fn call(
        &self,
        method: Method,
        target: &str,
        content: Option<(&'static str, &Value)>,
        who: Acting,
    ) -> Result<Answer, CallError> {
        let mut request = Request::builder().method(method).uri(target).header(header::ACCEPT, "application/json");
        let body = match content {
            Some((kind, json)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                body(json.to_string())
            }
            None => empty(),
        };
        let mut request = request.body(body).map_err(|_| CallError::Unreadable)?;
        who.apply(request.headers_mut());
        let exchange = async {
            let response = self.pool.send(request).await.map_err(CallError::Unanswered)?;
            let code = response.status();
            let bytes = read(response.into_body()).await?;
            // Errors may be plain text, such as a 401 of an early filter.
            let json = match serde_json::from_slice(&bytes) {
                Ok(json) => json,
                Err(_) if !code.is_success() => Value::Null,
                Err(_) => return Err(CallError::Unreadable),
            };
            Ok(Answer { code, json })
        };
        timeout(PATIENCE, exchange).await.unwrap_or(Err(CallError::Late))
    }
}

async fn read(mut body: Body) -> Result<Vec<u8>, CallError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| CallError::Unreadable)?;
        if let Some(data) = frame.data_ref() {
            if read.len() + data.len() > MAX_ANSWER {
                return Err(CallError::Unreadable);
            }
            read.extend_from_slice(data);
        }
    }
    Ok(read)
}
