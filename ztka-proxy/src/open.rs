//! What is open, and the watch over it: a stream ends as soon as it would no longer be let in.

use std::{
    collections::HashMap,
    fmt, mem,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{future::BoxFuture, task::AtomicWaker};
use jiff::Timestamp;
use tower::{Layer, Service};
use ztka_core::{
    Access, BoxError, ClusterId, Decision, Permitted, Principal, Reason, Reply, RequestAttributes, Status, Verified,
};

use crate::{
    Connection, Directory,
    connection::WeakConnection,
    hold::{Hold, hold},
};

/// Ends of sessions are looked for this often.
const TICK: Duration = Duration::from_secs(1);

/// Everything that is open on this proxy. A handle: clones share it.
#[derive(Clone, Debug)]
pub struct Open(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: Directory,
    next: AtomicU64,
    streams: Mutex<HashMap<u64, Stream>>,
    connections: Mutex<HashMap<u64, WeakConnection>>,
}

#[derive(Debug)]
struct Stream {
    principal: Verified<Principal>,
    cluster: ClusterId,
    /// What policy has to go on allowing; none for a request that ends by itself.
    attributes: Option<RequestAttributes>,
    until: Timestamp,
    cut: Arc<Cut>,
}

#[derive(Debug, Default)]
struct Cut {
    reason: OnceLock<Reason>,
    waker: AtomicWaker,
}

impl Open {
    /// Nothing is open; what `directory` says from now on decides.
    pub fn new(directory: Directory) -> Self {
        let (streams, connections) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { directory, next: AtomicU64::new(0), streams, connections }))
    }

    /// Streams and requests open now.
    pub fn streams(&self) -> usize {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Users' connections open now.
    pub fn connections(&self) -> usize {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends what is no longer permitted, whenever something changes or a session ends, until it is dropped.
    pub async fn enforce(self) {
        let directory = &self.0.directory;
        let mut changes = directory.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.review(true); // what changed before anybody listened
        loop {
            let all = tokio::select! {
                _ = changes.changed() => true,
                _ = tick.tick() => false,
            };
            self.review(all);
        }
    }

    /// Looks at everything, or only at what has come to its end.
    fn review(&self, all: bool) {
        let now = self.0.directory.clock().now();
        self.review_connections(all, now);
        let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.values_mut().filter(|stream| all || stream.until <= now) {
            self.look_at(stream);
        }
    }

    /// Ends the stream if it would no longer be let in.
    fn look_at(&self, stream: &mut Stream) {
        match self.standing(&stream.principal, &stream.cluster, stream.attributes.as_ref()) {
            Ok(until) => stream.until = until,
            Err(reason) => {
                let _ = stream.cut.reason.set(reason);
                stream.cut.waker.wake();
            }
        }
    }

    /// A certificate that has expired or is revoked takes its connections with it.
    fn review_connections(&self, all: bool, now: Timestamp) {
        let trust = self.0.directory.trust();
        // Collected first: the last handle to a connection takes it off the list, which needs the lock.
        let connections: Vec<_> = {
            let connections = self.0.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.values().filter_map(WeakConnection::upgrade).collect()
        };
        for connection in connections {
            let over = connection.certificate().is_some_and(|certificate| {
                certificate.peer.not_after <= now || all && trust.is_revoked(&certificate.peer)
            });
            if over {
                connection.cut().cancel();
            }
        }
    }

    /// Until when somebody may go on with what they have asked, if they would be let in now.
    fn standing(
        &self,
        was: &Principal,
        cluster: &ClusterId,
        attributes: Option<&RequestAttributes>,
    ) -> Result<Timestamp, Reason> {
        let directory = &self.0.directory;
        let known = directory.session(was.org(), was.user(), was.credential(), None)?;
        let (principal, engine) = (&known.principal, directory.engine());
        if engine.policy(principal.org())?.cluster(cluster).is_none() {
            return Err(Reason::Denied("the cluster has been removed".into()));
        }
        if let Some(attributes) = attributes
            && let Decision::Deny(reason) = engine.decide(principal, cluster, attributes)
        {
            return Err(reason);
        }
        Ok(principal.active_until())
    }

    /// Enters a request, and looks at it at once: who asks was read before its record was synced, and what has changed
    /// since then was reviewed without it.
    fn enter<B>(&self, access: &Access<Permitted, B>) -> Lease {
        let (cut, principal, cluster) = (Arc::new(Cut::default()), access.principal(), access.cluster());
        let until = principal.active_until();
        let attributes = access.stage().attributes();
        let attributes = attributes.is_long_running().then_some(attributes);
        let stream = Stream {
            principal: principal.clone(),
            cluster: cluster.clone(),
            attributes: attributes.cloned(),
            until,
            cut: cut.clone(),
        };
        let id = self.0.next.fetch_add(1, Relaxed);
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stream);
        // Whatever changes from here on finds the stream. Only what has changed before needs the lock again.
        if self.standing(principal, cluster, attributes).ok() != Some(until) {
            let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(stream) = streams.get_mut(&id) {
                self.look_at(stream);
            }
        }
        Lease { open: self.clone(), id, cut }
    }

    /// Watches over `connection`, which keeps the returned guard.
    pub(crate) fn connected(&self, connection: &Connection) -> Connected {
        let id = self.0.next.fetch_add(1, Relaxed);
        let mut connections = self.0.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.insert(id, connection.downgrade());
        Connected { open: self.clone(), id }
    }
}

