//! An agent that stops says so to the users of its upgraded streams, in their own protocol.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use http::{Method, Request, Response};
use tokio::time::timeout;
use ztka_core::{Body, Farewell, Reply, Upgrade};

use crate::pair::{Agent, LONG, Net, ask, until};

/// An upstream that says `said` and then breaks with `error`; what it is sent is dropped.
#[derive(Debug)]
struct Breaks {
    said: &'static [u8],
    error: Option<io::Error>,
}

impl AsyncRead for Breaks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let taken = self.said.len().min(buf.len());
        buf[..taken].copy_from_slice(&self.said[..taken]);
        self.said = &self.said[taken..];
        match self.error.take_if(|_| taken == 0) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(taken)),
        }
    }
}

impl AsyncWrite for Breaks {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What the user of `upgrade` is told when the upstream has said `said` and breaks.
async fn told(upgrade: Upgrade, said: &'static [u8], farewell: bool) -> io::Result<Vec<u8>> {
    let net = Net::new(1);
    let agent = Agent::new(move |_: Request<Body>| async move {
        let error = match farewell {
            true => io::Error::new(io::ErrorKind::ConnectionAborted, Farewell::of("the agent")),
            false => io::ErrorKind::ConnectionReset.into(),
        };
        let head = Response::builder().status(101).body(()).unwrap();
        Reply::Upgraded { head, io: Box::pin(Breaks { said, error: Some(error) }) }
    });
    let _dialer = net.connected(&agent).await;
    let reply = net.ask(ask(Method::GET, "/api/v1/namespaces/n/pods/p/exec").upgrade(upgrade).permitted()).await;
    let Reply::Upgraded { mut io, .. } = reply else { panic!("{reply:?}") };
    let mut all = Vec::new();
    timeout(LONG, io.read_to_end(&mut all)).await.expect("an end")?;
    io.close().await?;
    drop(io);
    until("its place is given back", || net.proxies[0].streams() == 0).await;
    Ok(all)
}

#[tokio::test(start_paused = true)]
async fn who_is_in_a_session_is_told_why_it_ends() {
    let all = told(Upgrade::WebSocket, &[0x82, 2, 1, b'x'], true).await.unwrap();
    assert_eq!(&all[..4], &[0x82, 2, 1, b'x']);
    assert_eq!((all[4], &all[6..8]), (0x88, &[3, 0xe9][..]), "a close frame, 1001");
    assert_eq!(&all[8..], b"the agent stops; connect again");
    let all = told(Upgrade::Spdy31, &[], true).await.unwrap();
    assert_eq!(&all[..4], &[0x80, 3, 0, 7], "GOAWAY");
}

#[tokio::test(start_paused = true)]
async fn what_breaks_otherwise_is_a_break() {
    assert!(told(Upgrade::WebSocket, &[0x82, 2, 1, b'x'], false).await.is_err());
    // In the middle of a frame there is no place for words.
    assert!(told(Upgrade::WebSocket, &[0x82, 9, 1, b'x'], true).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_its_side_is_not_waited_for() {
    let net = Net::new(1);
    let agent = Agent::new(|_: Request<Body>| async {
        let error = Some(io::Error::new(io::ErrorKind::ConnectionAborted, Farewell::of("the agent")));
        let head = Response::builder().status(101).body(()).unwrap();
        Reply::Upgraded { head, io: Box::pin(Breaks { said: &[], error }) }
    });
    let _dialer = net.connected(&agent).await;
    let exec = ask(Method::GET, "/api/v1/namespaces/n/pods/p/exec").upgrade(Upgrade::WebSocket).permitted();
    let reply = net.ask(exec).await;
    let Reply::Upgraded { mut io, .. } = reply else { panic!("{reply:?}") };
    let mut all = Vec::new();
    timeout(LONG, io.read_to_end(&mut all)).await.expect("an end").unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let written = io.write(&[0; 1000]).await;
    assert!(written.is_err(), "{written:?}");
}
