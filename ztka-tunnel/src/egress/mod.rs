//! One TCP connection out of a guarded network: directly, or through an HTTP CONNECT proxy.
//!
//! ```text
//! host:port ── NoProxy says so ─────► names looked up here ── happy eyeballs ──► TCP
//!           └─ else, a ProxyUrl ────► the proxy's name looked up here ── happy eyeballs ── (TLS) ── CONNECT host:port
//! ```
//!
//! Names are looked up at every connection, so that a changed address counts from the next one on. Through a proxy it is
//! the proxy that looks up the target: a network without DNS for outside names needs none.
mod connect;
mod except;
mod race;
mod stream;
#[cfg(test)]
mod tests;
mod url;

use std::{fmt, future::ready, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

pub use self::{
    except::NoProxy,
    race::Unreachable,
    stream::EgressStream,
    url::{InvalidProxyUrl, ProxyUrl},
};

/// For TCP to the proxy.
const PROXY_WITHIN: Duration = Duration::from_secs(4);
/// For TLS with it and its answer to CONNECT. Together less than a dialler waits by default: the error says more then.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Resolve = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Gives the proxy's URL the credentials that count now, if they are to be had.
type Credentials = dyn Fn(ProxyUrl) -> Option<ProxyUrl> + Send + Sync;

/// The way out. Cheap to clone.
///
/// ```
/// # use ztka_tunnel::{Egress, NoProxy};
/// let proxy = "http://agent:secret@proxy.example.net:3128".parse()?;
/// let egress = Egress::through(proxy, NoProxy::new("localhost,10.0.0.0/8"), None)?;
/// assert!(egress.is_proxied("tunnel.example.com") && !egress.is_proxied("10.1.2.3"));
/// # Ok::<(), ztka_core::BoxError>(())
/// ```
#[derive(Clone)]
pub struct Egress {
    through: Option<Arc<Through>>,
    resolve: Arc<Resolve>,
}

struct Through {
    proxy: ProxyUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    except: NoProxy,
    credentials: Option<Arc<Credentials>>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("proxy", &self.proxy()).finish_non_exhaustive()
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self::direct()
    }
}

/// Why an [`Egress`] cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEgress {
    /// The proxy's URL is `https`, and there is nothing to verify its certificate by.
    #[error("the egress proxy is to be reached by TLS; say which CAs its certificate may lead up to")]
    NoTls,
    /// The proxy's host is no name that a certificate could be for.
    #[error("the egress proxy's host is not a name for TLS")]
    Name(#[source] InvalidDnsNameError),
}

impl Egress {
    /// Without a proxy.
    pub fn direct() -> Self {
        Self { through: None, resolve: Arc::new(|host, port| system(host, port).boxed()) }
    }

    /// By `proxy`, but for the hosts that `except` names. The certificate of a proxy with an `https` URL is verified by
    /// `tls`, a client certificate shown if it has one; ALPN is set here.
    ///
    /// # Errors
    /// [`InvalidEgress`] if the URL is `https` and `tls` is not given.
    pub fn through(proxy: ProxyUrl, except: NoProxy, tls: Option<Arc<ClientConfig>>) -> Result<Self, InvalidEgress> {
        let tls = match (proxy.is_tls(), tls) {
            (false, _) => None,
            (true, None) => return Err(InvalidEgress::NoTls),
            (true, Some(config)) => {
                let mut config = ClientConfig::clone(&config);
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                let name = ServerName::try_from(proxy.host().to_owned()).map_err(InvalidEgress::Name)?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        Ok(Self { through: Some(Arc::new(Through { proxy, tls, except, credentials: None })), ..Self::direct() })
    }

    /// Asks `credentials` at every connection through the proxy for its URL with the credentials that count now; what it
    /// does not know (`None`) stays as it was made with. It should not block for long.
    #[must_use]
    pub fn authorized_by<F>(self, credentials: F) -> Self
    where
        F: Fn(ProxyUrl) -> Option<ProxyUrl> + Send + Sync + 'static,
    {
        let through = self.through.map(|through| {
            let Through { proxy, tls, except, .. } = &*through;
            let (proxy, tls, except) = (proxy.clone(), tls.clone(), except.clone());
            Arc::new(Through { proxy, tls, except, credentials: Some(Arc::new(credentials)) })
        });
        Self { through, ..self }
    }

    /// Looks names up by `resolve` instead of the system's resolver, which orders addresses by RFC 6724. It is asked for
    /// each connection; what is an address already is not asked for.
    #[must_use]
    pub fn resolving<F, R>(self, resolve: F) -> Self
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self { resolve: Arc::new(move |host, port| resolve(host, port).boxed()), ..self }
    }

    /// The proxy, if there is one.
    pub fn proxy(&self) -> Option<&ProxyUrl> {
        self.through.as_ref().map(|through| &through.proxy)
    }

    /// Whether connections to `host` go through the proxy.
    pub fn is_proxied(&self, host: &str) -> bool {
        self.through.as_ref().is_some_and(|through| !through.except.matches(host))
    }

    /// Connects to `host` (name or address, IPv6 without brackets) and `port`. Cancel safe. Only what concerns the proxy
    /// is bounded in time, to 9 s; the rest is for the caller to bound.
    ///
    /// # Errors
    /// [`EgressError`], which says whether it was the proxy's doing.
    pub async fn connect(&self, host: &str, port: u16) -> Result<EgressStream, EgressError> {
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#\\".contains(&byte)) {
            return Err(EgressError::Host(host.chars().take(300).flat_map(char::escape_default).collect()));
        }
        match self.through.as_deref().filter(|through| !through.except.matches(host)) {
            None => self.tcp(host, port).await.map(EgressStream::direct),
            Some(through) => self.proxied(through, host, port).await,
        }
    }

