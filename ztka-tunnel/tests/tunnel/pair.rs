//! Both ends of tunnels in one process: duplex pairs for connections, cables that can be cut, a clock that is set.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt as _, service_fn};
use ztka_core::{
    Access, AuditId, Authenticated, Body, Decision, DecisionSlot, Evidence, Grant, Identity, ManualClock, Permitted,
    Principal, ProxyId, Recorded, Reply, Revision, Session, Upgrade, Verified, body, empty,
};
use ztka_tunnel::{
    Connect, ConnectError, DialSettings, Dialer, Dispatch, ProxyAddress, Registry, Settings, TunnelPeer, connect_fn,
};

/// Longer than anything here takes, even in paused time.
pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) fn text(of: impl Into<Bytes>) -> Reply {
    Reply::Response(Response::new(body(of)))
}

pub(crate) fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = code;
    response
}

/// What an agent was sent, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Reply> + Send + Sync>;

/// An agent's service: notes everything, acknowledges evidence and documents, and leaves requests to `handler`.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) log: Log,
    pub(crate) handler: Handler,
}

impl Agent {
    pub(crate) fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Body>) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        Self { log: Log::default(), handler: Arc::new(move |request| Box::pin(handler(request))) }
    }

    pub(crate) fn echo() -> Self {
        Self::new(|request| async { Reply::Response(Response::new(request.into_body())) })
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn answer(self, request: Request<Body>) -> Result<Reply, Infallible> {
        let line = format!("{} {}", request.method(), request.uri());
        match request.uri().path() {
            "/.ztka/evidence" => {
                let content = request.into_body().collect().await.unwrap().to_bytes();
                self.log.lock().unwrap().push(format!("evidence {}", String::from_utf8_lossy(&content)));
                let taken = !content.starts_with(b"bad");
                Ok(match taken {
                    true => Reply::Response(status(StatusCode::NO_CONTENT)),
                    false => ztka_core::Status::new(StatusCode::UNAUTHORIZED, "not believed").into(),
                })
            }
            "/.ztka/documents" => {
                let name = request.headers()["ztka-document"].to_str().unwrap().to_owned();
                let content = request.into_body().collect().await.unwrap().to_bytes();
                self.log.lock().unwrap().push(format!("document {name} {}", String::from_utf8_lossy(&content)));
                Ok(Reply::Response(status(StatusCode::NO_CONTENT)))
            }
            _ => {
                self.log.lock().unwrap().push(line);
                Ok((self.handler)(request).await)
            }
        }
    }
}

/// Proxies that can be dialled, by port from 0.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) clock: ManualClock,
    pub(crate) proxies: Vec<Registry>,
    /// Of the connections made so far, in order: cut to keep both ends open and silent.
    pub(crate) cables: Arc<Mutex<Vec<CancellationToken>>>,
    pub(crate) settings: Settings,
}

impl Net {
    pub(crate) fn new(proxies: usize) -> Self {
        Self::with(proxies, Settings::default())
    }

    pub(crate) fn with(proxies: usize, settings: Settings) -> Self {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let registry = || Registry::with_settings(Arc::new(clock.clone()), settings);
        let proxies = (0..proxies).map(|_| registry()).collect();
        Self { clock, proxies, cables: Arc::default(), settings }
    }

