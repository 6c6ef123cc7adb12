//! TLS configurations by role. TLS 1.3, no early data, no resumption: in every handshake the key is shown, and the
//! certificate held against the trust of the moment.
#[cfg(feature = "crypto-aws-lc")]
mod aws_lc;
mod pin;
mod verifier;

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, Error, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::CryptoProvider,
    server::{NoClientAuth, NoServerSessionStorage, danger::ClientCertVerifier},
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use rustls_pki_types::UnixTime;
use ztka_core::Clock;

use self::verifier::{ClientVerifier, Hints, ServerVerifier};
use crate::{Purpose, credential::CredentialSource, trust::TrustSource};

#[cfg(feature = "crypto-aws-lc")]
pub use self::aws_lc::aws_lc;
pub use self::pin::{CaPin, pinned};

/// What a server asks of its clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientAuth {
    /// No certificate.
    None,
    /// A client may have none. One of another purpose, expired, or unknown ends the handshake with an alert; a revoked
    /// one does not: [`TrustSource::is_revoked`] says so afterwards, and the user is told in words.
    Requested(Purpose),
    /// A certificate of this purpose that is not revoked, or an alert.
    Required(Purpose),
    /// As [`Self::Required`], of any of these purposes.
    RequiredAny(Vec<Purpose>),
}

/// A server of TLS 1.3. `alpn` in order of preference, such as `&[b"h2", b"http/1.1"]`.
///
/// # Errors
/// [`Error`] if `provider` has no TLS 1.3 cipher suite.
pub fn server(
    provider: Arc<CryptoProvider>,
    credentials: CredentialSource,
    client_auth: ClientAuth,
    trust: TrustSource,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    server_of(provider, credentials, client_auth, trust, alpn, &[&TLS13])
}

/// As [`server`], for users' clients that know TLS 1.2 only: with AEAD cipher suites and forward secrecy.
///
/// # Errors
/// [`Error`] if `provider` has no cipher suite to offer.
pub fn server_for_users(
    provider: Arc<CryptoProvider>,
    credentials: CredentialSource,
    client_auth: ClientAuth,
    trust: TrustSource,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    server_of(provider, credentials, client_auth, trust, alpn, &[&TLS13, &TLS12])
}

fn server_of(
    provider: Arc<CryptoProvider>,
    credentials: CredentialSource,
    client_auth: ClientAuth,
    trust: TrustSource,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, Error> {
    let clock = Arc::new(Time(trust.clock().clone()));
    let algorithms = provider.signature_verification_algorithms;
    let (purposes, mandatory) = match client_auth {
        ClientAuth::None => (Vec::new(), false),
        ClientAuth::Requested(purpose) => (vec![purpose], false),
        ClientAuth::Required(purpose) => (vec![purpose], true),
        ClientAuth::RequiredAny(purposes) => (purposes, true),
    };
    let verifier: Arc<dyn ClientCertVerifier> = match purposes.is_empty() && !mandatory {
        true => Arc::new(NoClientAuth),
        false => Arc::new(ClientVerifier { trust, purposes, mandatory, algorithms, hints: Hints::default() }),
    };
    let mut config = ServerConfig::builder_with_details(provider, clock)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(credentials));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A ticket would let a client in without its certificate being looked at, and under another server name.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A client of TLS 1.3 that believes servers of `purpose` only: [`Purpose::Servers`], or [`Purpose::Proxies`] and
/// [`Purpose::Controllers`], which have a name to verify afterwards as well.
///
/// # Errors
/// [`Error`] if `provider` has no TLS 1.3 cipher suite.
pub fn client(
    provider: Arc<CryptoProvider>,
    trust: TrustSource,
    credentials: Option<CredentialSource>,
    purpose: Purpose,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let clock = Arc::new(Time(trust.clock().clone()));
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(ServerVerifier { trust, purpose, algorithms });
    let config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(credentials) => config.with_client_cert_resolver(Arc::new(credentials)),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The injected clock as rustls asks for it.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
