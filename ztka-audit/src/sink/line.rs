//! Requests to an HTTP server, over one connection that is kept.

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
};

use super::{SinkError, TlsFiles, tls};

/// What is read of an answer.
const LARGEST_ANSWER: usize = 64 * 1024;

/// A server, and a connection to it that is kept between requests.
#[derive(Debug)]
pub(super) struct Line {
    host: String,
    port: u16,
    tls: Option<TlsFiles>,
    idle: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Line {
    /// To the host of an `https` URL, or of an `http` one with a loopback address; none to any other.
    pub(super) fn to(uri: &Uri, tls: TlsFiles) -> Option<Self> {
        let host = uri.host()?.to_owned();
        let is_plain = uri.scheme_str() == Some("http");
        let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        if has_user || !(uri.scheme_str() == Some("https") || is_plain && tls::is_loopback(&host)) {
            return None;
        }
        let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        Some(Self { host, port, tls: (!is_plain).then_some(tls), idle: Mutex::default() })
    }

    /// Sends a request whose target is a path, and reads the answer.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, SinkError> {
        let kept = self.idle.lock().await.take();
        let mut sender = match kept.filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let answer = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(SinkError::failed)?.to_bytes();
        *self.idle.lock().await = Some(sender);
        Ok(Response::from_parts(head, answer))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, SinkError> {
        match &self.tls {
            Some(tls) => handshake(tls.connect(&self.host, self.port).await?).await,
            None => handshake(tls::connect(&self.host, self.port).await?).await,
        }
    }
}

async fn handshake<I>(io: I) -> Result<SendRequest<Full<Bytes>>, SinkError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(io)).await?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}
