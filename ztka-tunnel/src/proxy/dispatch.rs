//! The last service of a proxy's stack: sends what is permitted into a tunnel of its cluster.

use std::{
    convert::Infallible,
    fmt::Display,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use tower::Service;
use ztka_core::{Access, BoxError, ClusterId, Evidence, OrgId, Permitted, Reason, Reply, SentTwice, Status};

use super::{
    exchange::{Outcome, exchange},
    registry::{NoPlace, Registry},
};
use crate::{AUDIT_ID, OWN_PATHS};

/// A request moves to another tunnel so often.
const ATTEMPTS: usize = 4;

/// Sends permitted requests into a tunnel of their cluster, and nothing less than permitted.
///
/// The agent's answer is the reply, whatever it is. Answers of its own are `Status` objects: 503 with `Retry-After`
/// where no agent is connected or it has forgotten the user of a request whose body is on its way, 429 at the limit, 502
/// where the tunnel broke and nobody knows how far the agent came (503 for what changes nothing). A GET, HEAD or OPTIONS
/// without a body whose tunnel dies before a byte of the answer is sent once more, into another tunnel; its reply has the
/// extension [`SentTwice`]. The service itself never fails. A future or reply that is dropped resets the stream.
#[derive(Clone, Debug)]
pub struct Dispatch {
    registry: Registry,
}

impl Dispatch {
    /// Dispatches into `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }
}

impl<B> Service<Access<Permitted, B>> for Dispatch
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, access: Access<Permitted, B>) -> Self::Future {
        let registry = self.registry.clone();
        Box::pin(async move {
            let reply = match Parcel::pack(access) {
                Ok((parcel, body)) => registry.send(parcel, body).await,
                Err(status) => status.into(),
            };
            Ok(reply)
        })
    }
}

/// A request and where it goes.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) org: OrgId,
    pub(crate) cluster: ClusterId,
    /// What proves whose it is; none for what is nobody's.
    pub(crate) evidence: Option<Evidence>,
    pub(crate) head: Request<()>,
}

impl Parcel {
    fn pack<B>(access: Access<Permitted, B>) -> Result<(Self, B), Status> {
        let permitted = access.stage();
        let path = permitted.attributes().path_and_query().path();
        if path.starts_with(OWN_PATHS) {
            // Who may ask for any path still may not speak as the proxy.
            return Err(Status::new(StatusCode::NOT_FOUND, "no such path"));
        }
        let ours = [
            (&AUDIT_ID, Some(value(&permitted.id()))),
            (&ztka_core::EVIDENCE, Some(value(access.evidence().id()))),
            (&ztka_core::POLICY, Some(value(&permitted.grant().policy))),
            (&ztka_core::SOURCE, access.source().as_ref().map(value)),
        ];
        let (org, cluster) = (access.principal().org().clone(), access.cluster().clone());
        let evidence = Some(access.evidence().clone());
        let (head, body) = access.into_request().into_parts();
        let mut head = Request::from_parts(head, ());
        // Ours come last, into headers that nothing of the client's can be in.
        for (name, value) in ours {
            if let Some(value) = value {
                head.headers_mut().insert(name, value?);
            }
        }
        Ok((Self { org, cluster, evidence, head }, body))
    }
}

fn value(of: &impl Display) -> Result<HeaderValue, Status> {
    let unwritable = |_| Status::new(StatusCode::INTERNAL_SERVER_ERROR, "an id cannot be written as a header");
    HeaderValue::try_from(of.to_string()).map_err(unwritable)
}

impl Registry {
    pub(crate) async fn send<B>(&self, parcel: Parcel, mut body: B) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let Parcel { org, cluster, evidence, head } = parcel;
        let mut broken = false;
        let note = |mut reply: Reply, broken: bool| {
            match &mut reply {
                Reply::Response(response) if broken => _ = response.extensions_mut().insert(SentTwice),
                Reply::Upgraded { head, .. } if broken => _ = head.extensions_mut().insert(SentTwice),
                _ => {}
            }
            reply
        };
        for _ in 0..ATTEMPTS {
            let lease = match self.place(&org, &cluster) {
                Ok(lease) => lease,
                Err(NoPlace::Away) if broken => return lost(head.method()),
                Err(NoPlace::Away) => return away(&cluster),
                Err(NoPlace::Full) => {
                    let reason = Reason::Overloaded("the cluster's tunnels carry all the requests they can; try again");
                    return Status::from(&reason).into();
                }
            };
            let tunnel = lease.tunnel().clone();
            if let Some(evidence) = &evidence
                && let Err(unproven) = tunnel.prove(evidence).await
            {
                match unproven.reply() {
                    Some(reply) => return reply,
                    None => {
                        tunnel.leave();
                        continue;
                    }
                }
            }
            body = match exchange(lease, head.clone(), body).await {
                Outcome::Reply(reply) => return note(reply, broken),
                Outcome::Untouched(body) => body,
                Outcome::Unproven(body) => {
                    let Some(evidence) = &evidence else { return forgotten() };
                    tunnel.proven.forget(evidence.id());
                    body
                }
                Outcome::Forgotten => {
                    // Only the client has the body once more.
                    if let Some(evidence) = &evidence {
                        tunnel.proven.forget(evidence.id());
                    }
                    return forgotten();
                }
                Outcome::Broken(body, error) if !broken => {
                    tracing::info!(%cluster, %error, "the tunnel broke under a request, which is sent once more");
                    broken = true;
                    body
                }
                Outcome::Broken(_, error) | Outcome::Lost(error) => {
                    tracing::info!(%cluster, %error, "the tunnel broke under a request");
                    return note(lost(head.method()), broken);
                }
            };
        }
        away(&cluster)
    }
}

fn away(cluster: &ClusterId) -> Reply {
    let text = format!(
        "the agent of cluster {cluster} is not connected; if this lasts, check that its pod runs and reaches the proxy"
    );
    Status::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1).into()
}

fn forgotten() -> Reply {
    let text = "the cluster's agent had forgotten who you are, and has done nothing; try again";
    Status::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1).into()
}

/// kubectl repeats whatever carries `Retry-After`, so only what can be repeated does.
fn lost(method: &Method) -> Reply {
    if method.is_safe() {
        let text = "the tunnel to the cluster broke before the answer came";
        return Status::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1).into();
    }
    let text = "the tunnel to the cluster broke before the answer came; the change may or may not have been made, \
                look before you repeat it";
    Status::new(StatusCode::BAD_GATEWAY, text).into()
}
