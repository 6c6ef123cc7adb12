//! Bytes over TLS, for what no HTTP library would send and with any server name and certificate.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use ztka_test_cluster::Kubectl;

/// An answer comes within this time, and the connection is closed after it.
const BOUND: Duration = Duration::from_secs(30);

/// A client of the users' port that sends what it is told to.
#[derive(Clone, Debug)]
pub struct Raw {
    address: String,
    server_name: String,
    sni: bool,
    /// Certificate chain and key, PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    roots: RootCertStore,
}

/// The head and body of an answer.
#[derive(Debug)]
pub struct Said {
    /// The status code.
    pub code: u16,
    /// Everything, head and body.
    pub text: String,
}

impl Raw {
    /// The client that a kubectl is.
    pub async fn of(kubectl: &Kubectl) -> Result<Self> {
        let text = kubectl.ok(["config", "view", "--raw", "--minify", "-o", "json"]).await?;
        let config: Value = serde_json::from_str(&text)?;
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).context(pointer.to_owned());
        let pem = |pointer: &str| anyhow::Ok(BASE64_STANDARD.decode(text(pointer)?)?);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let server = text("/clusters/0/cluster/server")?.trim_start_matches("https://");
        Ok(Self {
            address: server.split('/').next().unwrap_or_default().to_owned(),
            server_name: text("/clusters/0/cluster/tls-server-name")?.to_owned(),
            sni: true,
            identity: Some((pem("/users/0/user/client-certificate-data")?, pem("/users/0/user/client-key-data")?)),
            roots,
        })
    }

    /// The server name that it asks for and verifies.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The same with another server name.
    #[must_use]
    pub fn named(&self, server_name: impl Into<String>) -> Self {
        Self { server_name: server_name.into(), ..self.clone() }
    }

    /// The same without telling the server its name, as when it is addressed by IP; the name is verified all the same.
    #[must_use]
    pub fn without_sni(&self) -> Self {
        Self { sni: false, ..self.clone() }
    }

    /// The same with another certificate chain and key (PEM).
    #[must_use]
    pub fn presenting(&self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { identity: Some((chain.into(), key.into())), ..self.clone() }
    }

    /// The same without a certificate.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { identity: None, ..self.clone() }
    }

    /// Connects for HTTP/1.1.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        self.connect_for(b"http/1.1").await
    }

    /// Connects for HTTP/2.
    pub async fn connect_h2(&self) -> Result<TlsStream<TcpStream>> {
        self.connect_for(b"h2").await
    }

    async fn connect_for(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.enable_sni = self.sni;
        let tcp = TcpStream::connect(&self.address).await?;
        let name = ServerName::try_from(self.server_name.clone())?;
        Ok(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
    }

    /// Sends bytes on a new connection and reads until the other side closes it.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> Result<Said> {
        let exchange = async {
            let mut io = self.connect().await?;
            io.write_all(bytes.as_ref()).await?;
            let mut answer = Vec::new();
            match io.read_to_end(&mut answer).await {
                // A close without close_notify, after the answer.
                Err(_) if !answer.is_empty() => {}
                read => drop(read?),
            }
            let text = String::from_utf8_lossy(&answer).into_owned();
            let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
            anyhow::Ok(Said { code: code.with_context(|| format!("no answer but {text:?}"))?, text })
        };
        timeout(BOUND, exchange).await.context("the connection was not closed after the answer")?
    }

    /// A request with these further header lines, each ending with CRLF, as the only one of its connection.
    pub async fn get(&self, target: &str, lines: &str) -> Result<Said> {
        let host = &self.server_name;
        let close = if lines.to_ascii_lowercase().contains("connection:") { "" } else { "Connection: close\r\n" };
        self.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{close}{lines}\r\n")).await
    }

    /// A GET by HTTP/2 with this authority and these headers, as the only one of its connection.
    pub async fn get_h2(&self, authority: &str, target: &str, headers: &[(&str, &str)]) -> Result<Said> {
        let exchange = async {
            let io = TokioIo::new(self.connect_for(b"h2").await?);
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            let connection = tokio::spawn(connection);
            let mut request = Request::get(format!("https://{authority}{target}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (head, body) = sender.send_request(request.body(Empty::<Bytes>::new())?).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            connection.abort();
            let text = format!("{:?}\n{}", head.headers, String::from_utf8_lossy(&body));
            anyhow::Ok(Said { code: head.status.as_u16(), text })
        };
        timeout(BOUND, exchange).await.context("no answer")?
    }
}
