//! Figures of this crate: `cargo bench -p ztka-pki --bench pki`, or `cargo xtask bench pki`.
//!
//! Each is the median of three rounds of a second on one thread. Handshakes are asked for by `openssl s_time` over
//! loopback, of us and of `openssl s_server` in turn, and held against the processor time that the server has used.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench")]
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports, reason = "measured on Linux"))]

#[path = "../tests/support/fleet.rs"]
mod fleet;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/support/world.rs"]
mod world;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;
use ztka_core::{SpiffeId, SystemClock};
use ztka_pki::{
    ClientAuth, Credential, CredentialSource, CrlContents, CrlReason, Hierarchy, Issued, KeyStore, Lifetimes,
    MemoryKeyStore, Names, Pkcs11KeyStore, Pkcs11Token, Purpose, Revocations, RevokedCertificate, SoftwareKey,
    TrustSource, ValidCsr, file, tls,
};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(1);
const TOKEN: &str = "ZTKA_BENCH_TOKEN_FOLDER";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// Chains of which none is known any more when it comes again.
const UNKNOWN: usize = 1100;

/// Agents of the rotation.
const FLEET: usize = 1000;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes every signature for good: what is left is what reading costs.
#[derive(Debug)]
struct Believing(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Believing {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }

    fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
        Ok(())
    }
}

/// A provider without a signature that costs anything.
fn believing() -> Arc<CryptoProvider> {
    let known = rustls::crypto::ring::default_provider();
    let algorithms = known.signature_verification_algorithms;
    let believing =
        |algorithm: &&'static dyn SignatureVerificationAlgorithm| -> &'static dyn SignatureVerificationAlgorithm {
            Box::leak(Box::new(Believing(*algorithm)))
        };
    let all: Vec<_> = algorithms.all.iter().map(believing).collect();
    let algorithms = WebPkiSupportedAlgorithms { all: all.leak(), mapping: algorithms.mapping };
    Arc::new(CryptoProvider { signature_verification_algorithms: algorithms, ..known })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// How often `work` is done in a second.
fn rate(mut work: impl FnMut() -> usize) -> f64 {
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (begun, mut done) = (Instant::now(), 0);
            while begun.elapsed() < ROUND {
                done += work();
            }
            done as f64 / begun.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

fn row(what: &str, figure: &str, bound: &str) {
    println!("| {what} | {figure} | {bound} |");
}

struct Site {
    runtime: Runtime,
    hierarchy: Hierarchy,
    trust: TrustSource,
    csrs: Vec<Vec<u8>>,
}

impl Site {
    fn new(keys: impl FnOnce(&Runtime) -> Arc<dyn KeyStore>) -> Self {
        let (runtime, clock) = (runtime(), Arc::new(SystemClock));
        let keys = keys(&runtime);
        let made = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone());
        let hierarchy = runtime.block_on(made).unwrap();
        runtime.block_on(hierarchy.create_org(&"acme".parse().unwrap())).unwrap();
        let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), clock).unwrap();
        let csrs = (0..64).map(|_| SoftwareKey::generate(&provider()).unwrap().csr().unwrap()).collect();
        Self { runtime, hierarchy, trust, csrs }
    }

    async fn issue(&self, csr: &[u8]) -> Issued {
        let csr = ValidCsr::from_der(csr).unwrap();
        let (org, cluster, instance) = ("acme".parse().unwrap(), "c1".parse().unwrap(), "i1".parse().unwrap());
        self.hierarchy.issue_agent(&csr, &org, &cluster, &instance).await.unwrap()
    }

    /// Certificates from requests, `at_once` of them together.
    fn issue_rate(&self, at_once: usize) -> f64 {
        rate(|| {
            let some = self.csrs.iter().take(at_once).map(|csr| self.issue(csr));
            self.runtime.block_on(futures_util::future::join_all(some)).len()
        })
    }
}

