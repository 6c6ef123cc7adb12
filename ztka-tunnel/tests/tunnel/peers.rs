//! Requests for a cluster whose agent is at another proxy.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{io::duplex, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt as _, service_fn};
use ztka_core::{
    Access, AuditId, Authenticated, Body, BoxError, ClusterId, Decision, DecisionSlot, Evidence, Grant, Identity,
    Permitted, Principal, ProxyId, Recorded, Reply, Revision, SentTwice, Session, Upgrade, UserId, Verified, Via, body,
};
use ztka_tunnel::{
    ConnectError, DialSettings, Dialer, Dispatch, KnownPeer, LastHop, PeerSettings, Peered, Peers, Problem,
    ProxyAddress, Registry, Settings, connect_fn,
};

use crate::pair::{Agent, LONG, Net, ask, collected, get, ready, status, text, until};

/// Some proxies, and links from each to those that it is told of.
struct Mesh {
    net: Net,
    peers: Vec<Peers>,
    /// Cancelled: the proxy takes nothing new from others.
    drains: Vec<CancellationToken>,
}

fn id(number: usize) -> ProxyId {
    format!("p{number}").parse().unwrap()
}

/// What a proxy does with what another passes on, without its own checks: these are in `ztka-proxy`.
fn permitted(request: Request<Peered>) -> Access<Permitted, Peered> {
    let (head, body) = request.into_parts();
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: ztka_core::Attributes::new(),
        active_until: jiff::Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
    let cluster = head.extensions.get::<ClusterId>().unwrap().clone();
    let record = AuditId::parse(head.headers["audit-id"].to_str().unwrap()).unwrap();
    assert!(head.extensions.get::<Verified<ProxyId>>().is_some());
    let identity = Identity::new(alice, cluster, Evidence::new("alice, as p1 knows her")).recorded_as(record);
    let access = Authenticated::assertion(identity, &head, body);
    let access = Recorded::assertion(access, record, DecisionSlot::default());
    let grant = Grant {
        binding: "all".into(),
        role: "all".into(),
        policy: Revision::default(),
        recording: ztka_core::Recording::Off,
        audit: None,
    };
    Permitted::assertion(access, |_, _, _| Decision::Allow(grant)).unwrap()
}

async fn take(registry: Registry, request: Request<Peered>) -> Result<Reply, Infallible> {
    if request.headers()["ztka-evidence"] == Evidence::new("forged").id().as_str() {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "asked for without evidence");
        return Ok(Reply::Response(problem.into_response()));
    }
    LastHop::new(registry).oneshot(permitted(request)).await
}

fn admit(_: &HeaderMap, bytes: Bytes) -> Result<(), Problem> {
    match bytes.starts_with(b"forged") {
        true => Err(Problem::new(StatusCode::UNAUTHORIZED, "the other proxy does not believe it")),
        false => Ok(()),
    }
}

/// There is nobody else.
fn alice(_: &HeaderMap) -> Option<UserId> {
    Some("u1".parse().unwrap())
}

impl Mesh {
    fn new(proxies: usize) -> Self {
        Self::with(proxies, Settings::default())
    }

    fn with(proxies: usize, settings: Settings) -> Self {
        let net = Net::with(proxies, settings);
        let drains: Vec<_> = (0..proxies).map(|_| CancellationToken::new()).collect();
        let start = |own: usize| {
            let (net, drains) = (net.clone(), drains.clone());
            let beside = net.proxies[own].clone();
            let connect = connect_fn(move |address: ProxyAddress| {
                let to = usize::from(address.port());
                let (registry, drain) = (net.proxies[to].clone(), drains[to].child_token());
                async move {
                    let (near, far) = duplex(256 << 10);
                    tokio::spawn(async move {
                        let taken = registry.clone();
                        let service = service_fn(move |request| take(taken.clone(), request));
                        registry.serve_peer(far, Verified::assertion(id(own)), service, (admit, alice), drain).await
                    });
                    Ok::<_, ConnectError>((near, Verified::assertion(id(to))))
                }
            });
            Peers::start(&beside, connect, PeerSettings::default())
        };
        let peers = (0..proxies).map(start).collect();
        Self { net, peers, drains }
    }

    /// `from` learns of these.
    async fn link(&self, from: usize, to: &[usize]) {
        let known = |to: &usize| KnownPeer { id: id(*to), address: ProxyAddress::new("p", *to as u16).unwrap() };
        self.peers[from].learn(to.iter().map(known).collect::<Vec<_>>());
        until("the links", || self.peers[from].linked().len() == to.len()).await;
    }

