//! TLS 1.3 to a proxy, over whatever connection leads out.

use std::{fmt, sync::Arc};

use rustls::{ClientConfig, client::Resumption};
use rustls_pki_types::CertificateDer;
use tokio_rustls::{TlsConnector, client::TlsStream};
use ztka_core::{BoxError, ProxyId, Verified};

use super::connect::{Connect, ProxyAddress};
use crate::{ALPN, ConnectError, Egress, EgressStream, ReadAhead, Settings, give_up_unacknowledged};

/// Says which proxy a certificate chain (leaf first) belongs to. TLS has verified it for the server name by then.
pub type PeerCheck = dyn Fn(&[CertificateDer<'_>]) -> Result<Verified<ProxyId>, BoxError> + Send + Sync;

/// Connects by an [`Egress`] and TLS 1.3, with ALPN `h2` and without resumption: each tunnel shows the newest certificate.
#[derive(Clone)]
pub struct Tls {
    egress: Egress,
    connector: TlsConnector,
    check: Arc<PeerCheck>,
}

impl Tls {
    /// Connects as `config` says (trusted roots, client certificate) and believes that a peer is the proxy that `check`
    /// says it is. A client certificate resolver in `config` is asked anew for each tunnel.
    pub fn new<F>(config: Arc<ClientConfig>, check: F) -> Self
    where
        F: Fn(&[CertificateDer<'_>]) -> Result<Verified<ProxyId>, BoxError> + Send + Sync + 'static,
    {
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = vec![ALPN.into()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Self { egress: Egress::direct(), connector: Arc::new(config).into(), check: Arc::new(check) }
    }

    /// The same by another way out.
    #[must_use]
    pub fn by(self, egress: Egress) -> Self {
        Self { egress, ..self }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Connect for Tls {
    type Io = TlsStream<ReadAhead<EgressStream>>;

    async fn connect(&self, proxy: &ProxyAddress) -> Result<(Self::Io, Verified<ProxyId>), ConnectError> {
        let socket = self.egress.connect(proxy.host(), proxy.port()).await?;
        if let Err(error) = give_up_unacknowledged(socket.socket(), Settings::default().deaf_after) {
            tracing::debug!(%error, "the system does not bound how long bytes may go unacknowledged");
        }
        let handshake = self.connector.connect(proxy.server_name().clone(), ReadAhead::new(socket));
        let tls = |source| ConnectError::Tls { address: proxy.to_string(), source };
        let io = handshake.await.map_err(tls)?;

        let not_ours = |source: BoxError| ConnectError::Peer { address: proxy.to_string(), source };
        let (_, session) = io.get_ref();
        if session.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
            return Err(not_ours("it does not speak TLS 1.3".into()));
        }
        if session.alpn_protocol() != Some(ALPN) {
            return Err(not_ours("it does not offer the ALPN protocol h2".into()));
        }
        let chain = session.peer_certificates().unwrap_or_default();
        let id = (self.check)(chain).map_err(not_ours)?;
        Ok((io, id))
    }
}