fn main() {
    if let Some(folder) = std::env::var_os(TOKEN) {
        return token(Path::new(&folder));
    }
    println!("| what | figure | bound |\n|---|---|---|");
    let site = Site::new(|_| Arc::new(MemoryKeyStore::new(provider())));
    row("certificates from requests, P-256 in memory", &format!("{:.0}/s", site.issue_rate(1)), "≥ 3000/s");
    token_in_a_process_of_its_own();
    let issued = site.runtime.block_on(site.issue(&site.csrs[0]));
    let strangers: Vec<_> =
        (0..UNKNOWN).map(|n| site.runtime.block_on(site.issue(&site.csrs[n % site.csrs.len()]))).collect();
    let mut chains = strangers.iter().cycle();
    let verified = rate(|| {
        site.trust.verify(Purpose::Agents, chains.next().unwrap().chain()).unwrap();
        1
    });
    row("a peer's chain of two signatures verified", &format!("{:.0} µs", 1e6 / verified), "≤ 150 µs");
    let again = rate(|| {
        site.trust.verify(Purpose::Agents, issued.chain()).unwrap();
        1
    });
    row("the chain of a peer that comes again", &format!("{:.2} µs", 1e6 / again), "");
    let id = site.trust.verify(Purpose::Agents, issued.chain()).unwrap().id.to_string();
    let read = rate(|| (0..100).filter(|_| std::hint::black_box(&id).parse::<SpiffeId>().is_ok()).count());
    identity(&site, &strangers);
    row("its name alone read", &format!("{:.2} µs", 1e6 / read), "");
    revocation(&site, &issued);
    handshakes(&site);
    rotation();
}

/// From certificates in DER to a verified peer: all that is looked at but the signatures, which cost what they cost.
fn identity(site: &Site, strangers: &[Issued]) {
    let trust = TrustSource::new(site.hierarchy.trust_bundle(), believing(), Arc::new(SystemClock)).unwrap();
    let mut chains = strangers.iter().cycle().map(Issued::chain);
    let identified = rate(|| {
        let some = chains.by_ref().take(100);
        some.filter(|chain| trust.verify(Purpose::Agents, std::hint::black_box(chain)).is_ok()).count()
    });
    // The path alone, by what verifies it, of the same certificates.
    let anchors: Vec<_> = trust.bundle().anchors[&Purpose::Agents].iter().map(|one| one.certificate.clone()).collect();
    let anchors: Vec<_> = anchors.iter().map(ztka_pki::Der::certificate).collect();
    let anchors: Vec<_> = anchors.iter().map(|one| webpki::anchor_from_trusted_cert(one).unwrap()).collect();
    let algorithms = believing().signature_verification_algorithms.all;
    let path = rate(|| {
        let some = chains.by_ref().take(100);
        let verified = some.filter(|chain| {
            let now = rustls_pki_types::UnixTime::now();
            let [leaf, above @ ..] = std::hint::black_box(*chain) else { return false };
            let usage = webpki::KeyUsage::client_auth();
            let leaf = webpki::EndEntityCert::try_from(leaf).unwrap();
            leaf.verify_for_usage(algorithms, &anchors, above, now, usage, None, None).is_ok()
        });
        verified.count()
    });
    let (whole, path) = (1e6 / identified, 1e6 / path);
    row("that without its signatures, from DER to a peer", &format!("{whole:.2} µs"), "");
    row("of it the path, by webpki", &format!("{path:.2} µs"), "");
    row("of it the identity: use, names, limits, keys", &format!("{:.2} µs", whole - path), "≤ 3 µs");
}

/// The agents' authority replaced while agents are connected: each hears, renews, and dials anew before it ends what it has.
fn rotation() {
    let rotated = runtime().block_on(fleet::rotate(FLEET));
    assert_eq!(rotated.disconnected, 0, "agents were disconnected");
    let what = format!("the agents' authority replaced under {} connected agents", rotated.agents);
    row(
        &what,
        &format!("{:.1} s, {} disconnected", rotated.took.as_secs_f64(), rotated.disconnected),
        "0 disconnected",
    );
}

