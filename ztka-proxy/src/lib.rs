//! The proxy as a library: everything between a TCP connection on port 443 and a tunnel to an agent.
//!
//! ```text
//!  TCP ─► Acceptor ── by TLS server name, each role with its own rule for client certificates
//!            ├─ <cluster>.kube.<domain>, kube.<domain>, none ─► Users ─► Guarded ─► hyper ─► the access stack
//!            ├─ tunnel.<domain>, <proxy>.tunnel.<domain> ─────► Tunnels ─► ztka_tunnel::Registry
//!            └─ agents. enroll. api. console. ────────────────► PassOn: a controller, TLS untouched
//!
//!  the access stack, outermost first
//!    SpliceLayer         a Reply becomes a response or, behind its 101, a connection; errors become a Status
//!    ShedLayer           503 at the limit of all
//!    AuthenticateLayer   CertificateAuthenticator: certificate, session, address → 401, 421
//!    PerUserLayer        429 at the limit of one
//!    AuditLayer          durable record, or 503
//!    AuthorizeLayer      policy, or 403
//!    CutLayer            ends what is open when it would no longer be let in
//!    Dispatch            a tunnel of the cluster, here or at another proxy, or 503
//!
//!  PeerAcceptor ── peer.<domain>, on a listener of its own: what other proxies pass on
//!    PeerEvidenceLayer   evidence that is not held is asked for
//!    AuthenticateLayer   PeerWitness: certificate from the evidence, session as this proxy knows it → 401, 421
//!    PerUserLayer, AuditLayer, AuthorizeLayer, CutLayer   as above
//!    LastHop             a tunnel of this proxy, or 503: never another proxy
//! ```
//!
//! The stack is put together by whoever embeds it, as `bins/proxy` does in one screen; the types of `ztka-core` keep the
//! order of authenticate, record, authorize and dispatch. What the other layers are about:
//!
//! - **One message in, one message out.** [`Guarded`] lies between TLS and hyper and lets only well-framed requests
//!   through. What it refuses is answered 400 in its turn, recorded, and the connection closed; behind a request to
//!   upgrade nothing passes before the answer is known. Of HTTP/2 it counts the frames that carry nothing.
//! - **Nothing open outlives its reason.** [`Open`](ztka_authz::Open) holds everything that is under way, and looks at it
//!   again at each change of a signed document and as sessions end. A stream that would no longer be let in ends with an
//!   error; a revoked or expired certificate takes its [`Connections`] with it.
//! - **Nothing is asked on the way of a request.** The [`Directory`] reads sessions, trust and policy from
//!   [`ztka_follow::Documents`]; [`publish`] hands the same documents on to the agents.
//! - **A stop loses nothing.** First nothing but readiness ends, then nothing new is taken, and what goes on without end
//!   is ended cleanly when its grace is over: see [`Acceptor::serve`].
//! - **Limits answer instead of queueing**, see [`Limits`]. Heads have ten seconds, bodies have to keep coming,
//!   watches and streams have no limit of time.
//! - **Nobody shuts others out.** Connections and handshakes are counted by network as well; whoever stalls keeps only
//!   its own network waiting. A connection without a certificate has no long life.
//!
//! Nothing here reads configuration files or serves metrics: the public listener has no route of its own.
//!
//! # Example
//!
//! ```
//! use ztka_proxy::{Names, Role};
//!
//! let names = Names::new("example.com", ["k8s.example.net".to_owned()], "p1".parse()?);
//! assert_eq!(names.role(Some("c1.kube.example.com")), Some(Role::Users(Some("c1".parse()?))));
//! assert_eq!(names.role(Some("k8s.example.net")), Some(Role::Users(None))); // the path names the cluster
//! assert_eq!(names.role(Some("tunnel.example.com")), Some(Role::Tunnel));
//! assert_eq!(names.role(Some("enroll.example.com")), Some(Role::Controller));
//! assert_eq!(names.role(Some("p2.tunnel.example.com")), None); // another proxy's
//! # Ok::<(), ztka_core::BoxError>(())
//! ```
//!
//! What a guard lets through, and what not:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use tokio::io::AsyncReadExt as _;
//! use ztka_proxy::{Guarded, Violation};
//!
//! let smuggled = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
//! let mut guarded = Guarded::http1(&smuggled[..]);
//! let framing = guarded.framing();
//! let mut passed = Vec::new();
//! guarded.read_to_end(&mut passed).await.unwrap();
//! assert!(!passed.starts_with(b"POST"));
//! assert!(matches!(framing.violation(), Some(Violation::Malformed(_))));
//! # }
//! ```
mod acceptor;
mod activity;
mod address;
mod authenticate;
mod buffered;
mod connection;
mod connections;
mod directory;
mod guard;
mod head;
mod hello;
mod limits;
mod names;
mod news;
mod pace;
mod pass_on;
mod peers;
mod places;
pub mod proxy_protocol;
mod server_certificate;
mod shed;
mod splice;
mod status;
mod tunnels;
mod users;
mod windows;

pub use self::{
    acceptor::{Accepted, Acceptor, Arrival, Drain, Handler, Listener, Stopping},
    authenticate::CertificateAuthenticator,
    buffered::Buffered,
    connection::{Certificate, Connection},
    connections::Connections,
    directory::{Directory, Known},
    guard::{Framing, Guarded, Violation},
    hello::{BadHello, server_name},
    limits::Limits,
    names::{Names, Role},
    news::publish,
    pace::UserBody,
    pass_on::{PassOn, Passed},
    peers::{PeerAcceptor, PeerCheck, PeerEvidence, PeerEvidenceLayer, PeerWitness, follow_peers},
    places::Place,
    server_certificate::ServerCertificate,
    shed::{PerUser, PerUserLayer, Shed, ShedLayer},
    splice::{Splice, SpliceLayer},
    status::refusals,
    tunnels::Tunnels,
    users::Users,
};
pub use ztka_core::{Cidr, InvalidCidr};
pub use ztka_tunnel::FloodLimits;
