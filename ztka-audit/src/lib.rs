//! Audit of ZTKA: no request goes on unrecorded, and no record is lost.
//!
//! ```text
//!            Access<Authenticated>                      Access<Recorded>
//! ─────────────► AuditLayer ─────────────────────────────► inner service
//!                   │ RequestReceived, durable first           │
//!                   │ ResponseStarted (streams)           Reply│
//!                   │ ResponseComplete, when body or           │
//!                   ▼ connection is gone       ◄───────────────┘
//!                Journal ──── Spool (proxy): events        ┐ segments ──► Follower ──► Sink
//!                        ──── Receipts (agent)             ┘
//! ```
//!
//! - An [`Event`] has the shape of `audit.k8s.io/v1`; facts that it has no field for are annotations (below).
//! - The [`AuditLayer`] opens a record in a [`Journal`] and closes it when the reply is over: when its body has ended or
//!   was dropped, when an upgraded connection is gone, when the call fails, is cancelled or panics. A record that cannot
//!   be opened is a 503. The [`Recorder`] notes refusals made before there was a record as well.
//! - **Durability, one rule**: `RequestReceived` is *written* before the request goes on, so that a killed process loses
//!   none; of mutating, streaming and secret-reading requests it is also *synced*, so that a loss of power loses none.
//! - The [`Spool`] keeps records in segments that are one hash chain, closes at its start what the last process left
//!   open, refuses when disk or quota is full and serves again when there is room. [`Follower`]s take from it, each with
//!   a cursor of its own, and bring it to a [`Sink`]: a [`FileSink`], one behind a feature (below), or an embedder's own.
//! - [`Receipts`] are the agent's own record. The controller follows their [`Chain`] and [`compare`]s them with the events.
//! - [`EventStore`] and [`ReceiptStore`] are what a controller keeps it all in; [`LogStore`] is the transparency [`log`] that
//!   events become leaves of.
//!
//! # Sinks
//!
//! | sink | feature | what it knows to be taken |
//! |---|---|---|
//! | [`FileSink`] | | synced |
//! | `SyslogSink` | `syslog` | read by the server: it has answered our `close_notify` |
//! | `WebhookSink` | `webhook` | answered 2xx |
//! | `OtlpSink` | `otlp` | answered 2xx, without a rejected record |
//!
//! A [`Follower`] gives a sink a batch again until it is taken, in order; it bounds the time of each try, waits longer after each
//! failure, and finds and passes over the one record that a sink refuses for good. `conformance::sink` (feature
//! `conformance`) is the suite for all of them, an embedder's too.
//!
//! # Annotations
//!
//! All are named `ztka.dev/<name>`, all are texts.
//!
//! | name | value |
//! |---|---|
//! | `org`, `cluster`, `credential` | ids |
//! | `request` | SHA-256 of verb, method and canonical target |
//! | `source` | `asserted`: only the proxy vouches for `sourceIPs` |
//! | `decision`, `reason` | `allow` or `deny`, and why it was denied |
//! | `binding`, `role`, `policy` | what allowed it, by which revision of the policy |
//! | `reached` | `true`: the far side answered with our Audit-ID (the agent to a proxy, the apiserver to an agent) |
//! | `copy` | of an exec that `kubectl cp` makes: `from-container` or `to-container` |
//! | `exit-code`, `exit-error` | of an exec: its command's exit code, or why there is none |
//! | `redacted` | the rules by which something was taken out of a recorded body |
//! | `protocol`, `command`, `container` | of streams; the command is a JSON list |
//! | `ports` | that a port-forward has opened, as it opens them (below) |
//! | `bytes-sent`, `bytes-received` | body of the answer; of an upgraded connection to and from the client |
//! | `duration` | seconds with six decimals |
//! | `end` | `complete`, `cancelled`, `failed`, `panicked`, `unrecorded`, `denied`, `interrupted`, `stopped`; with `failed`, `denied` and `stopped` the `reason` |
//! | `retry-of` | Audit-ID of the WebSocket try that was not granted before this SPDY one: kubectl asks twice |
//! | `recording`, `recording-chunks`, `recording-hash` | of a session that is recorded: `running`, `complete`, `failed` or `refused` (then with `recording-reason`); number of its chunks and SHA-256 of the last one. The recording has the Audit-ID as its name |
//! | `sent-twice` | `true`: the tunnel died before a byte of the answer, and the request went into another one |
//! | `suppressed` | refusals from about the same place that were left out before this one |
//! | `gap`, `gap-from`, `gap-to`, `gap-records` | of an event that stands for what is missing ([`Gap`]): `power-loss` or `dropped`, and which records of the journal |
//! | `truncated` | which field was cut, and by how much |
//!
//! The ports of a port-forward are in the frames that its client sends, and are read there before those go on. With each
//! port that is new the event `ResponseStarted` is noted once more, with all ports so far; `ResponseComplete` has them
//! all, and is what a store keeps them in: it takes one event of each stage. Frames that cannot be read are not sent on and end the
//! stream: `end` is `unrecorded`, and `reason` says what was wrong. A port that policy refuses is among them as well, for it was
//! asked for: then `end` is `denied`, and `reason` names the port. So it is with whatever is ended by a layer inside (its
//! reply has the extension [`Ending`](ztka_core::Ending)).
//!
//! # Example
//!
//! ```
//! use std::{convert::Infallible, sync::Arc};
//! # use ztka_core::{Authenticated, Evidence, Identity, Principal, Session, Verified};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//! use ztka_audit::{AuditLayer, Recorder, Spool, SpoolOptions, Stage, Event, Reader};
//! use ztka_core::{Access, Recorded, Reply, Status, SystemClock};
//!
//! # fn authenticated() -> Result<Access<Authenticated, ()>, ztka_core::BoxError> {
//! #     let session = Session {
//! #         user: "u1".parse()?,
//! #         credential: "k1".parse()?,
//! #         name: "alice".parse()?,
//! #         groups: Vec::new(),
//! #         attributes: ztka_core::Attributes::new(),
//! #         active_until: jiff::Timestamp::MAX,
//! #     };
//! #     let alice = Verified::assertion(Principal::new("acme".parse()?, session));
//! #     let identity = Identity::new(alice, "c1".parse()?, Evidence::new("…"));
//! #     let (head, ()) = http::Request::get("/api/v1/namespaces/default/pods/web").body(())?.into_parts();
//! #     Ok(Authenticated::assertion(identity, &head, ()))
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ztka_core::BoxError> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("spool");
//! let (spool, _) = Spool::open(SpoolOptions::new(&dir).consumer("file"), &SystemClock)?;
//! let recorder = Recorder::new(Arc::new(spool.clone()), Arc::new(SystemClock));
//! let stack = ServiceBuilder::new()
//!     .layer(AuditLayer::new(recorder))
//!     .service(service_fn(async |_: Access<Recorded, ()>| {
//!         Ok::<_, Infallible>(Reply::from(Status::new(http::StatusCode::NOT_FOUND, "no such pod")))
//!     }));
//! let reply = stack.oneshot(authenticated()?).await?;
//! drop(reply); // the client leaves
//!
//! drop(spool); // writes what still waits
//! let events: Vec<_> = Reader::new(&dir).collect::<Result<_, _>>()?;
//! let last = Event::from_json(events[1].payload.as_bytes())?;
//! assert_eq!((last.stage, last.fact("end")), (Stage::ResponseComplete, Some("cancelled")));
//! # Ok(())
//! # }
//! ```
mod batch;
mod body;
mod compare;
#[cfg(feature = "conformance")]
pub mod conformance;
mod event;
mod exit;
mod follow;
mod journal;
mod layer;
mod levels;
pub mod log;
mod metered;
mod policy;
mod ports;
mod receipts;
mod record;
mod recorder;
mod recording;
mod retries;
mod sink;
mod spool;
mod store;