/// What each request and each list costs where much is revoked.
fn revocation(site: &Site, issued: &Issued) {
    const REVOKED: usize = 10_000;
    let serials = (0..REVOKED).map(|number| format!("{number:032x}"));
    let peer = site.trust.verify(Purpose::Agents, issued.chain()).unwrap();
    let revoked = Revocations { serials: serials.clone().collect(), ..Revocations::default() };
    site.trust.set_revocations(None, revoked);
    let asked = rate(|| (0..100).filter(|_| !std::hint::black_box(site.trust.is_revoked(&peer))).count());
    row(&format!("a peer held against {REVOKED} revocations"), &format!("{:.2} µs", 1e6 / asked), "");
    site.trust.set_revocations(None, Revocations::default());

    let (issuer, now) = (site.hierarchy.issuers().remove(0).key, site.hierarchy.clock().now());
    let entry = |serial| RevokedCertificate { serial, since: now, reason: CrlReason::Unspecified };
    let next_update = now + SignedDuration::from_hours(24);
    let contents = CrlContents { number: 1, this_update: now, next_update, revoked: serials.map(entry).collect() };
    let signed = rate(|| {
        site.runtime.block_on(site.hierarchy.sign_crl(&issuer, &contents)).unwrap();
        1
    });
    row(&format!("a CRL of {REVOKED} certificates made"), &format!("{:.1} ms", 1e3 / signed), "");
}

fn answers(command: &str, argument: &str) -> bool {
    Command::new(command).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// A module finds its tokens by the environment.
fn token_in_a_process_of_its_own() {
    if !Path::new(MODULE).exists() || !answers("softhsm2-util", "--version") {
        return row("the same with SoftHSM", "not measured: it is not installed", "");
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("tokens")).unwrap();
    fs::write(at("conf"), format!("directories.tokendir = {}\n", at("tokens").display())).unwrap();
    file::write_private(&at("pin"), b"1234").unwrap();
    let made = ["--init-token", "--free", "--label", "bench", "--so-pin", "1234", "--pin", "1234"];
    let made = Command::new("softhsm2-util").args(made).env("SOFTHSM2_CONF", at("conf")).output().unwrap();
    assert!(made.status.success());
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.env("SOFTHSM2_CONF", at("conf")).env(TOKEN, folder.path());
    assert!(again.status().unwrap().success());
}

fn token(folder: &Path) {
    let site = Site::new(|runtime| {
        let token = Pkcs11Token::new(MODULE, "bench", folder.join("pin"));
        Arc::new(runtime.block_on(Pkcs11KeyStore::open(token)).unwrap())
    });
    row("the same with SoftHSM, one at a time", &format!("{:.0}/s", site.issue_rate(1)), "");
    row("the same with SoftHSM, 16 at once in 4 sessions", &format!("{:.0}/s", site.issue_rate(16)), "");
}

/// Key and chain as files, for openssl.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn write(&self, name: &str, chain: &Issued, key: &SoftwareKey) {
        let pem = chain.pem();
        let leaf = pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        fs::write(self.path(name), format!("{leaf}{}", *key.to_pem())).unwrap();
        fs::write(self.path(&format!("{name}.above")), &pem[leaf.len()..]).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Nanoseconds on a processor, of the task at `place` in `/proc`.
fn used(place: &Path) -> f64 {
    let text = fs::read_to_string(Path::new("/proc").join(place).join("schedstat")).unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn handshakes(site: &Site) {
    let what = "full mTLS handshakes per second of the server's processor time";
    if !cfg!(target_os = "linux") || !answers("openssl", "version") {
        return row(what, "not measured: it takes Linux and openssl", "");
    }
    let files = Files { folder: tempfile::tempdir().unwrap() };
    let (server_key, client_key) =
        (SoftwareKey::generate(&provider()).unwrap(), SoftwareKey::generate(&provider()).unwrap());
    let server = site.runtime.block_on(site.hierarchy.issue_server(server_key.public(), &["www.example.com"])).unwrap();
    let csr = ValidCsr::from_der(&client_key.csr().unwrap()).unwrap();
    let (org, user, credential) = ("acme".parse().unwrap(), "u1".parse().unwrap(), "k1".parse().unwrap());
    let life = SignedDuration::from_hours(1);
    let client = site.runtime.block_on(site.hierarchy.issue_user(&csr, &org, &user, &credential, life)).unwrap();
    let anchor = site.hierarchy.state().purposes[&Purpose::Users].certificate.clone();
    files.write("server", &server, &server_key);
    files.write("client", &client, &client_key);
    // s_time finds its own chain in what it trusts, and sends it up to the root, to us as to s_server. Both verify two
    // signatures, up to the users' intermediate.
    let org = client.pem().split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap().to_owned();
    fs::write(files.path("known"), format!("{org}{anchor}{}", site.hierarchy.root_pem())).unwrap();
    fs::write(files.path("anchor"), anchor).unwrap();

    let accepted = Arc::new(AtomicUsize::new(0));
    let (port, place) = serve(site, accepted.clone(), Credential::new(server.chain().to_vec(), &server_key).unwrap());
    let theirs = s_server(&files);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let before = accepted.load(Ordering::Relaxed);
        let (count, rate) = ask(&files, port, &place);
        // A client of TLS 1.3 is done before the server is, which has some left when the time is over.
        let accepted = (accepted.load(Ordering::Relaxed) - before) as f64;
        assert!(accepted > 0.5 * count, "{accepted} of {count} accepted");
        rates[0].push(rate * accepted / count);
        rates[1].push(ask(&files, theirs.port, &PathBuf::from(theirs.process.id().to_string())).1);
    }
    let [ours, theirs] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        format!("{:.0}/s", rates[ROUNDS / 2])
    });
    row(&format!("{what}, here"), &ours, "");
    row(&format!("{what}, openssl s_server"), &theirs, "");
}

