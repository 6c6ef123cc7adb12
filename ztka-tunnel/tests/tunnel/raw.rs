//! An agent against peers that speak HTTP/2 but not by the contract: wrong upgrades, resets by the thousand.

use std::time::Duration;

use bytes::Bytes;
use h2::{client::SendRequest, ext::Protocol};
use http::{Method, Request, StatusCode};
use tokio::{io::duplex, time::timeout};
use tower::service_fn;
use ztka_core::{Body, BoxError, Verified};
use ztka_tunnel::{ConnectError, Dialer, ProxyAddress, connect_fn};

use crate::pair::{LONG, text};

/// An agent whose proxy we are. The dialer keeps it alive.
async fn agent() -> (SendRequest<Bytes>, Dialer) {
    let (near, far) = duplex(1 << 20);
    let near = std::sync::Mutex::new(Some(near));
    let connect = connect_fn(move |_: ProxyAddress| {
        let near = near.lock().unwrap().take();
        async move {
            let near = near.ok_or_else(|| ConnectError::Other("only once".into()))?;
            Ok((near, Verified::assertion("p1".parse().unwrap())))
        }
    });
    let service = service_fn(|request: Request<Body>| async move {
        match request.uri().path() {
            "/fail" => Err("broken on purpose".into()),
            "/never" => std::future::pending().await,
            path => Ok::<_, BoxError>(text(path.to_owned())),
        }
    });
    let dialer = Dialer::start(connect, ["proxy:443".parse().unwrap()], service);
    let (mut sender, connection) = h2::client::handshake(far).await.unwrap();
    tokio::spawn(connection);
    let hello = send(&mut sender, own("/.ztka/hello", Some("1.3"))).await;
    assert_eq!(hello, StatusCode::NO_CONTENT);
    (sender, dialer)
}

fn own(path: &str, version: Option<&str>) -> Request<()> {
    let mut request = Request::post(format!("https://c1{path}"));
    if let Some(version) = version {
        request = request.header("ztka-protocol", version);
    }
    request.body(()).unwrap()
}

async fn send(sender: &mut SendRequest<Bytes>, request: Request<()>) -> StatusCode {
    let (response, _stream) = sender.send_request(request, true).unwrap();
    timeout(LONG, response).await.expect("answered").unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn says_which_version_it_speaks() {
    let (mut sender, dialer) = agent().await;
    assert_eq!(send(&mut sender, own("/.ztka/hello", Some("2.0"))).await, StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    assert_eq!(send(&mut sender, own("/.ztka/hello", None)).await, StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    assert!(dialer.states().borrow()[0].proxy.is_none(), "not ready yet");
    assert_eq!(send(&mut sender, own("/.ztka/ready", None)).await, StatusCode::NO_CONTENT);
    timeout(LONG, dialer.states().wait_for(|states| states[0].proxy.is_some())).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn refuses_upgrades_that_it_cannot_read_in_one_way_only() {
    let (mut sender, _dialer) = agent().await;
    let request = |method: Method, protocol: Option<&'static str>, named: Option<&str>| {
        let mut request = Request::builder().method(method).uri("https://c1/api/v1/namespaces/d/pods/p/exec");
        if let Some(named) = named {
            request = request.header("ztka-method", named);
        }
        let mut request = request.body(()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        request
    };
    for (method, protocol, named) in [
        (Method::CONNECT, Some("h2c"), Some("GET")),
        (Method::CONNECT, Some("websocket"), None),
        (Method::CONNECT, Some("websocket"), Some("DELETE")),
        (Method::CONNECT, Some("websocket"), Some("CONNECT")),
        (Method::GET, None, Some("GET")),
        (Method::POST, None, Some("")),
    ] {
        let shown = format!("{method} {protocol:?} {named:?}");
        assert_eq!(send(&mut sender, request(method, protocol, named)).await, StatusCode::BAD_REQUEST, "{shown}");
    }
    let mut plain = Request::connect("c1:443").body(()).unwrap();
    plain.headers_mut().insert("ztka-method", "GET".parse().unwrap());
    assert_eq!(send(&mut sender, plain).await, StatusCode::BAD_REQUEST);
    // The tunnel is none the worse.
    assert_eq!(send(&mut sender, request(Method::GET, None, None)).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_fails_one_request_and_says_nothing_of_why() {
    let (mut sender, _dialer) = agent().await;
    let get = |path: &str| Request::get(format!("https://c1{path}")).body(()).unwrap();
    assert_eq!(send(&mut sender, get("/fail")).await, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(send(&mut sender, get("/works")).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn many_clients_that_leave_at_once_are_no_attack() {
    let (mut sender, _dialer) = agent().await;
    for _ in 0..5 {
        for _ in 0..2000 {
            sender = sender.ready().await.unwrap();
            let never = Request::get("https://c1/never").body(()).unwrap();
            drop(sender.send_request(never, true).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(send(&mut sender, Request::get("https://c1/works").body(()).unwrap()).await, StatusCode::OK);
}