    /// An agent of c1 with a tunnel to proxy `to` alone.
    async fn agent(&self, instance: &str, to: usize, agent: &Agent) -> Dialer {
        self.agent_of("c1", instance, to, agent).await
    }

    async fn agent_of(&self, cluster: &str, instance: &str, to: usize, agent: &Agent) -> Dialer {
        let agent = agent.clone();
        let service = service_fn(move |request| agent.clone().answer(request));
        let dial = DialSettings { tunnels: 1, ..DialSettings::default() };
        let address = ProxyAddress::new("proxy", to as u16).unwrap();
        let connector = self.net.connector(self.net.peer("acme", cluster, instance));
        let dialer = Dialer::start_with(connector, [address], service, Settings::default(), dial);
        ready(&dialer).await;
        dialer
    }

    async fn known(&self, at: usize) {
        let cluster: ClusterId = "c1".parse().unwrap();
        until("the cluster is told of", || self.peers[at].reach(&cluster)).await;
    }

    async fn unknown(&self, at: usize) {
        let cluster: ClusterId = "c1".parse().unwrap();
        until("the cluster is told to be gone", || !self.peers[at].reach(&cluster)).await;
    }

    fn ask(&self, at: usize, access: Access<Permitted, Body>) -> BoxFuture<'static, Reply> {
        let dispatch = Dispatch::new(self.net.proxies[at].clone()).with_peers(self.peers[at].clone());
        let answer = dispatch.oneshot(access).boxed();
        async { timeout(LONG, answer).await.expect("answered").unwrap() }.boxed()
    }
}

