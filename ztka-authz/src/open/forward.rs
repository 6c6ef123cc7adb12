//! A port-forward under watch: each port that its client opens is decided on before the bytes that open it go on.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};
use ztka_core::{
    Backlog, Ending, Io, Reason, Reply,
    stream::forward::{Answers, Open, Refusal, Requests},
};

use super::{Cause, Ended, Lease, Sessions, Stream};
use crate::forward;

/// Most bytes that are read before they go on.
const PIECE: usize = 64 * 1024;
/// Most streams that wait for an answer behind a refused one: kubectl opens one at a time.
const MAX_BEHIND: usize = 256;
/// A client has so long to hear why, and to go.
const LINGER: Duration = Duration::from_secs(5);

impl<T> Stream<T> {
    /// Why it was ended by us, if it was because it may not go on.
    fn refused(&self) -> Option<Reason> {
        match (self.refused.get(), self.cut.get()) {
            (Some(reason), _) | (None, Some(Cause::Refused(reason))) => Some(reason.clone()),
            (None, Some(Cause::Stopped) | None) => None,
        }
    }
}

impl<S: Sessions> Lease<S> {
    /// Goes with the reply to what is long-running: tells its record why it ends, and looks at its ports.
    pub(super) fn accompany(&self, mut reply: Reply) -> Reply {
        let stream = self.stream.clone();
        let why = Ending::new(move || stream.refused());
        match &mut reply {
            Reply::Response(response) => _ = response.extensions_mut().insert(why),
            Reply::Upgraded { head, .. } => _ = head.extensions_mut().insert(why),
        }
        let asked = self.stream.attributes.as_ref().filter(|asked| asked.is_port_forward());
        let Some(asked) = asked else { return reply };
        let Reply::Upgraded { head, io } = reply else { return reply };
        let upgrade = asked.upgrade();
        let Some(requests) = upgrade.and_then(|upgrade| Requests::of(upgrade, head.headers())) else {
            // They were decided on with the request, and are looked at again with it.
            for port in forward::named(asked) {
                let _ = self.open.opens(&self.stream, port);
            }
            return Reply::Upgraded { head, io };
        };
        let answers = Answers::new(upgrade == Some(ztka_core::Upgrade::WebSocket));
        let (open, stream) = (self.open.clone(), self.stream.clone());
        let judge = move |opened: &Open| open.opens(&stream, opened.port);
        let (backlog, refusing, reader) = (Backlog::default(), None, None);
        let forward = Forward {
            io: Some(io),
            requests,
            answers,
            backlog,
            judge: Box::new(judge),
            refusing,
            reader,
            by: S::SERVER,
        };
        Reply::Upgraded { head, io: Box::pin(forward) }
    }
}

/// Says of a port why it may not be opened.
type Judge = Box<dyn FnMut(&Open) -> Result<(), Reason> + Send>;

struct Forward {
    /// None once its frames may not be mixed with ours any more.
    io: Option<Io>,
    requests: Requests,
    answers: Answers,
    backlog: Backlog,
    judge: Judge,
    refusing: Option<Refusing>,
    /// Who waits for something to read.
    reader: Option<Waker>,
    by: &'static str,
}

/// A port was refused.
struct Refusing {
    reason: Reason,
    /// The refused stream, and those behind it: to be answered as soon as there is a place between frames.
    opened: Vec<Open>,
    refusal: Option<Refusal>,
    out: Vec<u8>,
    sent: usize,
    until: Pin<Box<Sleep>>,
    left: bool,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("refused", &self.refusing.is_some()).finish_non_exhaustive()
    }
}

