//! Egress against proxies that answer what a test says; a real one is in the end-to-end tests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rcgen::generate_simple_self_signed;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a proxy was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// Reads one head, answers `answer`, then echoes.
async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: &str, asked: &Asked) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    asked.lock().unwrap().push(String::from_utf8(head).unwrap());
    // In two pieces: a head may come torn.
    let (first, second) = answer.split_at(answer.len() / 2);
    for piece in [first, second] {
        let _ = io.write_all(piece.as_bytes()).await;
        let _ = io.flush().await;
        tokio::task::yield_now().await;
    }
    if answer.contains(" 200 ") {
        let (mut read, mut write) = tokio::io::split(io);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    }
}

/// A proxy that answers `answer`.
async fn proxy(answer: &'static str, tls: Option<TlsAcceptor>) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (seen, tls) = (seen.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve(socket, answer, &seen).await,
                    Some(tls) => {
                        if let Ok(io) = tls.accept(socket).await {
                            serve(io, answer, &seen).await;
                        }
                    }
                }
            });
        }
    });
    (address, asked)
}

fn by(url: &str) -> Egress {
    Egress::through(url.parse().unwrap(), NoProxy::default(), None).unwrap()
}

async fn echoes(mut stream: EgressStream, early: &str) {
    let mut got = vec![0; early.len() + 4];
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), format!("{early}ping"));
}

const GOOD: &str = "HTTP/1.1 200 Connection established\r\nVia: p\r\n\r\n";

#[tokio::test]
async fn asks_for_a_tunnel_and_has_it() {
    let (address, asked) = proxy(GOOD, None).await;
    echoes(by(&format!("http://{address}")).connect("tunnel.example.com", 443).await.unwrap(), "").await;
    echoes(by(&format!("http://me:p%40ss@{address}")).connect("2001:db8::1", 8443).await.unwrap(), "").await;
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("CONNECT tunnel.example.com:443 HTTP/1.1\r\nHost: tunnel.example.com:443\r\n"));
    assert!(!asked[0].contains("Authorization"));
    assert!(asked[1].starts_with("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n"));
    // echo -n me:p@ss | base64
    assert!(asked[1].contains("\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n"), "{}", asked[1]);
}

#[tokio::test]
async fn credentials_are_asked_for_at_each_connection() {
    let (address, asked) = proxy(GOOD, None).await;
    let count = AtomicUsize::new(0);
    let egress =
        by(&format!("http://me:first@{address}")).authorized_by(move |url| match count.fetch_add(1, Relaxed) {
            0 => None, // not to be had: those that it was made with
            number => url.with_credentials("me", &format!("word-{number}")).ok(),
        });
    for _ in 0..3 {
        echoes(egress.clone().connect("a", 1).await.unwrap(), "").await;
    }
    let line = |pair: &str| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        format!("\r\nProxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair))
    };
    let asked = asked.lock().unwrap();
    for (head, pair) in asked.iter().zip(["me:first", "me:word-1", "me:word-2"]) {
        assert!(head.contains(&line(pair)), "{head}");
    }
    assert_eq!(asked.len(), 3);
}

#[tokio::test]
async fn what_comes_together_with_the_answer_is_not_lost() {
    let (address, _) = proxy("HTTP/1.0 200 OK\r\n\r\nearly", None).await;
    echoes(by(&address.to_string()).connect("a", 1).await.unwrap(), "early").await;
}

#[tokio::test]
async fn tls_with_the_proxy_is_verified() {
    let made = generate_simple_self_signed(["localhost".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let (address, asked) = proxy(GOOD, Some(TlsAcceptor::from(Arc::new(server)))).await;
    let client = |roots: &[CertificateDer<'static>]| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        Arc::new(
            builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(store).with_no_client_auth(),
        )
    };
    let url = || format!("https://localhost:{}", address.port()).parse::<ProxyUrl>().unwrap();
    let egress = Egress::through(url(), NoProxy::default(), Some(client(&[made.cert.der().clone()]))).unwrap();
    let egress = egress.resolving(move |_, _| async move { Ok(vec![address]) });
    echoes(egress.connect("a.example.com", 443).await.unwrap(), "").await;
    assert_eq!(asked.lock().unwrap().len(), 1);
    let strange = Egress::through(url(), NoProxy::default(), Some(client(&[]))).unwrap();
    let strange = strange.resolving(move |_, _| async move { Ok(vec![address]) });
    let refused = strange.connect("a.example.com", 443).await.unwrap_err();
    assert!(matches!(&refused, EgressError::Tls { .. }) && refused.to_string().contains("CA"), "{refused}");
    assert!(matches!(Egress::through(url(), NoProxy::default(), None), Err(InvalidEgress::NoTls)));
    assert_eq!(asked.lock().unwrap().len(), 1, "nothing was said to a proxy that is not believed");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    const BASIC: &str =
        "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: basic realm=x\r\n\r\n";
    const OTHER: &str = "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Negotiate\r\n\r\n";
    for (answer, user, words) in [
        (BASIC, "", "give it a user and a password"),
        (BASIC, "me:secret@", "does not accept the credentials"),
        (OTHER, "me:secret@", "does not offer Basic"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "", "CONNECT a.example.com:443 with 403 Forbidden; have its rules allow"),
        ("HTTP/1.1 503 Unavailable\r\nX: y\r\n\r\n", "me:secret@", "503 Unavailable; it cannot reach that"),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "", "302 Found; a proxy answers CONNECT with 200"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "", "does not answer as an HTTP proxy"),
        ("HTTP/1.1 200", "", "broke off"),
        ("", "", "closed the connection without an answer"),
    ] {
        let (address, _) = proxy(answer, None).await;
        let error = by(&format!("http://{user}{address}")).connect("a.example.com", 443).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words) && text.contains(&format!("http://{address}")), "{answer:?}: {text}");
        assert!(!text.contains("secret") && !format!("{error:?}").contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_not_collected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while socket.write_all(b"X: ").await.is_ok() && socket.write_all(&[b'y'; 4096]).await.is_ok() {}
    });
    let error = by(&address.to_string()).connect("a", 1).await.unwrap_err();
    assert!(matches!(error, EgressError::NotAProxy { .. }), "{error}");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_says_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = by(&gone.to_string()).connect("a", 1).await.unwrap_err();
    assert!(matches!(&error, EgressError::Proxy { .. }) && error.to_string().contains("check its URL"), "{error}");
    let unknown = by("http://proxy.invalid:1").resolving(|_, _| async { Err(io::ErrorKind::NotFound.into()) });
    let error = unknown.connect("a", 1).await.unwrap_err();
    assert!(matches!(error, EgressError::Proxy { source, .. } if matches!(*source, EgressError::Resolve { .. })));
}