    pub(crate) fn peer(&self, org: &str, cluster: &str, instance: &str) -> TunnelPeer {
        let not_after = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24);
        let (org, cluster) = (org.parse().unwrap(), cluster.parse().unwrap());
        TunnelPeer { org, cluster, instance: instance.parse().unwrap(), not_after }
    }

    /// Connects to the proxies as `peer`; proxy `n` is called `pn`.
    pub(crate) fn connector(&self, peer: TunnelPeer) -> impl Connect + use<> {
        let net = self.clone();
        connect_fn(move |address: ProxyAddress| {
            let (net, peer) = (net.clone(), peer.clone());
            async move {
                let registry = net.proxies.get(usize::from(address.port())).cloned();
                let registry = registry.ok_or_else(|| ConnectError::Other("no such proxy".into()))?;
                let near = net.lay(registry, peer);
                let id: ProxyId = format!("p{}", address.port()).parse().unwrap();
                Ok((near, Verified::assertion(id)))
            }
        })
    }

    pub(crate) fn lay(&self, registry: Registry, peer: TunnelPeer) -> DuplexStream {
        let (near, mut left) = duplex(256 << 10);
        let (mut right, far) = duplex(256 << 10);
        let cut = CancellationToken::new();
        self.cables.lock().unwrap().push(cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = copy_bidirectional(&mut left, &mut right) => return,
                () = cut.cancelled() => {}
            }
            std::future::pending::<()>().await;
        });
        tokio::spawn(async move { registry.serve(far, peer).await });
        near
    }

    /// A tunnel to each of the proxies.
    pub(crate) fn dial(&self, peer: TunnelPeer, agent: &Agent) -> Dialer {
        self.dial_some(peer, agent, self.proxies.len())
    }

    /// A tunnel to any of them.
    pub(crate) fn dial_one(&self, peer: TunnelPeer, agent: &Agent) -> Dialer {
        self.dial_some(peer, agent, 1)
    }

    fn dial_some(&self, peer: TunnelPeer, agent: &Agent, tunnels: usize) -> Dialer {
        let addresses = (0..self.proxies.len()).map(|port| ProxyAddress::new("proxy", port as u16).unwrap());
        let agent = agent.clone();
        let service = service_fn(move |request| agent.clone().answer(request));
        let dial = DialSettings { tunnels, ..DialSettings::default() };
        Dialer::start_with(self.connector(peer), addresses, service, self.settings, dial)
    }

    /// An agent of cluster c1 of org acme, connected.
    pub(crate) async fn connected(&self, agent: &Agent) -> Dialer {
        let dialer = self.dial(self.peer("acme", "c1", "i1"), agent);
        ready(&dialer).await;
        dialer
    }

    pub(crate) fn ask(&self, access: Access<Permitted, Body>) -> BoxFuture<'static, Reply> {
        send(&self.proxies[0], access)
    }
}

pub(crate) async fn ready(dialer: &Dialer) {
    let mut states = dialer.states();
    let all = states.wait_for(|states| states.iter().all(|state| state.proxy.is_some()));
    timeout(LONG, all).await.expect("connected").unwrap();
}

pub(crate) fn send(registry: &Registry, access: Access<Permitted, Body>) -> BoxFuture<'static, Reply> {
    let answer = Dispatch::new(registry.clone()).oneshot(access).boxed();
    async { timeout(LONG, answer).await.expect("answered").unwrap() }.boxed()
}

/// Waits until `is` holds, with a bound.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let poll = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, poll).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A request of alice for a cluster, as it comes to dispatch.
pub(crate) struct Ask {
    pub(crate) request: Request<Body>,
    pub(crate) org: &'static str,
    pub(crate) cluster: &'static str,
    pub(crate) evidence: &'static str,
    pub(crate) user: &'static str,
}

pub(crate) fn ask(method: Method, path: &str) -> Ask {
    let request = Request::builder().method(method).uri(path).body(empty()).unwrap();
    Ask { request, org: "acme", cluster: "c1", evidence: "alice", user: "u1" }
}

pub(crate) fn get(path: &str) -> Access<Permitted, Body> {
    ask(Method::GET, path).permitted()
}

impl Ask {
    pub(crate) fn body(mut self, body: Body) -> Self {
        *self.request.body_mut() = body;
        self
    }

    /// Somebody else than alice.
    pub(crate) fn by(self, user: &'static str) -> Self {
        Self { user, evidence: user, ..self }
    }

    pub(crate) fn upgrade(mut self, upgrade: Upgrade) -> Self {
        self.request.extensions_mut().insert(upgrade);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.request.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn permitted(self) -> Access<Permitted, Body> {
        let session = Session {
            user: self.user.parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        };
        let alice = Verified::assertion(Principal::new(self.org.parse().unwrap(), session));
        let identity = Identity::new(alice, self.cluster.parse().unwrap(), Evidence::new(self.evidence));
        let identity = identity.from_source(Some([192, 0, 2, 7].into()));
        let (head, body) = self.request.into_parts();
        let access = Authenticated::assertion(identity, &head, body);
        let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default());
        let policy = Revision { epoch: 1, version: 7 };
        let grant = Grant {
            binding: "all".into(),
            role: "all".into(),
            policy,
            recording: ztka_core::Recording::Off,
            audit: None,
        };
        Permitted::assertion(access, |_, _, _| Decision::Allow(grant)).unwrap()
    }
}

/// A response with its body collected.
pub(crate) async fn collected(reply: Reply) -> Response<Bytes> {
    let Reply::Response(response) = reply else { panic!("upgraded: {reply:?}") };
    let (head, body) = response.into_parts();
    let body = timeout(LONG, body.collect()).await.expect("body ends").expect("body is whole").to_bytes();
    Response::from_parts(head, body)
}