    /// [`Self::connect`] to `host:port`, an IPv6 address in brackets.
    ///
    /// # Errors
    /// [`EgressError`]
    pub async fn connect_to(&self, address: &str) -> Result<EgressStream, EgressError> {
        let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.ok_or_else(|| EgressError::Host(address.chars().take(300).collect()))?;
        self.connect(host.trim_matches(['[', ']']), port).await
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, EgressError> {
        let resolve = match host.parse() {
            Ok(address) => ready(Ok(vec![SocketAddr::new(address, port)])).boxed(),
            Err(_) => (self.resolve)(host.to_owned(), port),
        };
        let addresses = resolve.await.map_err(|source| EgressError::Resolve { host: host.to_owned(), source })?;
        let connect = |address| async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let address = || connect::authority(host, port);
        let raced = race::race(addresses, race::DELAY, connect).await;
        raced.map_err(|source| EgressError::Tcp { address: address(), source })
    }

    async fn proxied(&self, through: &Through, host: &str, port: u16) -> Result<EgressStream, EgressError> {
        let proxy = || through.proxy.to_string();
        let late = |after| EgressError::Silent { proxy: proxy(), after };
        let reached = timeout(PROXY_WITHIN, self.tcp(through.proxy.host(), through.proxy.port())).await;
        let reached = reached.map_err(|_| late(PROXY_WITHIN))?;
        let socket = reached.map_err(|error| EgressError::Proxy { proxy: proxy(), source: Box::new(error) })?;
        let connected = async {
            let mut stream = match &through.tls {
                None => EgressStream::direct(socket),
                Some((tls, name)) => {
                    let secured = tls.connect(name.clone(), socket).await;
                    EgressStream::secured(secured.map_err(|source| EgressError::Tls { proxy: proxy(), source })?)
                }
            };
            let renewed = through.credentials.as_ref().and_then(|credentials| credentials(through.proxy.clone()));
            connect::connect(&mut stream, renewed.as_ref().unwrap_or(&through.proxy), host, port).await?;
            Ok(stream)
        };
        timeout(ANSWER_WITHIN, connected).await.unwrap_or_else(|_| Err(late(ANSWER_WITHIN)))
    }
}

async fn system(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Why there is no connection out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// No host name and no address.
    #[error("{0:?} is neither a host name nor an address; write host:port, an IPv6 address in square brackets")]
    Host(String),
    /// The name has no address.
    #[error("cannot look up {host}; check the name and DNS, or that this network needs an egress proxy for it")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address could be connected to.
    #[error(
        "cannot connect to {address}; check the address and egress rules, or that this network needs a proxy for it"
    )]
    Tcp {
        /// `host:port`
        address: String,
        /// What the system said, for each address.
        source: Unreachable,
    },
    /// The egress proxy itself is not reached.
    #[error("the egress proxy {proxy} is not reached; check its URL, and that it runs")]
    Proxy {
        /// Its URL without credentials.
        proxy: String,
        /// [`Self::Resolve`] or [`Self::Tcp`].
        source: Box<Self>,
    },
    /// No TLS with the egress proxy.
    #[error("TLS with the egress proxy {proxy} failed; check its name, and add its CA to the egress CA files")]
    Tls {
        /// Its URL without credentials.
        proxy: String,
        /// What TLS said.
        source: io::Error,
    },
    /// The egress proxy wants credentials: 407.
    #[error("the egress proxy {proxy} answers 407: {hint}")]
    Credentials {
        /// Its URL without credentials.
        proxy: String,
        /// What to do.
        hint: &'static str,
    },
    /// The egress proxy will not, or cannot, connect to the target.
    #[error("the egress proxy {proxy} answers CONNECT {target} with {status}; {hint}")]
    Refused {
        /// Its URL without credentials.
        proxy: String,
        /// `host:port`
        target: String,
        /// Code and reason.
        status: String,
        /// What to do.
        hint: &'static str,
    },
    /// It answered nothing that is HTTP.
    #[error("{proxy} does not answer as an HTTP proxy: {what}; check scheme and port of the egress proxy's URL")]
    NotAProxy {
        /// Its URL without credentials.
        proxy: String,
        /// What came.
        what: String,
    },
    /// It took too long.
    #[error("the egress proxy {proxy} has not answered in {after:?}; check that it runs and may connect to the target")]
    Silent {
        /// Its URL without credentials.
        proxy: String,
        /// The bound.
        after: Duration,
    },
}