impl Forward {
    fn read_ahead(&mut self, piece: &[u8]) -> io::Result<()> {
        let Self { requests, judge, refusing, .. } = self;
        let mut behind = Vec::new();
        let mut refused = None;
        let read = requests.read(piece, |open| {
            if refused.is_none() && refusing.is_none() {
                refused = judge(&open).err();
            }
            if refused.is_some() || refusing.is_some() {
                behind.push(open);
            }
        });
        if let Some(reason) = refused {
            let until = Box::pin(sleep(LINGER));
            let (opened, out) = (Vec::new(), Vec::new());
            *refusing = Some(Refusing { reason, opened, refusal: None, out, sent: 0, until, left: false });
        }
        match refusing {
            Some(refusing) => {
                let room = MAX_BEHIND.saturating_sub(refusing.opened.len());
                refusing.opened.extend(behind.into_iter().take(room));
            }
            None => read.map_err(|unreadable| io::Error::new(io::ErrorKind::InvalidData, unreadable))?,
        }
        if self.refusing.is_some()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        Ok(())
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (&mut self.io, &self.refusing) {
            (Some(io), None) => self.backlog.poll_drain(io, cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// What the client of a refused port still hears, and the end of it.
    fn poll_refused(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { io, answers, refusing: Some(refusing), by, .. } = self else { return Poll::Pending };
        loop {
            let rest = refusing.out.get(refusing.sent..).unwrap_or_default();
            if !rest.is_empty() && !buf.is_empty() {
                let count = rest.len().min(buf.len());
                for (to, from) in buf.iter_mut().zip(rest) {
                    *to = *from;
                }
                refusing.sent += count;
                return Poll::Ready(Ok(count));
            }
            if refusing.left || answers.is_lost() {
                return Poll::Ready(Err(ended(by, &refusing.reason)));
            }
            if refusing.until.as_mut().poll(cx).is_ready() {
                refusing.left = true;
                (refusing.out, refusing.sent) =
                    (refusing.refusal.as_mut().map(Refusal::farewell).unwrap_or_default(), 0);
                continue;
            }
            if let Some(io) = io.as_mut().filter(|_| !answers.is_between()) {
                let most = answers.until_between().min(buf.len());
                let part = buf.get_mut(..most).unwrap_or_default();
                match ready!(io.as_mut().poll_read(cx, part)) {
                    Ok(count @ 1..) => {
                        answers.passed(buf.get(..count).unwrap_or_default());
                        return Poll::Ready(Ok(count));
                    }
                    _ => return Poll::Ready(Err(ended(by, &refusing.reason))),
                }
            }
            // From here on only we speak, and the cluster is let go.
            *io = None;
            let refusal = refusing.refusal.get_or_insert_with(|| Refusal::new(answers, &refusing.reason.to_string()));
            for open in refusing.opened.drain(..) {
                refusal.opened(&open);
            }
            (refusing.out, refusing.sent) = (refusal.take(), 0);
            if refusing.out.is_empty() {
                return Poll::Pending;
            }
        }
    }
}

fn ended(by: &'static str, reason: &Reason) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, Ended { by, why: reason.to_string() })
}

impl AsyncRead for Forward {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            this.reader = Some(cx.waker().clone());
        }
        let (Some(io), None) = (&mut this.io, &this.refusing) else { return this.poll_refused(cx, buf) };
        let count = ready!(io.as_mut().poll_read(cx, buf))?;
        this.answers.passed(buf.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Forward {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if let Some(refusing) = this.refusing.as_ref().filter(|refusing| refusing.left) {
            return Poll::Ready(Err(ended(this.by, &refusing.reason)));
        }
        let piece = buf.get(..PIECE).unwrap_or(buf);
        this.read_ahead(piece)?;
        if let (Some(io), None) = (&mut this.io, &this.refusing) {
            this.backlog.write(io, cx, piece)?;
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let this = &mut *self;
        match (&mut this.io, &this.refusing) {
            (Some(io), None) => io.as_mut().poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let this = &mut *self;
        match (&mut this.io, &mut this.refusing) {
            (Some(io), None) => io.as_mut().poll_close(cx),
            (_, Some(refusing)) => {
                // It has heard enough.
                refusing.left = true;
                if let Some(reader) = this.reader.take() {
                    reader.wake();
                }
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}
