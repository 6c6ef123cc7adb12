//! The layer that records sessions of exec and attach.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use jiff::Timestamp;
use tokio::task;
use tower::{Layer, Service};
use ztka_core::{
    Access, AuditId, Permitted, Reason, Recording, Reply, RequestAttributes, RequestTarget, Status, Upgrade,
};

use super::{
    Recordings, Transcript,
    account::{Account, RecordedSession},
    chunk::About,
    frames::Frames,
    tap::Tap,
    tape::Tape,
};
use crate::event::{argument, clean};

/// Longest word of a command, and most words.
const MAX_WORD: usize = 256;
const MAX_WORDS: usize = 64;

/// Records the sessions of which policy says so. To be put behind whatever decides, and directly in front of what sends.
///
/// A session that has to be recorded ([`Recording::Required`]) and cannot be is answered 503 before anything of it reaches the
/// cluster, and ended with the reason if it cannot be recorded any more. One that should be ([`Recording::On`]) goes on all the
/// same, and its record says why. Whatever is no session of exec or attach, or is not to be recorded, passes untouched.
#[derive(Clone, Debug)]
pub struct RecordingLayer {
    recordings: Recordings,
    least: Recording,
}

impl RecordingLayer {
    /// Records into `recordings` what policy says.
    pub fn new(recordings: Recordings) -> Self {
        Self { recordings, least: Recording::Off }
    }

    /// Records every session, whatever policy says: this much at least.
    #[must_use]
    pub fn at_least(mut self, least: Recording) -> Self {
        self.least = least;
        self
    }
}

impl<S> Layer<S> for RecordingLayer {
    type Service = SessionRecorder<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionRecorder { inner, layer: self.clone() }
    }
}

/// Service produced by [`RecordingLayer`].
#[derive(Clone, Debug)]
pub struct SessionRecorder<S> {
    inner: S,
    layer: RecordingLayer,
}

impl<S, B> Service<Access<Permitted, B>> for SessionRecorder<S>
where
    S: Service<Access<Permitted, B>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Permitted, B>) -> Self::Future {
        let wanted = access.stage().grant().recording.max(self.layer.least);
        let session = match wanted {
            Recording::Off => None,
            Recording::On | Recording::Required => session(access.stage().attributes()),
        };
        let Some(session) = session else { return Either::Left(self.inner.call(access)) };
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let recordings = self.layer.recordings.clone();
        Either::Right(Box::pin(record(recordings, session, wanted == Recording::Required, inner, access)))
    }
}

/// What a request for a session says.
#[derive(Clone, Debug)]
struct Session {
    upgrade: Upgrade,
    kind: String,
    namespace: String,
    pod: String,
    container: String,
    command: Vec<String>,
    tty: bool,
}

/// The session that is asked for. One that does not ask to change protocol is none: nothing could stream.
fn session(attributes: &RequestAttributes) -> Option<Session> {
    let RequestTarget::Resource { subresource: Some(kind), namespace, name, .. } = attributes.target() else {
        return None;
    };
    if !matches!(kind.as_str(), "exec" | "attach") {
        return None;
    }
    let word = |word: &String| argument(word, MAX_WORD);
    Some(Session {
        upgrade: attributes.upgrade()?,
        kind: kind.clone(),
        namespace: namespace.as_deref().map(|text| clean(text, MAX_WORD)).unwrap_or_default(),
        pod: name.as_deref().map(|text| clean(text, MAX_WORD)).unwrap_or_default(),
        container: attributes.query("container").first().map(|text| clean(text, MAX_WORD)).unwrap_or_default(),
        command: attributes.query("command").iter().take(MAX_WORDS).map(word).collect(),
        // As `strconv.ParseBool` takes it, which the apiserver asks.
        tty: matches!(
            attributes.query("tty").first().map(String::as_str),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True")
        ),
    })
}

