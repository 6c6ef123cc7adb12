//! Reverse HTTP/2 tunnel: agents dial out, requests go in through them. No Kubernetes, no policy, no audit.
//!
//! A cluster opens no inbound port. Its agent dials each proxy by TCP and TLS, and on that connection the roles turn
//! round: the proxy is the HTTP/2 client, the agent the server. One request is one stream.
//!
//! ```text
//!  proxy                                                        agent
//!  Access<Permitted> ─► Dispatch ─► Registry ═══ one connection, dialled by the agent ═══ Dialer ─► Service<Request>
//!                          │           │    POST /.ztka/hello, documents, ready ────────►   │
//!                          │           │    POST /.ztka/evidence ── once per user ──────►   │
//!                       Reply ◄────────┤    GET /api/… ─────────────────────────────────►   ├─► Reply
//!                                      │    CONNECT :protocol=websocket ◄───── 200 ─────►   │   (an Upgraded reply)
//! ```
//!
//! - [`Registry`] holds the tunnels of connected agents; [`Registry::serve`] runs one on an authenticated connection.
//! - [`Dispatch`] is the last service of a proxy's stack. It takes what is permitted and nothing less, picks the least
//!   loaded tunnel of the cluster, makes sure that the agent holds the user's evidence, and sends.
//! - [`Peers`] are links to other proxies: what has no tunnel here goes to one that has, one hop. There it arrives as
//!   [`Peered`], which nothing but [`LastHop`] takes, and that knows local tunnels only.
//! - [`Bare`] is the same for whoever carries plain HTTP and decides elsewhere who may ask: no user, no policy, no
//!   Kubernetes. The examples `expose` and `acceptor` are both ends of it.
//! - [`Dialer`] holds tunnels to several proxies, in different zones where it has [learnt](Dialer::learn) of them, and
//!   serves a `tower::Service` on them: a lost one is replaced elsewhere, jittered redial, make-before-break on
//!   [`Dialer::renew`] and when a proxy drains, orderly [`Dialer::shutdown`].
//! - [`Connect`] is how it reaches them; [`Tls`] is the usual way, over an [`Egress`]: directly or by an HTTP proxy.
//! - [`Registry::publish`] is news for agents: on every tunnel before its first request, and at once when it changes.
//!
//! Bodies pass as `Bytes` with per-stream flow control: nothing is read faster than it is taken at the other end. A
//! dropped future or body resets the stream, and a reset drops the agent's future or body at once, a quiet one too.
//! Either end notices in under 15 s that its peer is dead, or that packets are dropped in one direction. `docs/protocol.md` has the wire contract.
//!
//! Answers of its own are [`Problem`]s, in RFC 9457's form unless [`Settings::refusals`] has another.
//!
//! # Metrics
//!
//! By the facade of the crate `metrics`; whoever wants them installs a recorder. The label `end` says whose end of the
//! tunnel it is: `proxy`, `agent`, or of a link between proxies `link` (who has dialled) and `peer`. Of what goes on all the
//! time tunnels tell with the timer of their PINGs, some seconds late; nothing is told on the way of a request.
//!
//! | name | kind | what it is |
//! |---|---|---|
//! | `ztka_tunnel_tunnels` | gauge | tunnels that are ready |
//! | `ztka_tunnel_streams` | gauge | requests and streams that are open |
//! | `ztka_tunnel_requests_total` | counter | requests begun; for an agent with those that bring evidence |
//! | `ztka_tunnel_retries_total` | counter | requests sent into another tunnel; the first one has done nothing (`first="untouched"`) or has broken (`broken`) |
//! | `ztka_tunnel_resets_total` | counter | streams that the peer has reset |
//! | `ztka_tunnel_handshakes_total` | counter | set-ups of tunnels, by `outcome`: `ready`, `failed` |
//! | `ztka_tunnel_dials_total`, `ztka_tunnel_redials_total`, `ztka_tunnel_dial_failures_total` | counter | attempts to connect; those in the place of another tunnel; those that led to no connection |
//! | `ztka_tunnel_buffered_bytes` | gauge | received and not read yet, of all tunnels |
//! | `ztka_tunnel_tunnel_buffered_bytes_max` | gauge | the same of the tunnel that has most |
//! | `ztka_tunnel_user_buffered_bytes_max` | gauge | the same of the user who has most, on all tunnels of the server; by `proxy` and `agent` alone, for a proxy with its links |
//! | `ztka_tunnel_window_bytes` | gauge | windows granted to streams that may hold more than 16 KiB |
//! | `ztka_tunnel_unread_ended_total` | counter | streams ended because their users held too much unread |
//!
//! # Example
//!
//! Both ends over a pipe. The service stands for everything behind the agent, and sees requests as users sent them.
//!
//! ```
//! use std::{convert::Infallible, sync::Arc};
//!
//! use http::{Request, Response, StatusCode};
//! use http_body_util::BodyExt as _;
//! use tower::{ServiceExt as _, service_fn};
//! use ztka_core::{Body, BoxError, Reply, SystemClock, Verified, body, empty};
//! use ztka_tunnel::{Dialer, Dispatch, EVIDENCE_PATH, ProxyAddress, Registry, TunnelPeer, connect_fn};
//!
//! # fn permitted(cluster: &str) -> ztka_core::Access<ztka_core::Permitted, Body> {
//! #     use ztka_core::*;
//! #     let session = Session {
//! #         user: "u1".parse().unwrap(), credential: "k1".parse().unwrap(), name: "alice".parse().unwrap(),
//! #         groups: vec![], attributes: ztka_core::Attributes::new(),
//! #         active_until: jiff::Timestamp::MAX,
//! #     };
//! #     let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
//! #     let identity = Identity::new(alice, cluster.parse().unwrap(), Evidence::new("…"));
//! #     let (head, body) = Request::get("/version").body(empty()).unwrap().into_parts();
//! #     let access = Authenticated::assertion(identity, &head, body);
//! #     let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default());
//! #     let grant = Grant { binding: "b".into(), role: "r".into(), policy: Revision::default(), recording: ztka_core::Recording::Off, audit: None };
//! #     Permitted::assertion(access, |_, _, _| Decision::Allow(grant)).unwrap()
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // The proxy: whoever has authenticated is served.
//! let registry = Registry::new(Arc::new(SystemClock));
//! let peer = TunnelPeer {
//!     org: "acme".parse()?,
//!     cluster: "c1".parse()?,
//!     instance: "i1".parse()?,
//!     not_after: jiff::Timestamp::MAX,
//! };
//!
//! // The agent: a way to reach proxies, their addresses, and what answers.
//! let accepting = registry.clone();
//! let connect = connect_fn(move |_: ProxyAddress| {
//!     let (near, far) = tokio::io::duplex(64 << 10);
//!     let (accepting, peer) = (accepting.clone(), peer.clone());
//!     tokio::spawn(async move { accepting.serve(far, peer).await });
//!     async { Ok((near, Verified::assertion("p1".parse().unwrap()))) }
//! });
//! let service = service_fn(|request: Request<Body>| async move {
//!     let mut response = Response::new(empty());
//!     match request.uri().path() {
//!         EVIDENCE_PATH => *response.status_mut() = StatusCode::NO_CONTENT, // believes anything
//!         path => *response.body_mut() = body(format!("{path} of c1")),
//!     }
//!     Ok::<_, Infallible>(Reply::Response(response))
//! });
//! let dialer = Dialer::start(connect, ["tunnel.example.com:443".parse()?], service);
//! dialer.states().wait_for(|tunnels| tunnels.iter().any(|tunnel| tunnel.proxy.is_some())).await?;
//!
//! // A user's request, permitted by the layers before.
//! let Reply::Response(answer) = Dispatch::new(registry.clone()).oneshot(permitted("c1")).await? else { panic!() };
//! assert_eq!(answer.into_body().collect().await?.to_bytes(), "/version of c1");
//!
//! // A cluster without an agent: 503 with Retry-After, which kubectl repeats by itself.
//! let Reply::Response(answer) = Dispatch::new(registry).oneshot(permitted("c2")).await? else { panic!() };
//! assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
//! # Ok(())
//! # }
//! ```
//!
//! What is not permitted does not compile:
//!
//! ```compile_fail
//! fn takes<S>(_: impl tower::Service<ztka_core::Access<S, ztka_core::Body>>) {}
//! # let registry = ztka_tunnel::Registry::new(std::sync::Arc::new(ztka_core::SystemClock));
//! takes::<ztka_core::Recorded>(ztka_tunnel::Dispatch::new(registry));
//! ```
//!
//! Nor does what another proxy has sent here and is to be sent on to a third, whatever is put between:
//!
//! ```compile_fail
//! fn takes<B>(_: impl tower::Service<ztka_core::Access<ztka_core::Permitted, B>>) {}
//! # let registry = ztka_tunnel::Registry::new(std::sync::Arc::new(ztka_core::SystemClock));
//! takes::<ztka_tunnel::Peered>(ztka_tunnel::Dispatch::new(registry));
//! ```
mod agent;
mod egress;
mod error;
mod figures;
mod io;
mod link;
mod problem;
mod proxy;
mod settings;
mod stream;
mod trace;
mod wire;

pub use self::{
    agent::{
        Connect, ConnectFn, DialSettings, Dialer, InvalidAddress, KnownProxy, PeerCheck, ProxyAddress, Tls,
        TunnelState, connect_fn,
    },
    egress::{Egress, EgressError, EgressStream, InvalidEgress, InvalidProxyUrl, NoProxy, ProxyUrl, Unreachable},
    error::{ConnectError, TunnelError},
    io::{BadFrames, FloodLimits, FrameGuard, ReadAhead, give_up_unacknowledged},
    problem::{Problem, Refusals},
    proxy::{Audience, Bare, Dispatch, KnownPeer, LastHop, PeerSettings, Peered, Peers, Registry, TunnelPeer, refuse},
    settings::Settings,
    stream::{Channel, LastWords},
    trace::{Trace, TraceLayer},
    wire::{
        ALPN, AUDIT_ID, CLUSTERS_PATH, DOCUMENT, DOCUMENTS_PATH, DRAIN_PATH, EVIDENCE_PATH, HELLO_PATH, OWN_PATHS,
        PROTOCOL, PROTOCOL_HEADER, READY_PATH, UNKNOWN,
    },
};
