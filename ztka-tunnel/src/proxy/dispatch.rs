//! The last service of a proxy's stack: sends what is permitted into a tunnel of its cluster.

use std::{
    convert::Infallible,
    fmt::{Debug, Display},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body;
use tower::Service;
use ztka_core::{Access, BoxError, ClusterId, Evidence, OrgId, Permitted, ProxyId, Reply, SentTwice, UserId, Via};

use super::{
    exchange::{Outcome, exchange},
    lease::Lease,
    peers::Peers,
    registry::{NoPlace, Registry},
};
use crate::{
    AUDIT_ID, OWN_PATHS, Problem, figures,
    wire::{BROKEN, NONE, TUNNEL},
};

/// A request moves to another tunnel so often.
const ATTEMPTS: usize = 4;

/// Sends permitted requests into a tunnel of their cluster, and nothing less than permitted.
///
/// The agent's answer is the reply, whatever it is. Answers of its own are [`Problem`]s: 503 with `Retry-After`
/// where no agent is connected or it has forgotten the user of a request whose body is on its way, 429 at the limit, 502
/// where the tunnel broke and nobody knows how far the agent came (503 for what changes nothing). A GET, HEAD or OPTIONS
/// without a body whose tunnel dies before a byte of the answer is sent once more, into another tunnel; its reply has the
/// extension [`SentTwice`]. The service itself never fails. A future or reply that is dropped resets the stream.
///
/// With [peers](Self::with_peers) a request for a cluster without a tunnel here goes to a proxy that has one, and its reply has
/// the extension [`Via`].
#[derive(Clone, Debug)]
pub struct Dispatch {
    registry: Registry,
    peers: Option<Peers>,
}

impl Dispatch {
    /// Dispatches into `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry, peers: None }
    }

    /// Sends what has no tunnel here to one of `peers` that has.
    #[must_use]
    pub fn with_peers(self, peers: Peers) -> Self {
        Self { peers: Some(peers), ..self }
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
        let (registry, peers) = (self.registry.clone(), self.peers.clone());
        Box::pin(async move {
            let beyond = peers.as_ref().map_or(Beyond::Nothing, Beyond::Peers);
            let reply = match Parcel::pack(access) {
                Ok((parcel, body)) => registry.send(parcel, body, beyond).await,
                Err(problem) => registry.refuse(problem),
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
    /// Whose it is, by id; none for what is nobody's.
    pub(crate) user: Option<UserId>,
    pub(crate) head: Request<()>,
}

impl Parcel {
    pub(super) fn pack<B>(access: Access<Permitted, B>) -> Result<(Self, B), Problem> {
        let permitted = access.stage();
        let path = permitted.attributes().path_and_query().path();
        if path.starts_with(OWN_PATHS) {
            // Who may ask for any path still may not speak as the proxy.
            return Err(Problem::new(StatusCode::NOT_FOUND, "no such path"));
        }
        let ours = [
            (&AUDIT_ID, Some(value(&permitted.id()))),
            (&ztka_core::EVIDENCE, Some(value(access.evidence().id()))),
            (&ztka_core::POLICY, Some(value(&permitted.grant().policy))),
            (&ztka_core::SOURCE, access.source().as_ref().map(value)),
        ];
        let (org, cluster) = (access.principal().org().clone(), access.cluster().clone());
        let (evidence, user) = (Some(access.evidence().clone()), Some(access.principal().user().clone()));
        let (head, body) = access.into_request().into_parts();
        let mut head = Request::from_parts(head, ());
        // Ours come last, into headers that nothing of the client's can be in.
        for (name, value) in ours {
            if let Some(value) = value {
                head.headers_mut().insert(name, value?);
            }
        }
        Ok((Self { org, cluster, evidence, user, head }, body))
    }
}

fn value(of: &impl Display) -> Result<HeaderValue, Problem> {
    let unwritable = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an id cannot be written as a header");
    HeaderValue::try_from(of.to_string()).map_err(unwritable)
}

/// Where a request may go that has no tunnel here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beyond<'a> {
    /// Nowhere, since there is nobody else.
    Nothing,
    /// To another proxy that has one.
    Peers(&'a Peers),
    /// Nowhere, since another proxy has sent it here; that one decides what else can be tried.
    Back,
}

/// What an attempt has led to.
enum Step<B> {
    /// The answer.
    Done(Reply),
    /// Nothing was done: once more, with the body.
    Again(B),
    /// The tunnel broke under it, and it may be sent once more.
    Broken(B),
    /// The tunnel broke under it, and it may not.
    Lost,
    /// The other proxy has no tunnel; the body, if it is as it was.
    NotThere(Option<B>),
}

impl Registry {
    /// An answer of our own.
    pub(super) fn refuse(&self, problem: Problem) -> Reply {
        Reply::Response(self.settings().refusals.answer(problem))
    }

    pub(super) async fn send<B>(&self, parcel: Parcel, mut body: B, beyond: Beyond<'_>) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let Parcel { org, cluster, evidence, user, head } = parcel;
        let (evidence, user) = (evidence.as_ref(), user.as_ref());
        let say = |problem| self.refuse(problem);
        let mut broken = false;
        let mut tried = Vec::new();
        for _ in 0..ATTEMPTS {
            let (step, via) = match self.place(&org, &cluster) {
                Ok(lease) => {
                    let named = self.named(&org, &cluster, &head);
                    (attempt(lease, (evidence, user), &named, body).await, None)
                }
                Err(NoPlace::Full) => {
                    let text = "the cluster's tunnels carry all the requests they can; try again";
                    return say(Problem::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(1));
                }
                Err(NoPlace::Away) => {
                    let peer = match beyond {
                        Beyond::Peers(peers) => peers.place(&cluster, &tried),
                        Beyond::Nothing | Beyond::Back => None,
                    };
                    let Some(lease) = peer else {
                        return match beyond {
                            _ if broken => say(lost(head.method())),
                            Beyond::Back => told(say(away(&cluster)), &NONE),
                            Beyond::Nothing | Beyond::Peers(_) => say(away(&cluster)),
                        };
                    };
                    let id = lease.tunnel().peer.clone();
                    tried.push(id.clone());
                    let mut named = head.clone();
                    let Some(uri) = for_peer(&cluster, &head) else { return say(away(&cluster)) };
                    *named.uri_mut() = uri;
                    (attempt(lease, (evidence, user), &named, body).await, Some(id))
                }
            };
            body = match step {
                Step::Done(reply) => return note(reply, broken, via),
                Step::Again(body) => {
                    figures::retried("untouched");
                    if via.is_some() {
                        tried.pop();
                    }
                    body
                }
                Step::NotThere(Some(body)) => body,
                // Only the client has the body once more.
                Step::NotThere(None) => return say(moved()),
                Step::Broken(body) if !broken && !matches!(beyond, Beyond::Back) => {
                    tracing::info!(%cluster, "the request is sent once more");
                    figures::retried("broken");
                    broken = true;
                    body
                }
                Step::Broken(_) | Step::Lost if matches!(beyond, Beyond::Back) => {
                    return told(say(lost(head.method())), &BROKEN);
                }
                Step::Broken(_) | Step::Lost => return note(say(lost(head.method())), broken, via),
            };
        }
        match beyond {
            Beyond::Back => told(say(away(&cluster)), &NONE),
            Beyond::Nothing | Beyond::Peers(_) => say(away(&cluster)),
        }
    }
}

/// One way of a request: proven first, then sent.
async fn attempt<P, B>(
    lease: Lease<P>,
    (evidence, user): (Option<&Evidence>, Option<&UserId>),
    head: &Request<()>,
    body: B,
) -> Step<B>
where
    P: Debug + Send + Sync + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let tunnel = lease.tunnel().clone();
    let refusals = tunnel.settings.refusals;
    if let Some(evidence) = evidence
        && let Err(unproven) = tunnel.prove(evidence).await
    {
        return match unproven.reply(refusals) {
            Some(reply) => Step::Done(reply),
            None => {
                tunnel.leave();
                Step::Again(body)
            }
        };
    }
    let forget = || evidence.map(|evidence| tunnel.proven.forget(evidence.id()));
    match exchange(lease, head.clone(), body, user).await {
        Outcome::Reply(reply) => Step::Done(reply),
        Outcome::Untouched(body) => Step::Again(body),
        Outcome::Unproven(body) => match forget() {
            Some(()) => Step::Again(body),
            None => Step::Done(Reply::Response(refusals.answer(forgotten()))),
        },
        Outcome::Forgotten => {
            // Only the client has the body once more.
            let _ = forget();
            Step::Done(Reply::Response(refusals.answer(forgotten())))
        }
        Outcome::Broken(body, cause) => {
            tracing::info!(peer = ?tunnel.peer, %cause, "the tunnel broke under a request");
            Step::Broken(body)
        }
        Outcome::Lost(cause) => {
            tracing::info!(peer = ?tunnel.peer, %cause, "the tunnel broke under a request");
            Step::Lost
        }
        Outcome::NotThere(body) => Step::NotThere(body),
    }
}

/// To another proxy a request says which cluster it is for.
fn for_peer(cluster: &ClusterId, head: &Request<()>) -> Option<Uri> {
    let path = head.uri().path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().scheme("https").authority(cluster.as_str()).path_and_query(path).build().ok()
}

/// What the record of the request is to tell.
fn note(mut reply: Reply, sent_twice: bool, via: Option<ProxyId>) -> Reply {
    let extensions = match &mut reply {
        Reply::Response(response) => response.extensions_mut(),
        Reply::Upgraded { head, .. } => head.extensions_mut(),
    };
    if sent_twice {
        extensions.insert(SentTwice);
    }
    if let Some(via) = via {
        extensions.insert(Via(via));
    }
    reply
}

/// The same, with the reason for the proxy that asks.
fn told(mut reply: Reply, why: &HeaderValue) -> Reply {
    if let Reply::Response(response) = &mut reply {
        response.headers_mut().insert(&TUNNEL, why.clone());
    }
    reply
}

fn away(cluster: &ClusterId) -> Problem {
    let text = format!(
        "the agent of cluster {cluster} is not connected; if this lasts, check that its pod runs and reaches the proxy"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1)
}

fn moved() -> Problem {
    let text = "the cluster's agent has moved to another proxy at this moment, and nothing was done; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1)
}

fn forgotten() -> Problem {
    let text = "the cluster's agent had forgotten who you are, and has done nothing; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1)
}

/// kubectl repeats whatever carries `Retry-After`, so only what can be repeated does.
fn lost(method: &Method) -> Problem {
    if method.is_safe() {
        let text = "the tunnel to the cluster broke before the answer came";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1);
    }
    let text = "the tunnel to the cluster broke before the answer came; the change may or may not have been made, \
                look before you repeat it";
    Problem::new(StatusCode::BAD_GATEWAY, text)
}
