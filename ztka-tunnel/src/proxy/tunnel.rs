//! One agent's tunnel as the proxy holds it.

use std::{
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
use ztka_core::{ClusterId, InstanceId, OrgId};

use super::evidence::Proven;
use crate::{Settings, TunnelError};

/// The agent at the far end, as its certificate says.
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

/// Streams kept free for the tunnel's own requests.
const RESERVE: usize = 8;
/// The largest answer to a request of the tunnel's own; it is a `Status`.
const MAX_ANSWER: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) peer: TunnelPeer,
    pub(super) settings: Settings,
    pub(super) sender: SendRequest<Bytes>,
    /// Users' streams on it now.
    pub(super) load: AtomicUsize,
    pub(super) proven: Proven,
    /// Cancelled to end it, streams and all.
    pub(super) end: CancellationToken,
    authority: uri::Authority,
    limit: OnceLock<usize>,
    leaving: AtomicBool,
    quiet: Arc<AtomicBool>,
}

impl Tunnel {
    pub(super) fn new(
        peer: TunnelPeer,
        sender: SendRequest<Bytes>,
        end: CancellationToken,
        settings: Settings,
        quiet: Arc<AtomicBool>,
    ) -> Result<Self, TunnelError> {
        let authority = peer.cluster.as_str().parse();
        let authority = authority.map_err(|_| TunnelError::Protocol("the cluster id is no authority"))?;
        let (load, limit, leaving) = (AtomicUsize::new(0), OnceLock::new(), AtomicBool::new(false));
        Ok(Self { peer, settings, sender, load, proven: Proven::default(), end, authority, limit, leaving, quiet })
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
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// `path` at the far end.
    pub(super) fn uri(&self, path: Option<uri::PathAndQuery>) -> Result<Uri, http::Error> {
        let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        Uri::builder().scheme(uri::Scheme::HTTPS).authority(self.authority.clone()).path_and_query(path).build()
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
        let path = uri::PathAndQuery::from_static(path);
        let uri = self.uri(Some(path)).map_err(|_| TunnelError::Protocol("a path cannot be written"))?;
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
