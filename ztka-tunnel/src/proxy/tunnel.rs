//! One tunnel as the proxy that sends into it holds it: an agent's, or the link to another proxy.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, Uri, header::CONTENT_LENGTH, uri};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use ztka_core::{ClusterId, InstanceId, InvalidName, OrgId};

use super::evidence::Proven;
use crate::{Settings, TunnelError, stream::memory::Share};

/// The agent at the far end, as its certificate says. What is a cluster to ZTKA is any place that requests go to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelPeer {
    /// Owner of the cluster.
    pub org: OrgId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The running agent.
    pub instance: InstanceId,
    /// End of the certificate that the tunnel was opened with.
    pub not_after: Timestamp,
}

impl TunnelPeer {
    /// The agent of `place` (a lower-case DNS label), for as long as its connection lasts: for whoever has no organisations,
    /// no clusters and no certificates that end, and tells places apart by a name.
    ///
    /// # Errors
    /// The name is none.
    pub fn of(place: &str) -> Result<Self, InvalidName> {
        let (org, cluster, instance) = (place.parse()?, place.parse()?, place.parse()?);
        Ok(Self { org, cluster, instance, not_after: Timestamp::MAX })
    }
}

/// Streams kept free for the tunnel's own requests.
const RESERVE: usize = 8;
/// The largest answer to a request of the tunnel's own.
const MAX_ANSWER: usize = 64 << 10;

/// What is to happen when a tunnel takes no new streams any more; once.
pub(super) struct OnLeave(Box<dyn Fn() + Send + Sync>);

impl OnLeave {
    pub(super) fn new(then: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Box::new(then))
    }
}

impl fmt::Debug for OnLeave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnLeave")
    }
}

/// `P` is who is at the far end: an agent, or another proxy.
#[derive(Debug)]
pub(super) struct Tunnel<P = TunnelPeer> {
    pub(super) peer: P,
    pub(super) settings: Settings,
    pub(super) sender: SendRequest<Bytes>,
    /// Users' streams on it now.
    pub(super) load: AtomicUsize,
    pub(super) proven: Proven,
    /// Cancelled to end it, streams and all.
    pub(super) end: CancellationToken,
    /// What every request names; none for a proxy, to which each request says its cluster.
    authority: Option<uri::Authority>,
    limit: OnceLock<usize>,
    leaving: AtomicBool,
    on_leave: OnLeave,
    quiet: Arc<AtomicBool>,
    pub(super) memory: Arc<Share>,
}

/// Who is at the far end, and what is to be known of them from the beginning.
#[derive(Debug)]
pub(super) struct Far<P> {
    pub(super) peer: P,
    pub(super) authority: Option<uri::Authority>,
    pub(super) on_leave: OnLeave,
}

impl<P> Tunnel<P> {
    pub(super) fn new(
        far: Far<P>,
        sender: SendRequest<Bytes>,
        end: CancellationToken,
        settings: Settings,
        quiet: Arc<AtomicBool>,
        memory: Arc<Share>,
    ) -> Self {
        let Far { peer, authority, on_leave } = far;
        let (load, limit, leaving) = (AtomicUsize::new(0), OnceLock::new(), AtomicBool::new(false));
        let proven = Proven::default();
        Self { peer, settings, sender, load, proven, end, authority, limit, leaving, on_leave, quiet, memory }
    }

    /// True if another proxy is at the far end.
    pub(super) fn is_link(&self) -> bool {
        self.authority.is_none()
    }

    /// Users' streams at once; known when the peer's SETTINGS are.
    pub(super) fn limit(&self) -> usize {
        let known = || {
            let theirs = self.sender.current_max_send_streams().min(self.settings.max_streams as usize);
            theirs.saturating_sub(RESERVE).max(1)
        };
        *self.limit.get_or_init(known)
    }

    /// True once it takes no new streams.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// True while nothing has come from the agent although something should have: it may be dead.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self) {
        if !self.leaving.swap(true, Ordering::Relaxed) {
            (self.on_leave.0)();
        }
    }

    /// What is asked, at the far end.
    pub(super) fn uri(&self, asked: &Uri) -> Result<Uri, http::Error> {
        let path = asked.path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        let authority = self.authority.clone().or_else(|| asked.authority().cloned());
        let authority = authority.unwrap_or_else(|| uri::Authority::from_static("proxy"));
        Uri::builder().scheme(uri::Scheme::HTTPS).authority(authority).path_and_query(path).build()
    }

    /// A request of the tunnel's own: sent beside users' requests and in no one's name.
    pub(super) async fn own(
        &self,
        path: &'static str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, TunnelError> {
        let limit = self.settings.answer;
        let late = |_| TunnelError::Late(limit);
        timeout(limit, self.own_unbounded(path, headers, body)).await.map_err(late)?
    }

    async fn own_unbounded(
        &self,
        path: &'static str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, TunnelError> {
        let uri = self.uri(&Uri::from_static(path)).map_err(|_| TunnelError::Protocol("a path cannot be written"))?;
        let mut request = Request::post(uri).body(()).map_err(|_| TunnelError::Protocol("not a request"))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(CONTENT_LENGTH, body.len().into());

        let mut sender = self.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await?;
        let (response, mut stream) = sender.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        let (head, mut stream) = response.await?.into_parts();
        let mut answer = BytesMut::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            let _ = stream.flow_control().release_capacity(data.len());
            if answer.len() + data.len() > MAX_ANSWER {
                return Err(TunnelError::Protocol("an answer is larger than 64 KiB"));
            }
            answer.extend_from_slice(&data);
        }
        Ok(Response::from_parts(head, answer.freeze()))
    }
}
