//! h2spec, the conformance suite of HTTP/2, against the users' port and against the agent's end of a tunnel.
//!
//! It can neither show a client certificate nor wait for its server to dial: an adapter between does both, and passes the
//! bytes as they are.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http::{Request, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, pki_types::CertificateDer, pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tower::service_fn;
use ztka_core::{Body, BoxError, ProxyId, Reply, Verified, body};
use ztka_e2e::{Both, Raw};
use ztka_test_cluster::{Options, binaries};
use ztka_tunnel::{ALPN, DialSettings, Dialer, ProxyAddress, Settings, Tls};

/// A case waits so long for an answer.
const CASE: &str = "5";
/// There are 146 of them; fewer were not run.
const CASES: usize = 140;

/// What fails so often has failed.
const RUNS: usize = 3;

/// Of the agent at once: some cases leave a connection open and begin another.
const TUNNELS: usize = 8;

/// Cases that may fail, and the line of the RFC that lets them.
type Exceptions = &'static [(&'static str, &'static str)];

/// Of both: they advertise frames of 64 KiB, and h2spec sends one of 20 KiB.
const LARGE_FRAMES: (&str, &str) = (
    "http2/4.2: Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
    "RFC 9113 §4.2: the size of a frame payload is limited by the maximum size that a receiver advertises in the \
     SETTINGS_MAX_FRAME_SIZE setting",
);

