//! What takes audit records over: the trait, and the places that this crate knows.

#[cfg(any(feature = "otlp", feature = "webhook"))]
mod endpoint;
mod file;
#[cfg(feature = "http-client")]
mod line;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(feature = "syslog")]
mod syslog;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "webhook")]
mod webhook;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use ztka_core::BoxError;

#[cfg(any(feature = "otlp", feature = "webhook"))]
pub use self::endpoint::{Endpoint, NotAnEndpoint};
pub use self::file::{Compression, FileSink, FileSinkError, Rotation};
#[cfg(feature = "otlp")]
pub use self::otlp::OtlpSink;
#[cfg(feature = "syslog")]
pub use self::syslog::{Facility, NotAFacility, SyslogSink};
#[cfg(feature = "tls")]
pub use self::tls::{TlsFiles, TlsFilesError};
#[cfg(feature = "webhook")]
pub use self::webhook::WebhookSink;
use crate::Batch;

/// Brings records to another place. `conformance::sink` (feature `conformance`) says all of this as tests.
///
/// A [`Follower`](crate::Follower) calls it: one batch after the other, in order, each until it is taken. So a place has
/// everything at least once, and what comes for the first time comes in order. It does not see each record just once: a
/// batch whose acknowledgement was lost comes again. Whoever reads there recognises a record by Audit-ID and stage.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug + 'static {
    /// Takes a batch over; `Ok` means that it is durable there, as far as the place says.
    ///
    /// A batch that was not taken comes again, perhaps cut otherwise. The future may be dropped at any point, when it has
    /// taken too long: what has arrived by then comes again as well.
    ///
    /// # Errors
    /// [`SinkError`] says whether to come again or to pass a record over.
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError>;
}

#[async_trait]
impl<S: Sink + ?Sized> Sink for Arc<S> {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        (**self).deliver(batch).await
    }
}

/// Why a batch was not taken. Any error becomes one by `?`: the sink fails, and the batch comes again.
#[derive(Debug)]
pub enum SinkError {
    /// The place is away, full, or not itself: the batch comes again.
    Failed {
        /// What is wrong.
        why: BoxError,
        /// Not before so long, if the place has said so.
        after: Option<Duration>,
    },
    /// The place is well, and will never take a record of this batch.
    Refused {
        /// Index of the record; those before and behind it come again. If it is not known, the batch comes again in
        /// halves, until it is.
        at: Option<usize>,
        /// What is wrong with it.
        why: BoxError,
    },
}

impl SinkError {
    /// The batch comes again.
    pub fn failed(why: impl Into<BoxError>) -> Self {
        Self::Failed { why: why.into(), after: None }
    }

    /// There is something in the batch that the place will never take.
    pub fn refused(why: impl Into<BoxError>) -> Self {
        Self::Refused { at: None, why: why.into() }
    }

    /// The place will never take record `at` of the batch.
    pub fn refused_at(at: usize, why: impl Into<BoxError>) -> Self {
        Self::Refused { at: Some(at), why: why.into() }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for SinkError {
    fn from(error: E) -> Self {
        Self::failed(error)
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed { why, .. } | Self::Refused { why, .. }) = self;
        Chained(&**why).fmt(f)
    }
}

/// An error and what caused it, in one line.
pub(crate) struct Chained<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
