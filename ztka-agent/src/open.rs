//! What is open through this agent, and the watch over it: a stream ends as soon as the agent would not let it in again.
//!
//! The proxy does the same. It is done here once more because a proxy may lie, or hear of a revocation later than we do.

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

use futures_util::{
    future::{BoxFuture, Either, Ready, ready},
    task::AtomicWaker,
};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tower::{Layer, Service};
use ztka_core::{
    Access, BoxError, ClusterId, Decision, Hold, Permitted, Reason, Reply, RequestAttributes, Status, hold,
};

use crate::{Witness, evidence::Witnessed};

/// Ends of sessions are looked for this often.
const TICK: Duration = Duration::from_secs(1);

/// Everything that is open through this agent. A handle: clones share it.
#[derive(Clone, Debug)]
pub struct Open(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    witness: Witness,
    next: AtomicU64,
    streams: Mutex<HashMap<u64, Stream>>,
}

#[derive(Debug)]
struct Stream {
    witnessed: Arc<Witnessed>,
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
    /// Nothing is open; what `witness` and the documents that it believes say from now on decides.
    pub fn new(witness: Witness) -> Self {
        Self(Arc::new(Shared { witness, next: AtomicU64::new(0), streams: Mutex::default() }))
    }

    /// Streams and requests open now.
    pub fn streams(&self) -> usize {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends what is no longer permitted, whenever something changes or a session ends, until it is dropped.
    ///
    /// Session documents come with evidence alone. One that is not shown again, because the user asks for nothing else,
    /// is believed until it expires, which is a day at most; its streams end then.
    pub async fn enforce(self) {
        let mut changes = self.0.witness.documents().changes();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
        let now = self.0.witness.documents().clock().now();
        let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.values_mut().filter(|stream| all || stream.until <= now) {
            match self.standing(&stream.witnessed, &stream.cluster, stream.attributes.as_ref()) {
                Ok(until) => stream.until = until,
                Err(reason) => {
                    let _ = stream.cut.reason.set(reason);
                    stream.cut.waker.wake();
                }
            }
        }
    }

    /// Until when it may go on, if it would be let in now.
    fn standing(
        &self,
        witnessed: &Witnessed,
        cluster: &ClusterId,
        attributes: Option<&RequestAttributes>,
    ) -> Result<Timestamp, Reason> {
        let (who, until) = self.0.witness.standing(witnessed)?;
        let engine = self.0.witness.documents().engine();
        if engine.policy(who.org())?.cluster(cluster).is_none() {
            return Err(Reason::Denied("the cluster has been removed".into()));
        }
        match attributes.map(|attributes| engine.decide(&who, cluster, attributes)) {
            Some(Decision::Deny(reason)) => Err(reason),
            _ => Ok(until),
        }
    }

    /// Takes in what was permitted. It is looked at once more: while its record was written, something may have changed
    /// that nobody looks at again.
    fn enter<B>(&self, access: &Access<Permitted, B>) -> Result<Lease, Reason> {
        let witnessed = self.0.witness.held(access.evidence().id());
        let witnessed = witnessed.map_err(|_| {
            Reason::NoPolicy("the cluster's agent no longer holds the evidence of who you are; try again")
        })?;
        let attributes = access.stage().attributes();
        let attributes = attributes.is_long_running().then(|| attributes.clone());
        let (cut, cluster, until) = (Arc::new(Cut::default()), access.cluster().clone(), Timestamp::MAX);
        let stream = Stream {
            witnessed: witnessed.clone(),
            cluster: cluster.clone(),
            attributes: attributes.clone(),
            until,
            cut: cut.clone(),
        };
        let id = self.0.next.fetch_add(1, Relaxed);
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stream);
        let lease = Lease { open: self.clone(), id, cut };
        let until = self.standing(&witnessed, &cluster, attributes.as_ref())?;
        if let Some(stream) = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id) {
            stream.until = until;
        }
        Ok(lease)
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
        write!(f, "the cluster's agent ended the stream: {}", self.0)
    }
}

impl std::error::Error for Ended {}

/// Ends a permitted request as soon as it would no longer be let in: its session or certificate has ended, its credential
/// is revoked, its user disabled, the cluster removed, or (for what is long-running) policy says no.
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
    type Future = Either<BoxFuture<'static, Result<Reply, S::Error>>, Ready<Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Permitted, B>) -> Self::Future {
        let mut lease = match self.open.enter(&access) {
            Ok(lease) => lease,
            Err(reason) => return Either::Right(ready(Ok(Status::from(&reason).into()))),
        };
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let reply = mem::replace(&mut self.inner, clone).call(access);
        Either::Left(Box::pin(async move {
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
        }))
    }
}
