//! TLS of a sink's connections, from files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
#[cfg(any(feature = "http-client", feature = "syslog"))]
use tokio::net::TcpStream;
#[cfg(any(feature = "http-client", feature = "syslog"))]
use tokio_rustls::client::TlsStream;

/// Whom a sink believes, and who it is. Its files are read for each connection: one that is replaced counts from the next
/// on.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    provider: Arc<CryptoProvider>,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// A file for TLS that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFilesError {
    /// It is not there, not readable, or not PEM.
    #[error("{path} cannot be read as PEM; check that it is there, its owner and its mode")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// There is no CA in it.
    #[error("{0} holds no CA certificate")]
    NoCa(PathBuf),
    /// The system's certificate authorities cannot be read.
    #[error("the system has no certificate authorities; name a file with those of the sink")]
    NoSystemCas,
    /// Something in the files is not what it should be.
    #[error("the certificates cannot be used; see that the key belongs to its certificate")]
    Tls(#[from] rustls::Error),
}

impl TlsFiles {
    /// The system's certificate authorities are believed, and no certificate is shown.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, ca: None, identity: None }
    }

    /// The authorities in this file (PEM) are believed, and no others.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// This certificate (with its chain) is shown to whoever asks for one; both are PEM.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn config(&self) -> Result<ClientConfig, TlsFilesError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(file) => {
                for certificate in certificates(file)? {
                    roots.add(certificate)?;
                }
                if roots.is_empty() {
                    return Err(TlsFilesError::NoCa(file.clone()));
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(TlsFilesError::NoSystemCas);
                }
            }
        }
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key)
                    .map_err(|source| TlsFilesError::File { path: key.clone(), source })?;
                config.with_client_auth_cert(certificates(certificate)?, key_der)?
            }
        })
    }

    /// Connects to `host` at `port` and checks that it is `host`.
    #[cfg(any(feature = "http-client", feature = "syslog"))]
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TlsStream<TcpStream>, super::SinkError> {
        let name = rustls_pki_types::ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let files = self.clone();
        let config = tokio::task::spawn_blocking(move || files.config()).await??;
        let tcp = connect(host, port).await?;
        Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
    }
}

/// A TCP connection that sends at once.
#[cfg(any(feature = "http-client", feature = "syslog"))]
pub(super) async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Whether a host is an address of this machine itself, where nobody listens in.
#[cfg(feature = "http-client")]
pub(super) fn is_loopback(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let failed = |source| TlsFilesError::File { path: file.to_owned(), source };
    CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}