#[tokio::test]
async fn silence_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let egress = by(&listener.local_addr().unwrap().to_string());
    let asking = tokio::spawn(async move { egress.connect("a", 1).await });
    let (_socket, _) = listener.accept().await.unwrap();
    tokio::time::pause(); // from here on only timers are left
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(&error, EgressError::Silent { .. }) && error.to_string().contains("has not answered"), "{error}");
}

#[tokio::test]
async fn names_are_looked_up_for_every_connection() {
    let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let egress = Egress::direct().resolving(move |host, port| {
        assert_eq!((host.as_str(), port), ("moving.example.com", 443));
        let address = addresses[count.fetch_add(1, Relaxed)];
        async move { Ok(vec![address]) }
    });
    for address in addresses {
        let stream = egress.connect("moving.example.com", 443).await.unwrap();
        assert_eq!(stream.socket().peer_addr().unwrap(), address);
    }
    assert_eq!(asked.load(Relaxed), 2);
    // An address is no name.
    let stream = egress.connect_to(&addresses[0].to_string()).await.unwrap();
    assert_eq!((stream.socket().peer_addr().unwrap(), asked.load(Relaxed)), (addresses[0], 2));
}

#[tokio::test]
async fn an_address_that_refuses_gives_way_to_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let bad = SocketAddr::new([0, 0, 0, 0, 0, 0, 0, 1].into(), good.port());
    let egress = Egress::direct().resolving(move |_, _| async move { Ok(vec![bad, good]) });
    let stream = egress.connect("both.example.com", 443).await.unwrap();
    assert_eq!(stream.socket().peer_addr().unwrap(), good);
}

#[tokio::test]
async fn hosts_that_are_none_are_not_put_into_a_request() {
    let (address, asked) = proxy(GOOD, None).await;
    let egress = by(&address.to_string());
    for host in ["", "a b", "a\r\nX: y", "a/b", "user@a", "ü"] {
        assert!(matches!(egress.connect(host, 443).await, Err(EgressError::Host(_))), "{host:?}");
    }
    assert!(matches!(egress.connect_to("a").await, Err(EgressError::Host(_))));
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn urls_are_read_as_curl_reads_them() {
    for (text, shown) in [
        ("http://proxy.example.net:3128", "http://proxy.example.net:3128"),
        ("proxy.example.net:3128", "http://proxy.example.net:3128"),
        ("HTTP://proxy", "http://proxy:1080"),
        ("https://proxy/", "https://proxy:443"),
        ("http://[2001:db8::1]:8080/x", "http://[2001:db8::1]:8080"),
        ("http://[::1]", "http://[::1]:1080"),
        ("http://user:p@ss@proxy:1", "http://proxy:1"),
    ] {
        assert_eq!(text.parse::<ProxyUrl>().unwrap().to_string(), shown, "{text}");
    }
    for text in
        ["", "http://", "socks5://p:1", "http://p:x", "http://p:0", "http://p:65536", "http://[::1", "http://a b"]
    {
        assert!(text.parse::<ProxyUrl>().is_err(), "{text}");
    }
    for text in ["http://u:secret\n@p", "http://u:secret@p:x", "x://u:secret@p"] {
        assert!(!text.parse::<ProxyUrl>().unwrap_err().to_string().contains("secret"), "{text}");
    }
    let url: ProxyUrl = "http://u:s%65cret@p".parse().unwrap();
    assert_eq!(*url.authorization().unwrap(), "Basic dTpzZWNyZXQ=");
    assert!(!format!("{url:?}").contains("cret"));
}