/// Runs h2spec against a port of this machine.
///
/// Some cases send a frame too many behind a request and go by what comes next. On a busy machine that is sometimes the
/// answer to the request, which is right as well; so what fails is asked for again, and has failed if it always does.
async fn h2spec(port: u16, options: &[&str], exceptions: Exceptions) -> Result<()> {
    let mut failed = run(port, options).await?;
    for _ in 1..RUNS {
        if failed.keys().all(|case| exceptions.iter().any(|(name, _)| name == case)) {
            break;
        }
        let again = run(port, options).await?;
        failed.retain(|case, _| again.contains_key(case));
    }
    let mut wrong = Vec::new();
    for (case, failure) in &failed {
        if !exceptions.iter().any(|(name, _)| name == case) {
            wrong.push(format!("{case}\n    {failure}"));
        }
    }
    for (case, line) in exceptions.iter().filter(|(name, _)| !failed.contains_key(*name)) {
        wrong.push(format!("{case}\n    passes, and needs no longer: {line}"));
    }
    ensure!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// The cases that fail, and why.
async fn run(port: u16, options: &[&str]) -> Result<BTreeMap<String, String>> {
    let program = binaries::find_one(binaries::Program::H2spec).await?;
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.xml");
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--timeout", CASE, "--strict"]).args(options);
    let output = command.arg("--junit-report").arg(&report).kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let cases = read(&report).with_context(|| text.clone().into_owned())?;
    ensure!(cases.len() >= CASES, "only {} cases were run\n{text}", cases.len());
    Ok(cases.into_iter().filter_map(|(case, failure)| Some((case, failure?))).collect())
}

/// The cases of a JUnit report by section and title, and why they failed.
fn read(report: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let text = std::fs::read_to_string(report)?;
    let attribute = |tag: &str, name: &str| {
        let begin = tag.split_once(&format!("{name}=\""))?.1;
        Some(begin.split_once('"')?.0.to_owned())
    };
    let mut cases = BTreeMap::new();
    for case in text.split("<testcase ").skip(1) {
        let (tag, rest) = case.split_once('>').context("a tag has no end")?;
        let inner = rest.split("</testcase>").next().unwrap_or_default();
        let name = (attribute(tag, "package"), attribute(tag, "classname"));
        let (Some(section), Some(title)) = name else { anyhow::bail!("no names in {tag}") };
        let failed = inner.contains("<failure") || inner.contains("<error");
        let why = failed.then(|| inner.split_whitespace().collect::<Vec<_>>().join(" "));
        cases.insert(format!("{section}: {title}"), why);
    }
    Ok(cases)
}

/// A port at which each connection becomes one that `next` has, byte by byte.
async fn adapter<T, F>(mut next: impl FnMut() -> F + Send + 'static) -> Result<u16>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let far = next();
            tokio::spawn(async move {
                let mut far = far.await?;
                near.set_nodelay(true)?;
                copy_bidirectional(&mut near, &mut far).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_port_speaks_http2_by_the_rfc() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    // Whoever shows no certificate: 401, straight from the proxy.
    h2spec(both.fleet.front(), &["--tls", "--insecure", "--path", "/version"], &[LARGE_FRAMES])
        .await
        .context("no certificate")?;
    // A user, whose requests go on to the apiserver.
    let alice = Raw::of(&both.through).await?;
    let port = adapter(move || {
        let alice = alice.clone();
        async move { alice.connect_h2().await }
    });
    h2spec(port.await?, &["--path", "/version"], &[LARGE_FRAMES]).await.context("alice")
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Certificates for both ends of a tunnel.
struct Certificates {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    fn of(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        let mut params = CertificateParams::new(vec![name.into()])?;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.ca)?;
        Ok((vec![certificate.der().clone()], key.into()))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone())?;
        Ok(roots)
    }

    fn proxy(&self) -> Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let agents = WebPkiClientVerifier::builder_with_provider(self.roots()?.into(), provider.clone()).build()?;
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let (chain, key) = self.of("tunnel.example.com", ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut config = builder.with_client_cert_verifier(agents).with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.into()];
        Ok(Arc::new(config).into())
    }

    fn agent(&self) -> Result<Tls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let (chain, key) = self.of("agent", ExtendedKeyUsagePurpose::ClientAuth)?;
        let config = builder.with_root_certificates(self.roots()?).with_client_auth_cert(chain, key)?;
        // Each connection another proxy, so that the agent has several at once.
        let count = AtomicUsize::new(0);
        let id = move |_: &[CertificateDer<'_>]| {
            let number = count.fetch_add(1, Relaxed);
            Ok::<Verified<ProxyId>, BoxError>(Verified::assertion(format!("p{number}").parse()?))
        };
        Ok(Tls::new(Arc::new(config), id))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_end_of_a_tunnel_speaks_http2_by_the_rfc() -> Result<()> {
    let certificates = Certificates::new()?;
    // Where agents dial: their connections wait for h2spec to ask for one.
    let (tls, tunnels) = (certificates.proxy()?, TcpListener::bind("127.0.0.1:0").await?);
    let dialled = tunnels.local_addr()?.port();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((socket, _)) = tunnels.accept().await {
            let (tls, sender) = (tls.clone(), sender.clone());
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                let io = tls.accept(socket).await?;
                // Nobody takes one that is dead by then.
                let place = sender.reserve().await?;
                place.send(io);
                anyhow::Ok(())
            });
        }
    });
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let port = adapter::<tokio_rustls::server::TlsStream<TcpStream>, _>(move || {
        let receiver = receiver.clone();
        async move { receiver.lock().await.recv().await.context("no more tunnels") }
    });

    let service = service_fn(|request: Request<Body>| async move {
        drop(request);
        Ok::<_, Infallible>(Reply::Response(Response::new(body("from behind the firewall"))))
    });
    let address = ProxyAddress::new("127.0.0.1", dialled)?.named("tunnel.example.com".try_into()?);
    let soon = Duration::from_millis(5);
    let dial = DialSettings { tunnels: TUNNELS, first_retry: soon, max_retry: soon, ..DialSettings::default() };
    // h2spec never says that it is ready, which is all that ends here by time.
    let settings = Settings { setup: Duration::from_secs(3600), ..Settings::default() };
    let _agent = Dialer::start_with(certificates.agent()?, [address], service, settings, dial);
    h2spec(port.await?, &[], &[LARGE_FRAMES]).await
}
