//! Sends permitted requests to the apiserver, each under the service account made for its user.

mod pool;
mod watches;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper_util::rt::TokioIo;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tower::Service;
use ztka_core::{
    Access, Body, BoxError, Permitted, Principal, Reply, RequestTarget, Status, Upgrade, Verb, Verified, empty, hold,
};

use crate::accounts::{Acting, InUse};

pub use self::pool::{InvalidApiserver, Pool, UpstreamError};

/// Kubernetes' name for the id of an audit record; the apiserver takes it over into its own log.
static AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// After these pauses a request that was refused is sent again, within the two seconds of a new account.
const SENT_AGAIN: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];

/// Gives the credential under which a user's requests are made.
#[async_trait::async_trait]
pub trait Accounts: Send + Sync + fmt::Debug + 'static {
    /// The account that stands for `principal`, for a request in `namespace`.
    ///
    /// # Errors
    /// What the user is told: 403 or 503.
    async fn acting(&self, principal: &Verified<Principal>, namespace: Option<&str>) -> Result<Acting, Status>;

    /// Held for as long as something is open in the account, which is in use by that.
    fn in_use(&self, principal: &Verified<Principal>) -> InUse;

    /// The apiserver answered 401 or 403 to what policy allows: something of the account may be missing.
    async fn refused(&self, principal: &Verified<Principal>, code: StatusCode);

    /// True if accounts may do less than policy gives, for the cluster's own roles have a say as well. False unless it is said.
    fn are_bounded(&self) -> bool {
        false
    }
}

/// The innermost service of the agent: an account for the user, then the apiserver.
#[derive(Clone, Debug)]
pub struct Upstream {
    pool: Pool,
    accounts: Arc<dyn Accounts>,
}

impl Upstream {
    /// Sends through `pool`, whatever authority a request names, as the accounts that `accounts` gives.
    pub fn new(pool: Pool, accounts: Arc<dyn Accounts>) -> Self {
        Self { pool, accounts }
    }

    async fn send(self, access: Access<Permitted, Body>) -> Reply {
        let principal = access.principal().clone();
        let namespace = match access.stage().attributes().target() {
            RequestTarget::Resource { namespace, .. } => namespace.as_deref(),
            RequestTarget::NonResource { .. } => None,
        };
        let acting = match self.accounts.acting(&principal, namespace).await {
            Ok(acting) => acting,
            Err(status) => return status.into(),
        };
        let watches = access.stage().attributes().verb() == Verb::Watch;
        let stays = access.stage().attributes().is_long_running();
        let id = access.stage().id().to_string();
        let mut request = access.into_request();
        *request.version_mut() = Version::HTTP_11;
        // Ours come last, into headers that nothing of the client's can be in.
        let is_fresh = acting.is_fresh();
        let headers = request.headers_mut();
        acting.apply(headers);
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(&AUDIT_ID, id);
        }
        let upgrade = request.extensions_mut().remove::<Upgrade>();
        let again = is_fresh && upgrade.is_none() && may_be_sent_again(&request);
        let sent = match upgrade {
            Some(upgrade) => self.upgrade(request, upgrade).await,
            None if again => self.patiently(request, watches).await,
            None => self.once(request, watches).await,
        };
        let code = code_of(&sent);
        if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&code) {
            self.accounts.refused(&principal, code).await;
        }
        if code == StatusCode::UNAUTHORIZED {
            // Nobody but us is to tell users to log in. Clients try again by themselves after a 503.
            let message = "the cluster did not accept your account, which is made anew; try again";
            return Status::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(1).into();
        }
        let sent = match sent {
            Ok(reply) if stays && code != StatusCode::FORBIDDEN => Ok(hold(reply, self.accounts.in_use(&principal))),
            sent => sent,
        };
        sent.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "request not answered by the apiserver");
            let message = format!("the cluster's agent is connected, but {error}");
            Status::new(StatusCode::BAD_GATEWAY, message).into()
        })
    }

    async fn once(&self, request: Request<Body>, watches: bool) -> Result<Reply, UpstreamError> {
        match watches && request.body().is_end_stream() {
            true => self.pool.watch(request).await.map(answered),
            false => self.pool.send(request).await.map(answered),
        }
    }

    /// Sends a request of an account that is new, and again while the answer is 403: the apiserver that was asked whether the
    /// account is ready need not be the one that answers.
    async fn patiently(&self, request: Request<Body>, watches: bool) -> Result<Reply, UpstreamError> {
        let (head, _) = request.into_parts();
        for pause in SENT_AGAIN {
            let sent = self.once(Request::from_parts(head.clone(), empty()), watches).await;
            if code_of(&sent) != StatusCode::FORBIDDEN {
                return sent;
            }
            tokio::time::sleep(pause).await;
        }
        self.once(Request::from_parts(head, empty()), watches).await
    }

    async fn upgrade(&self, mut request: Request<Body>, upgrade: Upgrade) -> Result<Reply, UpstreamError> {
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade.token()));
        let mut response = self.pool.send_alone(request).await?;
        // Only a 101 is an accepted upgrade: a 2xx is an answer like any other.
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = response.map(|body| Body::new(http_body_util::BodyExt::map_err(body, BoxError::from)));
            return Ok(Reply::Response(end_to_end(response)));
        }
        let switched = hyper::upgrade::on(&mut response).await;
        Ok(match switched {
            Ok(io) => {
                let io = Box::pin(TokioIo::new(io).compat());
                Reply::Upgraded { head: end_to_end(response).map(drop), io }
            }
            Err(error) => {
                let message = format!("the apiserver accepted the upgrade and broke off: {error}");
                Status::new(StatusCode::BAD_GATEWAY, message).into()
            }
        })
    }
}

fn may_be_sent_again(request: &Request<Body>) -> bool {
    [Method::GET, Method::HEAD].contains(request.method()) && request.body().is_end_stream()
}

fn code_of(sent: &Result<Reply, UpstreamError>) -> StatusCode {
    match sent {
        Ok(Reply::Response(response)) => response.status(),
        _ => StatusCode::OK,
    }
}

fn answered(response: Response<Body>) -> Reply {
    Reply::Response(end_to_end(response))
}

/// Without the headers that were for our connection alone (RFC 9110 §7.6.1).
fn end_to_end<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    response
}

impl Service<Access<Permitted, Body>> for Upstream {
    type Response = Reply;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Reply, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, access: Access<Permitted, Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.send(access).await) })
    }
}
