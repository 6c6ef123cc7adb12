//! A wire to a server, which can be spoilt.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Bytes after which a wire is cut: behind a handshake, in the middle of a batch.
const CUT_AFTER: usize = 2500;

/// What happens to connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// They are closed at once.
    Refuses,
    /// They are taken, and nobody answers.
    Hangs,
    /// They are cut in the middle of what is sent.
    CutsOff,
}

/// A port that leads to a server, or into trouble. What changes ends the connections that are there.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    trouble: watch::Sender<Option<Trouble>>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// Leads to `server`.
    ///
    /// # Errors
    /// There is no port to listen on.
    pub async fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let trouble = watch::Sender::new(None);
        let troubles = trouble.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut changes = troubles.subscribe();
                let trouble = *changes.borrow_and_update();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(client, server, trouble) => {}
                        _ = changes.changed() => {}
                    }
                });
            }
        });
        Ok(Self { port, trouble, accepting })
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes trouble, or ends it.
    pub fn spoil(&self, trouble: Option<Trouble>) {
        self.trouble.send_replace(trouble);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: SocketAddr, trouble: Option<Trouble>) -> io::Result<()> {
    match trouble {
        Some(Trouble::Refuses) => return Ok(()),
        Some(Trouble::Hangs) => {
            let _held = client;
            return std::future::pending().await;
        }
        Some(Trouble::CutsOff) | None => {}
    }
    client.set_nodelay(true)?;
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        if trouble.is_some() {
            some(&mut from_client, &mut to_server).await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(drop)
}

/// The first bytes alone.
async fn some(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut bytes = vec![0; CUT_AFTER];
    let mut left = CUT_AFTER;
    while left > 0 {
        let read = from.read(&mut bytes[..left]).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..read]).await?;
        left -= read;
    }
    Ok(())
}