async fn record<S, B>(
    recordings: Recordings,
    session: Session,
    required: bool,
    mut inner: S,
    access: Access<Permitted, B>,
) -> Result<Reply, S::Error>
where
    S: Service<Access<Permitted, B>, Response = Reply>,
{
    let now = recordings.inner().clock.now();
    let (id, about) = (access.stage().id(), about(&session, required, &access, now));
    let begun = match Frames::cannot_be_read(session.upgrade, access.headers()) {
        Some(why) => Err(why.to_owned()),
        None => begin(recordings.clone(), id, about).await,
    };
    let tape = match begun {
        Ok(tape) => tape,
        Err(why) if required => return Ok(refused(&why)),
        Err(why) => {
            tracing::warn!(audit_id = %id, why, "a session is not recorded");
            return inner.call(access).await.map(|reply| noted(reply, unrecorded("failed", why)));
        }
    };
    // If the call fails or is cancelled nothing has come of it.
    let guard = Discard(Some(tape));
    let reply = inner.call(access).await?;
    let Reply::Upgraded { head, io } = reply else { return Ok(reply) };
    let input = recordings.input().of(session.tty);
    let transcript = Transcript::of(session.upgrade, head.headers(), input, recordings.inner().clock.now());
    let Some(transcript) = transcript else {
        let agreed: String = Frames::agreed(head.headers()).unwrap_or("nothing").chars().take(64).collect();
        let why = format!("the cluster agreed on {agreed:?}, which cannot be recorded; use a newer client");
        return Ok(match required {
            true => refused(&why),
            false => noted(Reply::Upgraded { head, io }, unrecorded("failed", why)),
        });
    };
    let Some(tape) = guard.keep() else { return Ok(Reply::Upgraded { head, io }) };
    let command = (!session.command.is_empty()).then(|| session.command.join(" "));
    let Session { kind, namespace, pod, container, .. } = &session;
    let within = if container.is_empty() { String::new() } else { format!(" in {container}") };
    tape.begin(transcript.titled(format!("{kind} {namespace}/{pod}{within}"), command));
    let account = tape.clone();
    let reply = Reply::Upgraded { head, io: Box::pin(Tap::new(io, tape)) };
    Ok(noted(reply, RecordedSession::new(move || account.account())))
}

fn about<B>(session: &Session, required: bool, access: &Access<Permitted, B>, started: Timestamp) -> About {
    let who = access.principal();
    let Session { kind, namespace, pod, container, command, tty, .. } = session.clone();
    About {
        org: who.org().clone(),
        cluster: access.cluster().clone(),
        user: who.user().clone(),
        user_name: who.name().clone(),
        credential: who.credential().clone(),
        namespace,
        pod,
        container,
        kind,
        command,
        tty,
        required,
        started,
    }
}

async fn begin(recordings: Recordings, id: AuditId, about: About) -> Result<Arc<Tape>, String> {
    match task::spawn_blocking(move || recordings.begin(id, about)).await {
        Ok(Ok(tape)) => Ok(tape),
        Ok(Err(error)) => Err(format!("the recording cannot be stored: {error}")),
        Err(_) => Err("the recording could not be begun".into()),
    }
}

/// A recording of which nothing has come yet.
struct Discard(Option<Arc<Tape>>);

impl Discard {
    fn keep(mut self) -> Option<Arc<Tape>> {
        self.0.take()
    }
}

impl Drop for Discard {
    fn drop(&mut self) {
        if let Some(tape) = self.0.take() {
            tape.discard();
        }
    }
}

fn unrecorded(state: &'static str, why: String) -> RecordedSession {
    RecordedSession::new(move || Account { state, chunks: None, reason: Some(why.clone()), cut: false })
}

fn refused(why: &str) -> Reply {
    let why = format!("this session has to be recorded, and cannot be: {why}");
    let status = Status::from(&Reason::Unrecorded(why.clone()));
    noted(status.into(), unrecorded("refused", why))
}

fn noted(mut reply: Reply, account: RecordedSession) -> Reply {
    let extensions = match &mut reply {
        Reply::Response(response) => response.extensions_mut(),
        Reply::Upgraded { head, .. } => head.extensions_mut(),
    };
    extensions.insert(account);
    reply
}
