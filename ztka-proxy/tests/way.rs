//! The whole way: a user's TLS, the access stack, a tunnel that an agent dialled to the same port, and back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use support::*;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tower::{ServiceBuilder, service_fn};
use ztka_audit::AuditLayer;
use ztka_authz::{AuthorizeLayer, CutLayer};
use ztka_core::{Body, BoxError, Clock, EvidenceId, ProxyId, Reply, Subject, Verified, empty};
use ztka_pki::{AuthenticateLayer, ClientAuth, Credential, CredentialSource, Purpose, SoftwareKey, ValidCsr, tls};
use ztka_proxy::{
    Acceptor, CertificateAuthenticator, Limits, Listener, PassOn, PerUserLayer, ShedLayer, SpliceLayer, Tunnels, Users,
};
use ztka_tunnel::{Dialer, Dispatch, ProxyAddress, Registry};

/// What an agent was asked.
type Asked = Arc<Mutex<Vec<Request<Bytes>>>>;

async fn proxy(made: &Installation, registry: Registry) -> SocketAddr {
    proxy_with(made, registry, Limits::default()).await
}

async fn proxy_with(made: &Installation, registry: Registry, limits: Limits) -> SocketAddr {
    let refusals = Arc::new(made.recorder.clone());
    let access = ServiceBuilder::new()
        .layer(SpliceLayer)
        .layer(ShedLayer::new(&limits))
        .layer(AuthenticateLayer::new(
            CertificateAuthenticator::new(made.directory.clone(), made.names.clone()),
            refusals.clone(),
        ))
        .layer(PerUserLayer::new(&limits, refusals.clone()))
        .layer(AuditLayer::new(made.recorder.clone()))
        .layer(AuthorizeLayer::new(made.directory.engine().clone()))
        .layer(CutLayer::new(made.open.clone()))
        .service(Dispatch::new(registry.clone()));
    let (provider, trust) = (made.provider.clone(), made.documents.trust().clone());
    let server = made.server_credential(&["*.kube.example.com", "kube.example.com"]).await;
    let auth = ClientAuth::Requested(Purpose::Users);
    let users_tls = tls::server(provider.clone(), server, auth, trust.clone(), &[b"h2", b"http/1.1"]).unwrap();
    let key = SoftwareKey::generate(&provider).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let issued = made.hierarchy.issue_proxy(&csr, &"p1".parse().unwrap()).await.unwrap();
    let own = CredentialSource::new(Credential::new(issued.chain().to_vec(), &key).unwrap());
    let agents_tls =
        tls::server(provider, own, ClientAuth::Required(Purpose::Agents), trust.clone(), &[b"h2"]).unwrap();
    let users = Users::new(access, made.connections.clone(), trust.clone(), &limits, refusals.clone());
    let tunnels = Tunnels::new(registry.clone(), trust, &limits);
    let acceptor = Acceptor::new(
        made.names.clone(),
        Listener::new(users_tls, users),
        Listener::new(agents_tls, tunnels),
        PassOn::Nowhere,
        &limits,
        refusals,
    );
    let engine = made.documents.engine().clone();
    registry.naming(move |org, cluster| engine.late(org, cluster));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(acceptor.serve(listener, std::future::pending(), Duration::from_secs(1)));
    tokio::spawn(ztka_proxy::publish(made.documents.clone(), move |audience, name, wire| match wire {
        Some(wire) => registry.publish(audience, name, wire),
        None => registry.withdraw(audience, name),
    }));
    address
}

/// An agent of c1 that takes everything down and answers every request of a user with `pod`.
async fn agent(made: &Installation, proxy: SocketAddr, asked: Asked) -> Dialer {
    let (provider, trust) = (made.provider.clone(), made.documents.trust().clone());
    let key = SoftwareKey::generate(&provider).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let (org, cluster, instance) = ("acme".parse().unwrap(), "c1".parse().unwrap(), "i1".parse().unwrap());
    let issued = made.hierarchy.issue_agent(&csr, &org, &cluster, &instance).await.unwrap();
    let own = CredentialSource::new(Credential::new(issued.chain().to_vec(), &key).unwrap());
    let config = tls::client(provider, trust.clone(), Some(own), Purpose::Proxies, &[b"h2"]).unwrap();
    let check = move |chain: &[rustls_pki_types::CertificateDer<'_>]| -> Result<Verified<ProxyId>, BoxError> {
        let peer = trust.verify(Purpose::Proxies, chain)?;
        match &peer.id.subject {
            Subject::Proxy(id) => Ok(Verified::assertion(id.clone())),
            _ => Err("not a proxy".into()),
        }
    };
    let service = service_fn(move |request: Request<Body>| -> BoxFuture<'static, Result<Reply, BoxError>> {
        let asked = asked.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let own = head.uri.path().starts_with("/.ztka/");
            asked.lock().unwrap().push(Request::from_parts(head, body));
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(if own { Reply::Response(response) } else { ok("pod") })
        })
    });
    let name = ServerName::try_from("tunnel.example.com").unwrap();
    let address = ProxyAddress::new(proxy.ip().to_string(), proxy.port()).unwrap().named(name);
    Dialer::start(ztka_tunnel::Tls::new(config, check), [address], service)
}

