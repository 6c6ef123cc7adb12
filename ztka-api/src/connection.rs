//! One request over one TLS connection.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{Endpoint, Problem};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The controller could not be reached.
    #[error("the controller at {address} cannot be reached; check the address and that it runs")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its certificate, or ours, was not accepted.
    #[error("no TLS connection to the controller at {address}; check the CA bundle and your credential")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The controller answered with an error.
    #[error(transparent)]
    Problem(Box<Problem>),
    /// The connection broke.
    #[error("the connection to the controller broke; try again")]
    Http(#[source] hyper::Error),
    /// The answer did not come in time.
    #[error("the controller did not answer within {} s; try again", .0.as_secs())]
    Timeout(Duration),
    /// The answer is none of the API's.
    #[error("the answer (HTTP status {status}) is not one of this API; check the address")]
    Unreadable {
        /// Its HTTP status.
        status: u16,
        /// Why, where it was JSON of another form.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The request could not be formed.
    #[error("the request could not be formed")]
    Request(#[source] http::Error),
    /// The query could not be formed.
    #[error("the query could not be formed")]
    Query,
    /// The answer is larger than anything the API sends.
    #[error("the answer is larger than {0} bytes; ask for less")]
    TooLarge(usize),
}

/// Sends `request` to `endpoint` and waits for the head of the answer. Nothing goes on when the future is dropped
/// before that; the connection ends with the answer's body.
pub(crate) async fn send(
    endpoint: &Endpoint,
    tls: &Arc<ClientConfig>,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let address = || format!("{}:{}", endpoint.host, endpoint.port);
    let connected = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
    let tcp = connected.map_err(|source| ClientError::Connect { address: address(), source })?;
    // Only latency suffers without it.
    let _ = tcp.set_nodelay(true);
    let connector = TlsConnector::from(tls.clone());
    let handshake = connector.connect(endpoint.server_name.clone(), tcp).await;
    let stream = handshake.map_err(|source| ClientError::Tls { address: address(), source })?;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let host = endpoint.server_name.to_str().into_owned();
    let failed = |error| explain(&address(), error);
    if is_h2 {
        let target = format!("https://{host}{}", request.uri());
        *request.uri_mut() = target.parse().map_err(|error| ClientError::Request(http::Error::from(error)))?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.map_err(failed)?;
        let connection = tokio::spawn(connection);
        match sender.send_request(request).await {
            Ok(response) => Ok(response),
            Err(error) => Err(failed(cause(connection, error).await)),
        }
    } else {
        let host = host.parse().map_err(|error| ClientError::Request(http::Error::from(error)))?;
        request.headers_mut().insert(header::HOST, host);
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = handshake.map_err(failed)?;
        let connection = tokio::spawn(connection);
        match sender.send_request(request).await {
            Ok(response) => Ok(response),
            Err(error) => Err(failed(cause(connection, error).await)),
        }
    }
}

/// Why the connection ended says more than that the request was cancelled by its end.
async fn cause(connection: JoinHandle<hyper::Result<()>>, error: hyper::Error) -> hyper::Error {
    match connection.await {
        Ok(Err(cause)) => cause,
        Ok(Ok(())) | Err(_) => error,
    }
}

/// A refused client certificate shows only here: in TLS 1.3 the client is done before the server has looked at it.
fn explain(address: &str, error: hyper::Error) -> ClientError {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && let Some(tls) = io.get_ref().and_then(|tls| tls.downcast_ref::<rustls::Error>())
        {
            let source = io::Error::new(io.kind(), tls.clone());
            return ClientError::Tls { address: address.into(), source };
        }
        source = inner.source();
    }
    ClientError::Http(error)
}

/// The result of `call`, or an error after `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(limit, call).await.unwrap_or(Err(ClientError::Timeout(limit)))
}
