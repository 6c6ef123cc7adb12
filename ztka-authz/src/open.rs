//! What is open, and the watch over it: a stream ends as soon as it would no longer be let in.

mod forward;
mod layer;

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    num::NonZeroU16,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use ztka_core::{
    Access, BoxError, ClusterId, Decision, Evidence, Farewell, Hold, Permitted, Principal, Reason, Recording,
    RequestAttributes, Status, Verified, stream::forward::Ports,
};

pub use self::layer::{Cut, CutLayer};
use crate::{Engine, Port, Supported};

/// Ends of sessions are looked for this often.
const TICK: Duration = Duration::from_secs(1);

/// The sessions that a server knows: a proxy by the documents it follows, an agent by the evidence it was shown.
pub trait Sessions: fmt::Debug + Send + Sync + 'static {
    /// What is kept of a session while something is open in it.
    type Session: fmt::Debug + Send + Sync + 'static;

    /// Who ends a stream, as its user is told: `the proxy`.
    const SERVER: &'static str;

    /// The session in which `who` was let in a moment ago by `evidence`.
    ///
    /// # Errors
    /// It is no longer known; the reason as the user is to see it.
    fn session(&self, who: &Verified<Principal>, evidence: &Evidence) -> Result<Self::Session, Reason>;

    /// Who is in `session` by the newest that is known, and until when.
    ///
    /// # Errors
    /// Why what is open in it has to end: the session or certificate is over, the credential revoked, the user disabled.
    fn active(&self, session: &Self::Session) -> Result<(Verified<Principal>, Timestamp), Reason>;

    /// Wakes at each change of sessions, revocations or policy.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Everything that is open on this server. A handle: clones share it.
pub struct Open<S: Sessions>(Arc<Shared<S>>);

struct Shared<S: Sessions> {
    sessions: S,
    engine: Engine,
    next: AtomicU64,
    stopped: AtomicBool,
    streams: Mutex<HashMap<u64, Arc<Stream<S::Session>>>>,
}

impl<S: Sessions> Clone for Open<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Sessions> fmt::Debug for Open<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

/// One request that was let in and is not over.
#[derive(Debug)]
struct Stream<T> {
    session: T,
    cluster: ClusterId,
    /// What policy has to go on allowing; none for a request that ends by itself.
    attributes: Option<RequestAttributes>,
    /// Where it comes from.
    source: Option<IpAddr>,
    /// It was let in under the obligation to record it.
    recording: bool,
    began: Timestamp,
    /// Microseconds since 1970.
    until: AtomicI64,
    /// Why it has to end.
    cut: OnceLock<Cause>,
    /// Of a port-forward: what it has opened.
    ports: Mutex<Ports>,
    /// Why one of them was refused; its user is being told.
    refused: OnceLock<Reason>,
    waker: AtomicWaker,
}

/// Why something has to end.
#[derive(Clone, Debug)]
enum Cause {
    /// It would not be let in any more.
    Refused(Reason),
    /// The server stops.
    Stopped,
}

impl Cause {
    /// What is answered by `server` where no answer has begun.
    fn status(&self, server: &'static str, mutating: bool) -> Status {
        match self {
            Self::Refused(reason) => Status::from(reason),
            Self::Stopped => Farewell::of(server).status(mutating),
        }
    }
}

impl<T> Stream<T> {
    /// What is not recorded from its beginning cannot be from now on.
    fn supported(&self) -> Supported {
        if self.recording { Supported::RECORDED } else { Supported::WATCHED }
    }

    /// Until when it may last if that is no longer than `limit`, which `binding` sets.
    fn may_last(&self, limit: SignedDuration, binding: &str, now: Timestamp) -> Result<Timestamp, Reason> {
        let end = self.began.checked_add(limit).unwrap_or(Timestamp::MAX);
        match now < end {
            true => Ok(end),
            false => Err(Reason::Denied(format!(
                "binding {binding:?} lets it last {limit:#}, and that is over; begin anew if you need more"
            ))),
        }
    }

    /// Only the first cause counts.
    fn end(&self, cause: Cause) {
        let _ = self.cut.set(cause);
        self.waker.wake();
    }
}

impl<S: Sessions> Open<S> {
    /// Nothing is open; what `sessions` and `engine` say from now on decides.
    pub fn new(sessions: S, engine: Engine) -> Self {
        Self(Arc::new(Shared {
            sessions,
            engine,
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            streams: Mutex::default(),
        }))
    }

    /// Streams and requests open now.
    pub fn streams(&self) -> usize {
        self.lock().len()
    }

    /// Ends everything, since the server stops and what is open has had its grace: what goes on without end by
    /// [`Farewell`], anything else by an error. Nothing new is let in.
    pub fn stop(&self) {
        self.0.stopped.store(true, Relaxed);
        for stream in self.lock().values() {
            stream.end(Cause::Stopped);
        }
    }

    /// Ends what is no longer permitted, whenever something changes or a session ends, until it is dropped.
    pub async fn enforce(self) {
        let (mut changes, mut limits) = (self.0.sessions.changes(), self.0.engine.limited_anew());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.review(true); // what changed before anybody listened
        loop {
            let all = tokio::select! {
                _ = changes.changed() => true,
                _ = limits.changed() => true,
                _ = tick.tick() => false,
            };
            self.review(all);
        }
    }

    /// Looks at everything, or only at what has come to its end.
    fn review(&self, all: bool) {
        let now = self.0.engine.now().as_microsecond();
        for stream in self.lock().values().filter(|stream| all || stream.until.load(Relaxed) <= now) {
            self.look_at(stream);
        }
    }

