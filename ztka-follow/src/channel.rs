//! One HTTP/2 connection to the controller, made when it is needed and again when it broke.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{sync::Mutex, time::timeout};
use tokio_rustls::TlsConnector;
use ztka_core::BoxError;
use ztka_tunnel::Egress;

/// For TCP, TLS and HTTP/2 together.
const CONNECT: Duration = Duration::from_secs(10);
/// A dead controller is noticed after the sum of the two.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_WITHIN: Duration = Duration::from_secs(8);

/// The controller could not be reached, or broke off.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the controller at {address}")]
pub struct ChannelError {
    address: String,
    #[source]
    source: BoxError,
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// Sends requests to one controller address. Clones share the connection.
#[derive(Clone)]
pub struct Channel(Arc<Inner>);

struct Inner {
    egress: Egress,
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    sender: Mutex<Option<Sender>>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("address", &self.0.address).field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Channel {
    /// To `address` (`host:port`), which has to show a certificate for `name`; `tls` must offer `h2` alone.
    pub fn new(address: impl Into<String>, name: ServerName<'static>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self::by(Egress::direct(), address, name, tls)
    }

    /// The same by another way out.
    pub fn by(
        egress: Egress,
        address: impl Into<String>,
        name: ServerName<'static>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        let (address, tls, sender) = (address.into(), TlsConnector::from(tls), Mutex::default());
        Self(Arc::new(Inner { egress, address, name, tls, sender }))
    }

    /// Where it goes.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Sends one request; scheme and authority are filled in. Dropping the future or the body resets the stream.
    ///
    /// # Errors
    /// [`ChannelError`]; the next call connects anew.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ChannelError> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let uri = Uri::builder().scheme("https").authority(self.0.name.to_str().as_ref()).path_and_query(target);
        *request.uri_mut() = uri.build().map_err(|error| self.error(error))?;
        let mut sender = self.sender().await?;
        match sender.send_request(request).await {
            Ok(response) => Ok(response),
            Err(error) => {
                self.reconnect().await;
                Err(self.error(error))
            }
        }
    }

    /// Lets the next request make a new connection, as after a renewal of the certificate.
    pub async fn reconnect(&self) {
        *self.0.sender.lock().await = None;
    }

    fn error(&self, source: impl Into<BoxError>) -> ChannelError {
        ChannelError { address: self.0.address.clone(), source: source.into() }
    }

    async fn sender(&self) -> Result<Sender, ChannelError> {
        let mut held = self.0.sender.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let connect = async {
            let tcp = self.0.egress.connect_to(&self.0.address).await?;
            let tls = self.0.tls.connect(self.0.name.clone(), tcp).await?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new());
            builder.keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_WITHIN);
            Ok::<_, BoxError>(builder.handshake(TokioIo::new(tls)).await?)
        };
        let connected = timeout(CONNECT, connect).await.unwrap_or_else(|late| Err(late.into()));
        let (sender, connection) = connected.map_err(|error| self.error(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the controller ended");
            }
        });
        *held = Some(sender.clone());
        Ok(sender)
    }
}
