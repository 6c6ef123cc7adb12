//! A bare HTTP client with the credential of a kubeconfig, for what kubectl is too polite or too slow to do.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::TlsConnector;
use ztka_test_cluster::Kubectl;

/// Where a kubeconfig leads, and with what credential. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    server_name: String,
    config: Arc<ClientConfig>,
}

/// One connection; dropping it cuts it off without a word.
pub struct Connection {
    sender: Sender,
    server_name: String,
    task: JoinHandle<()>,
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Client {
    /// The client that a kubectl is.
    pub async fn of(kubectl: &Kubectl) -> Result<Self> {
        let text = kubectl.ok(["config", "view", "--raw", "--flatten", "--minify", "-o", "json"]).await?;
        let config: Value = serde_json::from_str(&text)?;
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).context(pointer.to_owned());
        let pem = |pointer: &str| anyhow::Ok(BASE64_STANDARD.decode(text(pointer)?)?);
        let mut roots = RootCertStore::empty();
        let ca = pem("/clusters/0/cluster/certificate-authority-data")?;
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate?)?;
        }
        let chain = pem("/users/0/user/client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let server = text("/clusters/0/cluster/server")?.trim_start_matches("https://");
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let server_name = text("/clusters/0/cluster/tls-server-name").unwrap_or(host).to_owned();
        Ok(Self { address: server.parse()?, server_name, config: Arc::new(config) })
    }

    /// The client that the command line is with this credential file.
    pub fn of_credential(file: &Path) -> Result<Self> {
        let file: toml::Table = toml::from_str(&fs::read_to_string(file)?)?;
        let text = |key: &str| file.get(key).and_then(toml::Value::as_str).with_context(|| key.to_owned());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text("ca_bundle")?.as_bytes()) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(text("chain")?.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(text("key")?.as_bytes())?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self {
            address: text("address")?.parse()?,
            server_name: text("server_name")?.to_owned(),
            config: Arc::new(config),
        })
    }

    /// A client of another server, without a credential.
    pub fn at(address: &str, server_name: &str, ca: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address: address.parse()?, server_name: server_name.to_owned(), config: Arc::new(config) })
    }

    /// Connects, by HTTP/1.1 or HTTP/2.
    pub async fn connect(&self, version: Version) -> Result<Connection> {
        let mut config = ClientConfig::clone(&self.config);
        let is_h2 = version == Version::HTTP_2;
        config.alpn_protocols = vec![if is_h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.server_name.clone())?;
        let io = TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?);
        let server_name = self.server_name.clone();
        Ok(if is_h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            let task = tokio::spawn(async move { drop(connection.await) });
            Connection { sender: Sender::H2(sender), server_name, task }
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            let task = tokio::spawn(async move { drop(connection.await) });
            Connection { sender: Sender::H1(sender), server_name, task }
        })
    }
}

impl Connection {
    /// Sends a request and returns when its answer begins.
    pub async fn begin(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Response<Incoming>> {
        self.begin_with(method, path, &[], body).await
    }

    /// The same with these headers, in place of the usual ones of their names.
    pub async fn begin_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>> {
        let (mut head, ()) = Request::builder().method(&method).body(())?.into_parts();
        head.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if method != Method::GET {
            let merge = method == Method::PATCH;
            let kind = if merge { "application/merge-patch+json" } else { "application/json" };
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        for (name, value) in headers {
            head.headers.insert(*name, HeaderValue::try_from(*value)?);
        }
        let body = Full::new(body.into());
        Ok(match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await?;
                head.uri = path.parse()?;
                head.headers.insert(header::HOST, HeaderValue::try_from(&self.server_name)?);
                sender.send_request(Request::from_parts(head, body)).await?
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                head.uri = format!("https://{}{path}", self.server_name).parse()?;
                sender.send_request(Request::from_parts(head, body)).await?
            }
        })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.send_with(method, path, &[], body).await
    }

    /// The same with these headers, in place of the usual ones of their names.
    pub async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let (head, body) = self.begin_with(method, path, headers, body).await?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
    }

    /// Reads something that must be there.
    pub async fn read(&mut self, path: &str) -> Result<Bytes> {
        let answer = self.send(Method::GET, path, "").await?;
        ensure!(answer.status == StatusCode::OK, "GET {path}: {} {:?}", answer.status, answer.body);
        Ok(answer.body)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
