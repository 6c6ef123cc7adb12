//! One request and its answer, over whatever leads to the controller.

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use ztka_core::BoxError;

const MAX_ANSWER: usize = 1024 * 1024;
/// From the first packet to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The controller could not be reached, or did not answer as HTTP does.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ExchangeError {
    what: String,
    #[source]
    source: Option<BoxError>,
}

impl ExchangeError {
    /// Wraps the cause; `what` says what to look at.
    pub fn new(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

/// Sends a JSON body to a path of the controller.
#[async_trait]
pub trait Exchange: Send + Sync + fmt::Debug {
    /// Status and body of the answer to `POST path`. Dropping the future drops the connection.
    ///
    /// # Errors
    /// [`ExchangeError`] if there is no answer.
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError>;
}

/// Bytes both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Opens a connection to the controller: directly, or through an egress proxy.
#[async_trait]
pub trait Connect: Send + Sync + fmt::Debug {
    /// Opens it.
    ///
    /// # Errors
    /// What the system says.
    async fn connect(&self) -> io::Result<Box<dyn Connection>>;
}

/// Connects by TCP to `host:port`.
#[derive(Clone, Debug)]
pub struct TcpConnect {
    address: String,
}

impl TcpConnect {
    /// `address` is `host:port`; the host is looked up at each attempt.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }
}

#[async_trait]
impl Connect for TcpConnect {
    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// HTTP/1.1 over TLS, one connection per request. The configuration should offer `http/1.1` alone by ALPN.
#[derive(Clone, Debug)]
pub struct HttpsExchange {
    connect: Arc<dyn Connect>,
    tls: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl HttpsExchange {
    /// Connects by `connect` to the server that `tls` verifies as `server_name`.
    pub fn new(connect: Arc<dyn Connect>, tls: Arc<ClientConfig>, server_name: ServerName<'static>) -> Self {
        Self { connect, tls, server_name }
    }

    async fn exchange(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let host = self.server_name.to_str().into_owned();
        let stream = self.connect.connect().await;
        let stream = stream.map_err(|error| {
            ExchangeError::new(format!("no connection to {host}; check address, network and egress proxy"), error)
        })?;
        let tls = TlsConnector::from(self.tls.clone()).connect(self.server_name.clone(), stream).await;
        let tls = tls.map_err(|error| {
            ExchangeError::new(
                format!("the TLS handshake with {host} failed; check server name, trust and clocks"),
                error,
            )
        })?;
        let broken = |error: hyper::Error| ExchangeError::new(format!("{host} broke off before it answered"), error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(broken)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|error| ExchangeError::new("the request cannot be written", error))?;
        let answer = async move {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| ExchangeError::new("the answer ends early or is too long", error))?;
            Ok((status, body.to_bytes()))
        };
        match select(Box::pin(answer), connection).await {
            Either::Left((answer, _)) => answer,
            // The connection is done with; what it carried is with the answer.
            Either::Right((_, answer)) => answer.await,
        }
    }
}

#[async_trait]
impl Exchange for HttpsExchange {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        match timeout(PATIENCE, self.exchange(path, body)).await {
            Ok(done) => done,
            Err(elapsed) => {
                Err(ExchangeError::new("no answer within 30 seconds; check network and controller", elapsed))
            }
        }
    }
}