pub use self::{
    batch::{Batch, Chain, NotABatch},
    body::{Tapped, fields::InvalidField},
    compare::{Finding, compare},
    event::{Annotations, End, Event, Level, ObjectRef, ResponseStatus, Stage, User, printable},
    follow::{Follower, Pace, SinkMonitor, SinkStatus, UnknownConsumer},
    journal::{Durability, Journal, MemoryJournal, Opening, Unrecorded},
    layer::{Alone, Audit, AuditLayer, Observe, Unseen},
    levels::{Levels, Scope},
    policy::{InvalidPolicy, Policy, Resources, Rule},
    receipts::{Receipt, Receipts, Sign, Signed},
    recorder::Recorder,
    sink::{Compression, FileSink, FileSinkError, Rotation, Sink, SinkError},
    spool::{
        Damage, Gap, Hash, Kind, NotAHash, Position, Reader, Record, Recovery, Spool, SpoolError, SpoolOptions,
        SpoolStatus, WhenFull,
    },
    store::{EventQuery, EventStore, GrownLog, HeadAt, Ingested, LogStore, MemoryStore, ReceiptStore, StoredEvent},
};

#[cfg(feature = "recordings")]
pub use self::recording::{
    About, Chunk, Input, InterruptedRecording, Last, MAX_CHUNK, NotAChunk, RecordingChain, RecordingDirectory,
    RecordingEnd, RecordingLayer, RecordingOptions, RecordingSink, Recordings, RecordingsError, SessionRecorder,
    Transcript,
};
#[cfg(feature = "otlp")]
pub use self::sink::OtlpSink;
#[cfg(feature = "webhook")]
pub use self::sink::WebhookSink;
#[cfg(any(feature = "otlp", feature = "webhook"))]
pub use self::sink::{Endpoint, NotAnEndpoint};
#[cfg(feature = "syslog")]
pub use self::sink::{Facility, NotAFacility, SyslogSink};
#[cfg(feature = "tls")]
pub use self::sink::{TlsFiles, TlsFilesError};

/// Iterates over the records of the spool in `dir`, oldest first; damage is an `Err`, and reading goes on behind it.
/// The spool may be in use.
pub fn read(dir: impl AsRef<std::path::Path>) -> Reader {
    Reader::new(dir)
}
