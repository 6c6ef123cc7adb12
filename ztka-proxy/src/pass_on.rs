//! The controller's names share port 443 with ours: their connections are passed on as they came, TLS untouched.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use crate::{Arrival, Buffered, proxy_protocol};

const CONNECT: Duration = Duration::from_secs(5);
const PIECE: usize = 32 * 1024;

/// A connection that was passed on within the process. Its ClientHello can be read as it came, from `stream` or from
/// this; it keeps its place among the proxy's connections until this is dropped.
#[derive(Debug)]
pub struct Passed {
    /// The connection.
    pub stream: Buffered<TcpStream>,
    /// How it arrived.
    pub arrival: Arrival,
}

impl AsyncRead for Passed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Passed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where connections for the controller go.
#[derive(Clone, Debug)]
pub enum PassOn {
    /// To a controller at one of these addresses (the first that answers), with a PROXY protocol header of version 2.
    Tcp(Vec<SocketAddr>),
    /// To a controller in the same process; at a full channel connections wait, as long as their client does.
    Channel(mpsc::Sender<Passed>),
    /// Nowhere: this proxy has none.
    Nowhere,
}

impl PassOn {
    /// Passes one connection on, to its end where that is ours to wait for.
    pub(crate) async fn pass(&self, mut stream: Buffered<TcpStream>, arrival: Arrival) -> io::Result<()> {
        match self {
            Self::Channel(channel) => {
                channel.send(Passed { stream, arrival }).await.map_err(|_| io::ErrorKind::ConnectionRefused.into())
            }
            Self::Nowhere => crate::hello::refuse_name(&mut stream).await,
            Self::Tcp(addresses) => {
                let mut controller = connect(addresses).await?;
                let local = stream.get_ref().local_addr()?;
                controller.write_all(&proxy_protocol::header(arrival.client, local)).await?;
                copy_bidirectional_with_sizes(&mut stream, &mut controller, PIECE, PIECE).await.map(drop)
            }
        }
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotConnected, "no address of a controller is configured");
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(late) => failed = late.into(),
        }
    }
    tracing::warn!(error = %failed, "no controller can be reached");
    Err(failed)
}
