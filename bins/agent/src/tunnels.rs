//! Keeps tunnels to proxies, and replaces all of them when the credential is renewed.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use metrics::gauge;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tower::Service;
use ztka_agent::{Watched, Witness};
use ztka_authz::Open;
use ztka_core::{Body, BoxError, ProxyEntry, ProxyId, Reply, Verified};
use ztka_follow::Member;
use ztka_pki::{Peer, Purpose, RenewalStatus, TrustSource, tls};
use ztka_runtime::Process;
use ztka_tunnel::{DialSettings, Dialer, KnownProxy, Settings, Tls};

use crate::Config;

/// For the ends of what is told to end when the grace is over.
const GOODBYE: Duration = Duration::from_secs(3);
/// Between looks at the certificate.
const LOOK: Duration = Duration::from_secs(10);

/// Serves `access` on tunnels until the process is asked to stop; then what is `open` has its grace, and is ended. Whose a request
/// is the `witness` knows.
pub(crate) async fn keep<S>(
    config: &Config,
    member: &Member,
    provider: Arc<CryptoProvider>,
    access: S,
    mut proxies: watch::Receiver<Arc<[ProxyEntry]>>,
    process: &Process,
    (open, witness): (Open<Witness>, Witness),
) -> anyhow::Result<()>
where
    S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    let trust = member.documents().trust().clone();
    let credentials = member.credentials().clone();
    let client =
        tls::client(provider, trust.clone(), Some(credentials.clone()), Purpose::Proxies, &[ztka_tunnel::ALPN])?;
    let check = trust.clone();
    let connect = Tls::new(client, move |chain| proxy(&check, chain)).by(config.egress.egress()?);
    let verify = trust.clone();
    let connect = Watched::new(connect, trust, move |tls| {
        verify.identify(Purpose::Proxies, tls.get_ref().1.peer_certificates()?).ok()
    });
    let max_retry = config.max_retry.unsigned_abs();
    let dial = DialSettings { tunnels: config.tunnels(), max_retry, ..DialSettings::default() };
    let settings = Settings { refusals: ztka_agent::refusals(), ..Settings::default() };
    let who = move |headers: &HeaderMap| witness.user_of(headers);
    let dialer = Dialer::start_for_users(connect, config.addresses()?, access, (settings, dial), who);

    let mut renewals = credentials.changes();
    loop {
        let now = jiff::Timestamp::now();
        let status = RenewalStatus::of(&credentials.current(), now);
        let left = status.not_after.duration_since(now).as_secs_f64().max(0.0);
        gauge!("ztka_certificate_expires_seconds", "certificate" => "agent").set(left);
        gauge!("ztka_certificate_renewal_overdue", "certificate" => "agent").set(u8::from(status.overdue));
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = renewals.changed() => dialer.renew(),
            Ok(()) = proxies.changed() => {
                let entries = proxies.borrow_and_update().clone();
                dialer.learn(entries.iter().map(|entry| known(config, entry)).collect::<Vec<_>>());
            }
            () = process.shutdown().cancelled() => break,
        }
    }
    let grace = config.grace.unsigned_abs();
    let farewell = async {
        tokio::time::sleep(grace).await;
        open.stop();
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = dialer.shutdown(grace + GOODBYE) => {}
        () = farewell => {}
    }
    Ok(())
}

/// A proxy of the directory as it is dialled. Its own address is believed only with its own name behind it.
fn known(config: &Config, entry: &ProxyEntry) -> KnownProxy {
    let address = entry.address.as_ref().and_then(|address| config.own_address(&entry.id, address).ok());
    KnownProxy { id: entry.id.clone(), zone: entry.zone.as_ref().map(ToString::to_string), address }
}

/// Which proxy is at the other end: never what it says, but what its certificate says.
fn proxy(trust: &TrustSource, chain: &[CertificateDer<'_>]) -> Result<Verified<ProxyId>, BoxError> {
    let peer = trust.verify(Purpose::Proxies, chain)?;
    Peer::as_proxy(&peer).ok_or_else(|| "the certificate is not a proxy's".into())
}
