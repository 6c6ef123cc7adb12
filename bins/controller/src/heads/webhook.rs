//! A URL to which every head is sent, at least once each: `POST`, JSON, one head to a request.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use ztka_controller::Controller;

use super::{Published, news};

/// A place that does not answer for so long is tried again later.
const ANSWER: Duration = Duration::from_secs(10);

/// The webhook, and what it has confirmed.
#[derive(Debug)]
pub(crate) struct Webhook {
    uri: Uri,
    host: String,
    tls: Option<Arc<ClientConfig>>,
    /// Where what it has confirmed is kept.
    state: PathBuf,
    published: Published,
}

impl Webhook {
    /// Opens `url`: `https`, or `http` to this machine itself. `ca` has the certificates that its own leads to, in the place
    /// of the system's. What was confirmed before is in `state`.
    pub(crate) fn open(url: &str, ca: Option<&Path>, state: PathBuf) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        let host = uri.host().context("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let is_here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let tls = match uri.scheme_str() {
            Some("https") => Some(Arc::new(tls(ca)?)),
            Some("http") if is_here => None,
            _ => bail!("{url:?} has to begin with https://: heads are not secret, but who takes them has to be known"),
        };
        let published = match std::fs::read(&state) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!("{} cannot be used; remove it, and all heads are sent again", state.display())
            })?,
            Err(_) => Published::new(),
        };
        Ok(Self { uri, host, tls, state, published })
    }

    /// Sends the heads that were not confirmed yet; tells how many are now.
    pub(crate) async fn publish(&mut self, controller: &Controller) -> anyhow::Result<usize> {
        let news = news(controller, &self.published).await?;
        let count = news.len();
        for (org, size, head) in news {
            let sent = self.send(serde_json::to_vec(&head)?.into());
            timeout(ANSWER, sent).await.with_context(|| format!("{} does not answer", self.host))??;
            self.published.insert(org, size);
            let text = serde_json::to_vec(&self.published)?;
            let failed = || format!("{} cannot be written", self.state.display());
            ztka_pki::file::write_private(&self.state, &text).with_context(failed)?;
        }
        Ok(count)
    }

    async fn send(&self, body: Bytes) -> anyhow::Result<()> {
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let failed = || format!("{}:{port} cannot be reached", self.host);
        let tcp = TcpStream::connect((self.host.as_str(), port)).await.with_context(failed)?;
        let Some(tls) = &self.tls else { return self.request(tcp, body).await };
        let name = ServerName::try_from(self.host.clone()).context("the URL's host is not a name")?;
        let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await.with_context(failed)?;
        self.request(stream, body).await
    }

    async fn request(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Bytes,
    ) -> anyhow::Result<()> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = async move {
            // Whatever else it says is not read.
            sender.send_request(request).await.map(|answer| answer.status())
        };
        let (answer, _) = tokio::join!(answer, connection);
        let status = answer.context("the webhook broke the connection")?;
        ensure!(status.is_success(), "the webhook has answered {status}");
        Ok(())
    }
}

fn tls(ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let read =
                CertificateDer::pem_file_iter(path).with_context(|| format!("{} cannot be read", path.display()))?;
            for certificate in read {
                roots.add(certificate?)?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    ensure!(!roots.is_empty(), "there are no root certificates to believe the webhook by");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