    /// Ends the stream if it would no longer be let in.
    fn look_at(&self, stream: &Stream<S::Session>) {
        match self.standing(stream) {
            Ok(until) => stream.until.store(until.as_microsecond(), Relaxed),
            Err(reason) => {
                stream.end(Cause::Refused(reason));
            }
        }
    }

    /// Until when it may go on, if it would be let in now.
    fn standing(&self, stream: &Stream<S::Session>) -> Result<Timestamp, Reason> {
        let (who, until) = self.0.sessions.active(&stream.session)?;
        let engine = &self.0.engine;
        let policy = engine.policy(who.org())?;
        // Looked at again then; until then it has mostly been put off.
        let until = until.min(engine.believed_until(who.org()));
        if policy.cluster(&stream.cluster).is_none() {
            return Err(Reason::Denied("the cluster has been removed".into()));
        }
        let Some(attributes) = &stream.attributes else { return Ok(until) };
        let later = if attributes.is_port_forward() { Port::Later } else { Port::Unknown };
        let (supported, cluster) = (stream.supported(), &stream.cluster);
        let weighed = engine.weigh_request(supported, &who, cluster, attributes, stream.source, later);
        // One that was refused ends it by itself, when its user has been told.
        if stream.refused.get().is_none() {
            let ports = stream.ports.lock().unwrap_or_else(PoisonError::into_inner);
            ports.iter().try_for_each(|port| self.decide_port(stream, &who, port))?;
        }
        let (grant, obligations) = weighed?;
        let until = match obligations.max_duration {
            Some(limit) => until.min(stream.may_last(limit, &grant.binding, engine.now())?),
            None => until,
        };
        // What a binding gives until some time has to be asked about until then.
        Ok(if engine.is_timed(&policy) { until.min(engine.now()) } else { until })
    }

    fn decide_port(&self, stream: &Stream<S::Session>, who: &Principal, port: NonZeroU16) -> Result<(), Reason> {
        let Some(asked) = &stream.attributes else { return Ok(()) };
        let port_is = Port::Is(port.get());
        let engine = &self.0.engine;
        match engine.decide_supporting(stream.supported(), who, &stream.cluster, asked, stream.source, port_is) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) => Err(Reason::Denied(format!("port {port} may not be forwarded to: {reason}"))),
        }
    }

    /// May this port be opened now? From then on it is looked at with the rest.
    fn opens(&self, stream: &Stream<S::Session>, port: NonZeroU16) -> Result<(), Reason> {
        // Before the decision: what changes behind it finds the port.
        let noted = stream.ports.lock().unwrap_or_else(PoisonError::into_inner).note(port);
        let decided = match noted {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let (who, _) = self.0.sessions.active(&stream.session)?;
                self.decide_port(stream, &who, port)
            }
            Err(too_many) => Err(Reason::Denied(too_many.to_string())),
        };
        decided.inspect_err(|reason| drop(stream.refused.set(reason.clone())))
    }

    /// Takes in what was permitted, and looks at it once more: while its record was written, something may have changed
    /// that was reviewed without it.
    fn enter<B>(&self, access: &Access<Permitted, B>) -> Result<Lease<S>, Cause> {
        let attributes = access.stage().attributes();
        let stream = Arc::new(Stream {
            session: self.0.sessions.session(access.principal(), access.evidence()).map_err(Cause::Refused)?,
            cluster: access.cluster().clone(),
            attributes: attributes.is_long_running().then(|| attributes.clone()),
            source: access.source(),
            recording: access.stage().grant().recording != Recording::Off,
            began: self.0.engine.now(),
            until: AtomicI64::new(i64::MAX),
            cut: OnceLock::new(),
            ports: Mutex::default(),
            refused: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        let id = self.0.next.fetch_add(1, Relaxed);
        // Whatever changes from here on finds it.
        self.lock().insert(id, stream.clone());
        let lease = Lease { open: self.clone(), id, stream };
        self.look_at(&lease.stream);
        if self.0.stopped.load(Relaxed) {
            lease.stream.end(Cause::Stopped);
        }
        match lease.stream.cut.get() {
            Some(cause) => Err(cause.clone()),
            None => Ok(lease),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream<S::Session>>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's place among what is open.
struct Lease<S: Sessions> {
    open: Open<S>,
    id: u64,
    stream: Arc<Stream<S::Session>>,
}

impl<S: Sessions> Lease<S> {
    fn poll_cause(&self, cx: &mut Context<'_>) -> Poll<&Cause> {
        self.stream.waker.register(cx.waker());
        self.stream.cut.get().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<S: Sessions> Hold for Lease<S> {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        let is_endless = self.stream.attributes.is_some();
        self.poll_cause(cx).map(|cause| match cause {
            Cause::Refused(reason) => Ended { by: S::SERVER, why: reason.to_string() }.into(),
            Cause::Stopped if is_endless => Farewell::of(S::SERVER).into(),
            Cause::Stopped => Ended { by: S::SERVER, why: "it stops, and has waited as long as it may".into() }.into(),
        })
    }
}

impl<S: Sessions> Drop for Lease<S> {
    fn drop(&mut self) {
        self.open.lock().remove(&self.id);
    }
}

/// Why a stream was ended.
#[derive(Debug)]
struct Ended {
    by: &'static str,
    why: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended the stream: {}", self.by, self.why)
    }
}

impl std::error::Error for Ended {}
