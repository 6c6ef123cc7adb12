//! What comes back up the stack: a response, or a connection that has changed protocol.

mod backlog;
mod farewell;
mod hold;

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use http::Response;
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};

pub use self::{
    backlog::Backlog,
    farewell::Farewell,
    hold::{Hold, hold},
};
use crate::{BoxError, ProxyId, Reason, Status};

/// Extension of a [`Reply`]'s head: the request was sent a second time, since what it was sent into first broke before a byte
/// of an answer. The record of the request tells of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SentTwice;

/// Extension of a [`Reply`]'s head: the request went to another proxy, which has a tunnel of its cluster. The record of the request
/// tells of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Via(pub ProxyId);

/// Extension of a [`Reply`]'s head: asked when it is over, it says why somebody of ours ended it, if somebody did. The record
/// of the request tells of it.
#[derive(Clone)]
pub struct Ending(Arc<dyn Fn() -> Option<Reason> + Send + Sync>);

impl Ending {
    /// Asks `why`.
    pub fn new(why: impl Fn() -> Option<Reason> + Send + Sync + 'static) -> Self {
        Self(Arc::new(why))
    }

    /// Why the reply was ended, if it was.
    pub fn reason(&self) -> Option<Reason> {
        (self.0)()
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ending").field(&self.reason()).finish()
    }
}

/// Body between ZTKA layers.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body with this content.
pub fn body(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without content.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Both directions of an upgraded connection. `poll_close` ends our direction alone (half-close).
pub type Io = Pin<Box<dyn Duplex>>;

/// Bytes both ways, of no particular runtime.
pub trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send> Duplex for T {}

/// An answer.
#[derive(Debug)]
pub enum Reply<B = Body> {
    /// A response.
    Response(Response<B>),
    /// The far side has switched protocols. Layers may wrap `io`; only the outermost service splices it.
    Upgraded {
        /// What tells the client so: status 101 and the headers of the apiserver's answer.
        head: Response<()>,
        /// The far side's connection.
        io: Io,
    },
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::Response(status.into_response())
    }
}