fn via(reply: &Reply) -> Option<ProxyId> {
    let extensions = match reply {
        Reply::Response(response) => response.extensions(),
        Reply::Upgraded { head, .. } => head.extensions(),
    };
    extensions.get::<Via>().map(|Via(proxy)| proxy.clone())
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_to_the_proxy_that_has_the_tunnel() {
    let mesh = Mesh::new(3);
    mesh.link(0, &[1, 2]).await;
    let agent = Agent::new(|request| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let source = head.headers.get("ztka-source").map(|value| value.to_str().unwrap().to_owned());
        text(format!("{} {} {source:?} {}", head.method, head.uri, String::from_utf8_lossy(&body)))
    });
    let dialer = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;
    for _ in 0..2 {
        let reply = mesh.ask(0, ask(Method::POST, "/api?a=b").body(body("hello")).permitted()).await;
        assert_eq!(via(&reply), Some(id(1)));
        let answer = collected(reply).await;
        assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::OK, &b"POST /api?a=b None hello"[..]));
    }
    // Each end of the way shows the user once, as it knows them.
    let evidence: Vec<_> = agent.seen().into_iter().filter(|line| line.starts_with("evidence")).collect();
    assert_eq!(evidence, ["evidence alice, as p1 knows her"]);

    // Where there is a tunnel, nobody else is asked.
    let here = mesh.agent("i2", 0, &agent).await;
    assert_eq!(via(&mesh.ask(0, get("/a")).await), None);
    drop(here);
    until("it is gone", || mesh.net.proxies[0].peers().is_empty()).await;
    assert_eq!(via(&mesh.ask(0, get("/a")).await), Some(id(1)));

    // What goes is told of at once.
    drop(dialer);
    mesh.unknown(0).await;
    let reply = mesh.ask(0, get("/a")).await;
    assert_eq!(via(&reply), None);
    let answer = collected(reply).await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert!(!answer.headers().contains_key("ztka-tunnel"));
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_passes_on_is_passed_on_no_further() {
    let mesh = Mesh::new(3);
    let agent = Agent::echo();
    // 0 knows 1, and 1 knows 2, where the agent is.
    mesh.link(0, &[1]).await;
    mesh.link(1, &[2]).await;
    let moved = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;
    let _there = mesh.agent("i2", 2, &agent).await;
    mesh.known(1).await;
    let before = agent.seen().len();
    // 0 believes that 1 has it, and hears of its end only behind the request.
    mesh.net.proxies[1].close_where(|_| true);
    let reply = mesh.ask(0, get("/a")).await;
    assert_eq!(collected(reply).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let with_body = ask(Method::POST, "/a").body(body("hello")).permitted();
    assert_eq!(collected(mesh.ask(0, with_body).await).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(agent.seen().len(), before, "the agent at the third proxy is not asked");
    // A user at 1 is served by way of 2.
    assert_eq!(via(&mesh.ask(1, get("/a")).await), Some(id(2)));
    drop(moved);
}

#[tokio::test(start_paused = true)]
async fn streams_go_both_ways_and_end_as_they_do_without() {
    let mesh = Mesh::new(2);
    mesh.link(0, &[1]).await;
    let (dropped, mut drops) = mpsc::unbounded_channel::<()>();
    let agent = Agent::new(move |request: Request<Body>| {
        let dropped = dropped.clone();
        async move {
            if request.extensions().get::<Upgrade>().is_some() {
                let (near, far) = duplex(1024);
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(far);
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    tokio::io::AsyncWriteExt::write_all(&mut write, b" and all").await.unwrap();
                });
                let io = tokio_util::compat::TokioAsyncReadCompatExt::compat(near);
                return Reply::Upgraded { head: Response::new(()), io: Box::pin(io) };
            }
            let first = futures_util::stream::once(async { Ok::<_, BoxError>(Frame::data(Bytes::from("begun"))) });
            let guard = scopeguard(dropped);
            let rest = futures_util::stream::once(async move {
                let _guard = guard;
                std::future::pending().await
            });
            Reply::Response(Response::new(StreamBody::new(futures_util::StreamExt::chain(first, rest)).boxed_unsync()))
        }
    });
    let _dialer = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;

    // A watch: its first line comes at once, and the end of its reader is the end of it.
    let Reply::Response(watch) = mesh.ask(0, get("/api/v1/pods?watch=1")).await else { panic!() };
    let mut watch = watch.into_body();
    let line = timeout(LONG, watch.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert_eq!(line, "begun");
    assert_eq!(mesh.peers[0].streams(), 1);
    drop(watch);
    timeout(LONG, drops.recv()).await.expect("the agent's body is dropped");
    until("the stream is not counted", || mesh.peers[0].streams() == 0).await;

    // An exec: half-close, and what comes behind it.
    let exec = ask(Method::POST, "/api/v1/namespaces/default/pods/web/exec?command=sh").upgrade(Upgrade::Spdy31);
    let reply = mesh.ask(0, exec.permitted()).await;
    assert_eq!(via(&reply), Some(id(1)));
    let Reply::Upgraded { head, mut io } = reply else { panic!("{reply:?}") };
    assert_eq!(head.status(), StatusCode::SWITCHING_PROTOCOLS);
    io.write_all(b"hello").await.unwrap();
    io.close().await.unwrap();
    let mut heard = String::new();
    timeout(LONG, io.read_to_string(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, "hello and all");
}

/// Tells when it is dropped.
fn scopeguard(dropped: mpsc::UnboundedSender<()>) -> impl Send + Sync {
    struct Guard(mpsc::UnboundedSender<()>);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    Guard(dropped)
}

fn asked(agent: &Agent) -> usize {
    agent.seen().iter().filter(|line| !line.starts_with("evidence ")).count()
}

#[tokio::test(start_paused = true)]
async fn the_rule_of_retries_counts_the_whole_way() {
    for (method, code, twice) in [(Method::GET, StatusCode::OK, true), (Method::POST, StatusCode::BAD_GATEWAY, false)] {
        let mesh = Mesh::new(3);
        mesh.link(0, &[1, 2]).await;
        let silent = Agent::new(|_| std::future::pending());
        let first = mesh.agent("i1", 1, &silent).await;
        mesh.known(0).await;
        let under_way = tokio::spawn(mesh.ask(0, ask(method.clone(), "/a").permitted()));
        until("the request is under way", || asked(&silent) == 1).await;
        // At the proxy of the first, too: that one does not send it again by itself.
        let answering = Agent::new(|_| async { Reply::Response(status(StatusCode::OK)) });
        let beside = Agent::new(|_| async { Reply::Response(status(StatusCode::ACCEPTED)) });
        let _others = (mesh.agent("i2", 2, &answering).await, mesh.agent("i3", 1, &beside).await);
        until("two tell of it", || mesh.peers[0].linked().iter().all(|(_, clusters)| *clusters == 1)).await;
        drop(first);
        let reply = under_way.await.unwrap();
        let Reply::Response(response) = &reply else { panic!() };
        assert_eq!(response.extensions().get::<SentTwice>().is_some(), twice, "{method}");
        assert_eq!((via(&reply), asked(&beside)), (Some(id(if twice { 2 } else { 1 })), 0), "{method}");
        assert_eq!(collected(reply).await.status(), code, "{method}");
        assert_eq!(asked(&answering), usize::from(twice), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_dies_takes_what_it_told_with_it_and_comes_back() {
    let mesh = Mesh::new(2);
    mesh.link(0, &[1]).await;
    let agent = Agent::echo();
    let _dialer = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;
    assert_eq!(mesh.peers[0].close_where(|peer| *peer == id(1)), 1);
    mesh.unknown(0).await;
    assert_eq!(collected(mesh.ask(0, get("/a")).await).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    mesh.known(0).await;
    assert_eq!(collected(mesh.ask(0, get("/a")).await).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_drains_gets_nothing_new_and_ends_what_it_has() {
    let mesh = Mesh::new(2);
    mesh.link(0, &[1]).await;
    let (send, receive) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let receive = std::sync::Mutex::new(Some(receive));
    let agent = Agent::new(move |_| {
        let mut receive = receive.lock().unwrap().take().unwrap();
        let lines = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
        async move { Reply::Response(Response::new(StreamBody::new(lines).boxed_unsync())) }
    });
    let _dialer = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;
    let Reply::Response(watch) = mesh.ask(0, get("/api/v1/pods?watch=1")).await else { panic!() };
    mesh.drains[1].cancel();
    mesh.unknown(0).await;
    let cluster = collected(mesh.ask(0, get("/a")).await).await;
    assert_eq!(cluster.status(), StatusCode::SERVICE_UNAVAILABLE);
    send.send(Ok(Frame::data("last".into()))).unwrap();
    drop(send);
    let all = timeout(LONG, watch.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(all, "last");
}

#[tokio::test(start_paused = true)]
async fn a_link_is_replaced_before_it_is_old_and_streams_on_it_go_on() {
    let mesh = Mesh::new(2);
    mesh.link(0, &[1]).await;
    let agent = Agent::new(|_| async {
        Reply::Response(Response::new(
            StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>()).boxed_unsync(),
        ))
    });
    let _dialer = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;
    let Reply::Response(watch) = mesh.ask(0, get("/api/v1/pods?watch=1")).await else { panic!() };
    let mut watch = watch.into_body();
    tokio::time::sleep(Duration::from_secs(3605)).await;
    assert_eq!(mesh.peers[0].linked().len(), 1, "one takes requests");
    assert!(timeout(Duration::from_secs(60), watch.frame()).await.is_err(), "the watch goes on");
    let Reply::Response(second) = mesh.ask(0, get("/a")).await else { panic!() };
    assert_eq!(second.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn evidence_that_the_other_proxy_does_not_believe_is_refused_by_it() {
    let mesh = Mesh::new(2);
    mesh.link(0, &[1]).await;
    let agent = Agent::echo();
    let _dialer = mesh.agent("i1", 1, &agent).await;
    mesh.known(0).await;
    let mut forged = ask(Method::GET, "/a");
    forged.evidence = "forged";
    let answer = collected(mesh.ask(0, forged.permitted()).await).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(String::from_utf8_lossy(answer.body()).contains("the other proxy does not believe it"));
    assert_eq!(agent.seen(), Vec::<String>::new());
}

/// What a user leaves unread counts once, whether a tunnel or a link has brought it.
#[tokio::test(start_paused = true)]
async fn a_user_has_one_limit_over_tunnels_and_links() {
    const MIB: usize = 1 << 20;
    let settings = Settings { user_memory: 24 * MIB, ..Settings::default() };
    let mesh = Mesh::with(2, settings);
    mesh.link(0, &[1]).await;
    let agent = Agent::new(|_| async {
        let pieces =
            futures_util::stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; 32 << 10]))));
        Reply::Response(Response::new(StreamBody::new(futures_util::StreamExt::take(pieces, 1280)).boxed_unsync()))
    });
    let _there = mesh.agent("i1", 1, &agent).await;
    let _here = mesh.agent_of("c2", "i2", 0, &agent).await;
    mesh.known(0).await;
    let registry = &mesh.net.proxies[0];
    let mut stalled = Vec::new();
    for number in 0..40 {
        let cluster = ["c1", "c2"][number % 2];
        let asked = crate::pair::Ask { cluster, ..ask(Method::GET, "/api/v1/namespaces/a/pods/b/log") };
        let reply = mesh.ask(0, asked.permitted()).await;
        assert_eq!(via(&reply).is_some(), cluster == "c1");
        stalled.push(reply);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (held, _) = registry.buffered_by_one();
        assert!(held <= settings.user_memory + 40 * (16 << 10) + 4 * MIB, "{number}: {held}");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (held, ended) = registry.buffered_by_one();
    assert!(held <= settings.user_memory + 40 * (16 << 10) && ended > 0, "{held}, {ended} ended");
    assert_eq!(registry.buffered(), held, "all of it is theirs");
    assert_eq!(mesh.peers[0].streams() + registry.streams(), 40);
}
