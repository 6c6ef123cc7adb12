//! Vocabulary shared by every ZTKA crate: who asks, what is asked, what was decided. No I/O, no runtime, no policy.
//!
//! A request moves through three stages, and each is made by consuming the one before it:
//!
//! ```text
//! http::Request ─► Access<Authenticated> ─► Access<Recorded> ─► Access<Permitted> ─► http::Request
//! as received      who, what                audit record        grant                canonical
//! ```
//!
//! ```
//! use jiff::Timestamp;
//! use ztka_core::{
//!     AuditId, Authenticated, Decision, DecisionSlot, Evidence, Grant, Identity, Permitted, Principal, Recorded,
//!     Recording, Revision, Session, Verified,
//! };
//!
//! let session = Session {
//!     user: "u1".parse()?,
//!     credential: "k1".parse()?,
//!     name: "alice".parse()?,
//!     groups: vec!["dev".parse()?],
//!     attributes: ztka_core::Attributes::new(),
//!     active_until: Timestamp::MAX,
//! };
//! let alice = Verified::assertion(Principal::new("acme".parse()?, session));
//!
//! let asked = http::Request::get("/api/v1/namespaces/default/pods/web?").body("")?;
//! let (head, body) = asked.into_parts();
//! let identity = Identity::new(alice, "c1".parse()?, Evidence::new("…"));
//!
//! let access = Authenticated::assertion(identity, &head, body);
//! let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default());
//! let (binding, role) = ("team".into(), "view".into());
//! let grant = Grant { binding, role, policy: Revision::default(), recording: Recording::Off, audit: None };
//! let access = Permitted::assertion(access, |_, _, _| Decision::Allow(grant))?;
//! assert_eq!(access.into_request().uri(), "/api/v1/namespaces/default/pods/web");
//! # Ok::<(), ztka_core::BoxError>(())
//! ```
mod access;
mod cidr;
mod clock;
mod decision;
mod document;
mod evidence;
mod head;
mod headers;
mod id;
mod kube;
mod principal;
mod proxies;
mod reply;
#[cfg(feature = "yaml")]
pub mod source;
mod spiffe;
mod status;
pub mod stream;
mod trace;
mod upgrade;

pub use self::{
    access::{Access, AuditId, Authenticated, Identity, Permitted, Recorded},
    cidr::{Cidr, InvalidCidr},
    clock::{Clock, ManualClock, SystemClock},
    decision::{AuditLevel, Caller, Decision, DecisionSlot, Grant, Reason, Recording, Refusal, RefusalSink},
    document::{
        DocumentHeader, DocumentKind, DocumentSet, KeyId, Rejected, Revision, SeriesKey, SignatureCheck, SignedDocument,
    },
    evidence::{Evidence, EvidenceId},
    head::{HEADS, Head, Newest, PROJECTIONS},
    headers::{EVIDENCE, METHOD, POLICY, SOURCE, is_internal, strip_trailers},
    id::{
        BindingName, ClusterId, ClusterName, ControllerId, CredentialId, GroupName, InstanceId, InvalidName, OrgId,
        OrgName, ProxyId, RoleName, UserId, UserName, Zone,
    },
    kube::{Impersonation, InvalidImpersonation, Malformed, RequestAttributes, RequestTarget, Verb},
    principal::{Attributes, Principal, Session, Verified},
    proxies::{HostPort, InvalidHostPort, PROXY_ADDRESS, PROXY_PEERS, PROXY_STOPS, PROXY_ZONE, ProxyEntry},
    reply::{Backlog, Body, Duplex, Ending, Farewell, Hold, Io, Reply, SentTwice, Via, body, empty, hold},
    spiffe::{SpiffeId, Subject},
    status::Status,
    trace::{TRACEPARENT, TRACESTATE, TraceContext},
    upgrade::Upgrade,
};

/// Type-erased error used at service boundaries.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