/// Serves on a thread and counts whom it has let in: its port, and its task in `/proc`.
fn serve(site: &Site, accepted: Arc<AtomicUsize>, credential: Credential) -> (u16, PathBuf) {
    let source = CredentialSource::new(credential);
    let client_auth = ClientAuth::Required(Purpose::Users);
    let config = tls::server(provider(), source, client_auth, site.trust.clone(), &[]).unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let place = fs::read_link("/proc/thread-self").unwrap();
            tell.send((listener.local_addr().unwrap().port(), place)).unwrap();
            let acceptor = TlsAcceptor::from(config);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
                tokio::spawn(async move {
                    let done = acceptor.accept(stream).await;
                    accepted.fetch_add(usize::from(done.is_ok()), Ordering::Relaxed);
                });
            }
        });
    });
    told.recv().unwrap()
}

struct Server {
    port: u16,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn s_server(files: &Files) -> Server {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("openssl");
    command.args([
        "s_server",
        "-quiet",
        "-accept",
        &port.to_string(),
        "-cert",
        "server",
        "-cert_chain",
        "server.above",
    ]);
    command.args(["-key", "server", "-CAfile", "anchor", "-partial_chain", "-Verify", "3", "-verify_return_error"]);
    command.args(["-tls1_3", "-num_tickets", "0", "-naccept", "1000000"]).current_dir(files.folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server { port, process: command.spawn().unwrap() };
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "openssl s_server does not listen");
    }
    server
}

/// Shakes hands for two seconds: how often, and how often in a second of the server's processor time.
fn ask(files: &Files, port: u16, server: &Path) -> (f64, f64) {
    let before = used(server);
    let mut command = Command::new("openssl");
    command.args(["s_time", "-new", "-time", "2", "-connect", &format!("127.0.0.1:{port}"), "-CAfile", "known"]);
    command.args(["-cert", "client", "-key", "client", "-tls1_3"]).current_dir(files.folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let count = said.lines().find_map(|line| line.split_once(" connections in ")?.0.trim().parse::<f64>().ok());
    let count = count.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    (count, count / (used(server) - before))
}
