//! Streams that have changed protocol: both directions, half-closed, reset, and refused.

use std::{io, time::Duration};

use crate::pair::{Agent, LONG, Net, ask, collected, text, until};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use http::{Method, Request, Response, StatusCode};
use tokio::{io::duplex, time::timeout};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_core::{Body, Io, Reply, Status, Upgrade};

const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=cat";

fn switched(io: Io, upgrade: &'static str) -> Reply {
    let head = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", upgrade);
    Reply::Upgraded { head: head.header("x-stream-protocol-version", "v4.channel.k8s.io").body(()).unwrap(), io }
}

/// An upstream that is `far`; what the agent splices is the other end.
fn upstream<F, R>(far: F) -> Io
where
    F: FnOnce(tokio_util::compat::Compat<tokio::io::DuplexStream>) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let (near, far_end) = duplex(64 << 10);
    tokio::spawn(far(far_end.compat()));
    Box::pin(near.compat())
}

fn exec(upgrade: Upgrade, method: Method) -> ztka_core::Access<ztka_core::Permitted, Body> {
    // kubectl's POST says that its body is empty.
    ask(method, EXEC).header("content-length", "0").upgrade(upgrade).permitted()
}

async fn upgraded(net: &Net, upgrade: Upgrade, method: Method) -> (Response<()>, Io) {
    match net.ask(exec(upgrade, method)).await {
        Reply::Upgraded { head, io } => (head, io),
        Reply::Response(response) => panic!("{response:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn echoes_both_ways_and_half_closes_in_each_direction() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        assert_eq!(request.extensions().get::<Upgrade>(), Some(&Upgrade::Spdy31));
        assert!(!request.headers().contains_key("ztka-method"));
        let io = upstream(|mut far| async move {
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap(); // until the user's half-close
            far.write_all(&received).await.unwrap(); // while our half is still open
            far.write_all(b" and exit code").await.unwrap();
            far.close().await.unwrap();
        });
        switched(io, "SPDY/3.1")
    });
    let _dialer = net.connected(&agent).await;
    for method in [Method::POST, Method::GET] {
        let (head, mut io) = upgraded(&net, Upgrade::Spdy31, method.clone()).await;
        assert_eq!(head.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(head.headers()["upgrade"], "SPDY/3.1");
        assert_eq!(head.headers()["connection"], "Upgrade");
        assert_eq!(head.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
        let sent = vec![7; 3 << 20];
        io.write_all(&sent).await.unwrap();
        io.close().await.unwrap();
        assert_eq!(io.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut received = Vec::new();
        timeout(LONG, io.read_to_end(&mut received)).await.expect("ends").unwrap();
        assert_eq!(received.len(), sent.len() + b" and exit code".len());
        assert!(agent.seen().last().unwrap().starts_with(method.as_str()));
        drop(io);
    }
    until("places given back", || net.proxies[0].streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn the_far_side_may_end_first() {
    let net = Net::new(1);
    let agent = Agent::new(|_| async {
        let io = upstream(|mut far| async move {
            far.write_all(b"banner").await.unwrap();
            far.close().await.unwrap();
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"still heard");
        });
        switched(io, "websocket")
    });
    let _dialer = net.connected(&agent).await;
    let (head, mut io) = upgraded(&net, Upgrade::WebSocket, Method::GET).await;
    assert_eq!(head.headers()["upgrade"], "websocket");
    let mut banner = Vec::new();
    io.read_to_end(&mut banner).await.unwrap();
    assert_eq!(banner, b"banner");
    io.write_all(b"still heard").await.unwrap();
    io.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_break_on_either_side_is_an_error_on_the_other() {
    let net = Net::new(1);
    let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let agent = Agent::new(move |_| {
        let sender = sender.clone();
        async move {
            let io = upstream(|mut far| async move {
                let mut order = [0; 4];
                far.read_exact(&mut order).await.unwrap();
                if &order == b"wait" {
                    let gone = far.read(&mut order).await;
                    sender.send(gone.is_err() || gone.is_ok_and(|read| read == 0)).unwrap();
                }
            });
            let io: Io = Box::pin(Breaks(io));
            switched(io, "SPDY/3.1")
        }
    });
    let _dialer = net.connected(&agent).await;

    // The apiserver's connection breaks: not an orderly end for the user.
    let (_, mut io) = upgraded(&net, Upgrade::Spdy31, Method::POST).await;
    io.write_all(b"drop").await.unwrap();
    let read = timeout(LONG, io.read(&mut [0; 1])).await.expect("noticed");
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    // The user's connection breaks: the apiserver's is let go.
    let (_, mut io) = upgraded(&net, Upgrade::Spdy31, Method::POST).await;
    io.write_all(b"wait").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(io);
    assert!(timeout(LONG, ends.recv()).await.expect("let go").unwrap());
}

/// Turns the end of the stream into an error, as a connection that is reset.
#[derive(Debug)]
struct Breaks(Io);

impl futures_util::AsyncRead for Breaks {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut [u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.0.as_mut().poll_read(cx, buf).map(|read| match read {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            read => read,
        })
    }
}

impl futures_util::AsyncWrite for Breaks {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_close(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.0.as_mut().poll_close(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_reader_who_does_not_read() {
    let net = Net::with(1, ztka_tunnel::Settings { stream_window: 1 << 20, ..Default::default() });
    let agent = Agent::new(|_| async {
        let io = upstream(|far| async move {
            std::future::pending::<()>().await;
            drop(far);
        });
        switched(io, "SPDY/3.1")
    });
    let _dialer = net.connected(&agent).await;
    let (_, mut io) = upgraded(&net, Upgrade::Spdy31, Method::POST).await;
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), io.write(&[7; 64 << 10])).await {
        taken += written.unwrap();
        assert!(taken < 4 << 20, "{taken} bytes are nobody's");
    }
    assert!(taken >= 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn only_a_101_is_an_upgrade() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        match request.method() {
            &Method::GET => Status::new(StatusCode::FORBIDDEN, "exec is not allowed").into(),
            _ => text("an answer that the user must never take for a connection"),
        }
    });
    let _dialer = net.connected(&agent).await;
    let refused = collected(net.ask(exec(Upgrade::WebSocket, Method::GET)).await).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(String::from_utf8_lossy(refused.body()).contains("exec is not allowed"));
    let ignored = collected(net.ask(exec(Upgrade::Spdy31, Method::POST)).await).await;
    assert_eq!(ignored.status(), StatusCode::BAD_GATEWAY);
    until("places given back", || net.proxies[0].streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_nobody_asked_for_is_refused() {
    let net = Net::new(1);
    let agent = Agent::new(|_| async { switched(upstream(|_| async {}), "SPDY/3.1") });
    let _dialer = net.connected(&agent).await;
    let answer = collected(net.ask(crate::pair::get("/api/v1/namespaces/default/pods/web")).await).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
}