/// Guard of [`Open::connected`].
#[derive(Debug)]
pub(crate) struct Connected {
    open: Open,
    id: u64,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.open.0.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// One stream's place among what is open.
struct Lease {
    open: Open,
    id: u64,
    cut: Arc<Cut>,
}

impl Hold for Lease {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        self.cut.waker.register(cx.waker());
        match self.cut.reason.get() {
            Some(reason) => Poll::Ready(Ended(reason.clone()).into()),
            None => Poll::Pending,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.open.0.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Why a stream was ended.
#[derive(Debug)]
struct Ended(Reason);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stream was ended: {}", self.0)
    }
}

impl std::error::Error for Ended {}

/// Ends a permitted request as soon as it would no longer be let in: its session has ended, its credential is revoked,
/// its user disabled, the cluster removed, or (for what is long-running) policy says no. The innermost layer.
///
/// An open body ends with an error, so that nobody takes it for complete; an upgraded connection is closed.
#[derive(Clone, Debug)]
pub struct CutLayer {
    open: Open,
}

impl CutLayer {
    /// Enters what is permitted into `open`, which somebody [enforces](Open::enforce).
    pub fn new(open: Open) -> Self {
        Self { open }
    }
}

impl<S> Layer<S> for CutLayer {
    type Service = CutService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CutService { inner, open: self.open.clone() }
    }
}

/// Service made by [`CutLayer`].
#[derive(Clone, Debug)]
pub struct CutService<S> {
    inner: S,
    open: Open,
}

impl<S, B> Service<Access<Permitted, B>> for CutService<S>
where
    S: Service<Access<Permitted, B>, Response = Reply> + Clone,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Reply, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Permitted, B>) -> Self::Future {
        let mut lease = self.open.enter(&access);
        if let Some(reason) = lease.cut.reason.get() {
            let status = Status::from(reason);
            return Box::pin(async { Ok(status.into()) });
        }
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let reply = mem::replace(&mut self.inner, clone).call(access);
        Box::pin(async move {
            let mut reply = pin!(reply);
            let reply = std::future::poll_fn(|cx| match lease.poll_cut(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => reply.as_mut().poll(cx).map(Some),
            });
            match reply.await {
                Some(reply) => Ok(hold(reply?, lease)),
                None => {
                    let reason = lease.cut.reason.get().map(Status::from);
                    let over = || Status::from(&Reason::Unauthenticated("the session is over; log in again".into()));
                    Ok(reason.unwrap_or_else(over).into())
                }
            }
        })
    }
}