async fn ask(made: &Installation, proxy: SocketAddr, body: &'static str) -> (StatusCode, String) {
    let (key, issued) = made.user("acme", "u1", "k1", 30).await;
    let config = made.client(Some((&key, issued.chain())), "h2");
    let tcp = TcpStream::connect(proxy).await.unwrap();
    let name = ServerName::try_from("c1.kube.example.com").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::put(format!("https://c1.kube.example.com{POD}")).body(Full::new(Bytes::from(body)));
    let (head, body) = sender.send_request(request.unwrap()).await.unwrap().into_parts();
    (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_reaches_the_agent_with_all_that_it_needs_to_check_it() {
    let made = installation().await;
    let registry = Registry::new(Arc::new(made.clock.clone()) as Arc<dyn Clock>);
    let proxy = proxy(&made, registry.clone()).await;
    let (status, answer) = ask(&made, proxy, "{}").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");

    for cluster in ["c1", "c2"] {
        made.projection("acme", cluster).await;
    }
    let asked = Asked::default();
    let dialer = agent(&made, proxy, asked.clone()).await;
    let (org, cluster) = ("acme".parse().unwrap(), "c1".parse().unwrap());
    made.until("the agent is connected", |_| registry.is_connected(&org, &cluster)).await;
    for _ in 0..2 {
        let (status, answer) = ask(&made, proxy, "{\"kind\":\"Pod\"}").await;
        assert_eq!((status, answer.as_str()), (StatusCode::OK, "pod"));
    }
    made.revoke("k9").await;
    let documents = || {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|request| request.uri().path() == "/.ztka/documents").count()
    };
    made.until("the agent has heard of its part of policy, and of revocations", |_| documents() == 2).await;
    let named = |name: &str| {
        let asked = asked.lock().unwrap();
        asked.iter().any(|request| request.headers().get("ztka-document").is_some_and(|said| said == name))
    };
    assert!(named("policy/c1") && named("revocations/"));

    let asked = asked.lock().unwrap().clone();
    let of = |path: &str| asked.iter().filter(|request| request.uri().path() == path).collect::<Vec<_>>();
    // A user's evidence is sent anew with each chain, here one for each connection, and before it is referred to.
    let (evidence, requests) = (of("/.ztka/evidence"), of(POD));
    assert_eq!((evidence.len(), requests.len()), (2, 2));
    let request = requests[0];
    let id = |request: &Request<Bytes>| {
        let header = request.headers()[&ztka_core::EVIDENCE].to_str().unwrap();
        EvidenceId::parse(header).unwrap()
    };
    assert_eq!(id(request), id(evidence[0]));
    assert_eq!(request.headers()[&ztka_core::SOURCE], "127.0.0.1");
    assert!(request.headers().contains_key("audit-id") && request.headers().contains_key(&ztka_core::POLICY));
    assert_eq!(request.body(), "{\"kind\":\"Pod\"}");
    let evidence: serde_json::Value = serde_json::from_slice(evidence[0].body()).unwrap();
    assert!(evidence["chain"].as_array().is_some_and(|chain| chain.len() >= 2), "{evidence}");
    assert!(evidence["session"]["signed"].is_string(), "{evidence}");

    drop(dialer);
    made.until("the tunnel is gone", |_| !registry.is_connected(&org, &cluster)).await;
    let (status, _) = ask(&made, proxy, "{}").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn agents_that_connect_without_end_are_turned_away_and_those_that_are_there_stay() {
    let made = installation().await;
    let registry = Registry::new(Arc::new(made.clock.clone()) as Arc<dyn Clock>);
    let limits = Limits { cluster_new_tunnels_burst: 1, cluster_new_tunnels_per_second: 0, ..Limits::default() };
    let proxy = proxy_with(&made, registry.clone(), limits).await;
    let first = agent(&made, proxy, Asked::default()).await;
    let (org, cluster) = ("acme".parse().unwrap(), "c1".parse().unwrap());
    made.until("the agent is connected", |_| registry.is_connected(&org, &cluster)).await;
    let second = agent(&made, proxy, Asked::default()).await;
    made.until("the second is turned away", |_| second.states().borrow().iter().any(|state| state.error.is_some()))
        .await;
    assert_eq!(registry.peers().len(), 1);
    let why = second.states().borrow().iter().find_map(|state| state.error.clone()).unwrap();
    assert!(why.contains("connect too fast; check for one that restarts or redials"), "{why}");
    let (status, answer) = ask(&made, proxy, "{}").await;
    assert_eq!((status, answer.as_str()), (StatusCode::OK, "pod"));
    drop(first);
}

#[tokio::test]
async fn the_agent_is_asked_by_the_newest_policy_that_it_can_have() {
    let made = installation().await;
    let registry = Registry::new(Arc::new(made.clock.clone()) as Arc<dyn Clock>);
    let proxy = proxy(&made, registry.clone()).await;
    let asked = Asked::default();
    let _dialer = agent(&made, proxy, asked.clone()).await;
    let (org, cluster) = ("acme".parse().unwrap(), "c1".parse().unwrap());
    made.until("the agent is connected", |_| registry.is_connected(&org, &cluster)).await;
    let named = async || {
        assert_eq!(ask(&made, proxy, "{}").await.0, StatusCode::OK);
        let asked = asked.lock().unwrap();
        let last = asked.iter().rev().find(|request| request.uri().path() == POD).unwrap();
        last.headers()[&ztka_core::POLICY].to_str().unwrap().parse::<ztka_core::Revision>().unwrap()
    };
    let policy = || made.documents.engine().revision(&org).unwrap();
    let of = |revision: ztka_core::Revision| revision.version;
    assert_eq!(named().await, policy(), "nothing is known of projections, as from a controller that makes none");

    // They come before their policy: a version ahead here, as each document has one of its own.
    made.projection("acme", "c1").await;
    assert_eq!(named().await, policy());
    let before = of(policy());
    made.policy("acme", &["c1", "c2"], "cluster-admin").await;
    // One more policy, and no projection yet: the agent cannot have it, and is not to wait for it.
    assert!(of(named().await) > before && named().await < policy());
    made.projection("acme", "c1").await;
    assert_eq!(named().await, policy());
}
