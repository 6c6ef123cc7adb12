//! What goes wrong at an operator's hands ends in an error that says what it is about and what to do.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use ztka_core::{Clock, DocumentHeader, DocumentKind, ManualClock, Rejected, Revision, SeriesKey, SignedDocument};
use ztka_e2e::{Both, Client, Fleet, Process, free_port, program};
use ztka_follow::Documents;
use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names, PeerError, Purpose, SoftwareKey, TrustSource, ValidCsr};
use ztka_test_cluster::{Kubectl, Options, is_root, wait_for};

/// Runs a program that has to fail with exit code 1, and returns what it printed.
fn fails<S: AsRef<std::ffi::OsStr>>(name: &str, arguments: &[S]) -> Result<String> {
    let mut command = Command::new(program(name)?);
    // Nothing of whoever runs the tests.
    for variable in ["ZTKA_CONFIG", "ZTKA_CREDENTIAL", "ZTKA_ORG", "KUBERNETES_SERVICE_HOST"] {
        command.env_remove(variable);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{name}: {}, not 1: {text}", output.status);
    let line = text.lines().rfind(|line| line.starts_with("error: "));
    ensure!(line.is_some() && !text.contains("panicked"), "{name} printed no error: {text}");
    Ok(text)
}

/// Checks that every word is said.
fn says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "{word:?} is not said: {text}");
    }
    Ok(())
}

/// A folder with configuration files, and what they need.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ztka-bad-").tempdir()?;
        let bench = Self { folder };
        bench.write("ca.pem", &rcgen::generate_simple_self_signed(["a".into()])?.cert.pem())?;
        bench.write("token", "secret")?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// A configuration of `server` that is right, but for `from` which becomes `to`.
    fn config(&self, server: &str, from: &str, to: &str) -> Result<PathBuf> {
        let dir = self.folder.path().display();
        let good = match server {
            "ztka-controller" => format!(
                "domain = 'ztka.test'\ndata_dir = '{dir}/controller'\nfront = '127.0.0.1:1'\nlisten = '127.0.0.1:{}'\n\
                 [certificates]\nagent = '1h'\n[runtime]\nlog = 'info'\n",
                free_port()?
            ),
            "ztka-proxy" => format!(
                "domain = 'ztka.test'\nlisten = '127.0.0.1:{}'\nstate_dir = '{dir}/proxy'\ncontroller = '127.0.0.1:1'\n\
                 pass_to = '127.0.0.1:1'\ngrace = '1s'\n[proxy_protocol]\ntrusted = []\n[audit]\nquota_mib = 64\n\
                 [runtime]\nlog = 'info'\n",
                free_port()?
            ),
            _ => format!(
                "domain = 'ztka.test'\nfront = '127.0.0.1:1'\nproxies = []\nstate_dir = '{dir}/agent'\n[apiserver]\n\
                 url = 'https://127.0.0.1:1'\nca_file = '{dir}/ca.pem'\ntoken_file = '{dir}/token'\n\
                 [runtime]\nlog = 'info'\n"
            ),
        };
        ensure!(good.contains(from), "{from} is not in {good}");
        self.write(&format!("{server}.toml"), &good.replacen(from, to, 1))
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() -> Result<()> {
    let bench = Bench::new()?;
    let servers = ["ztka-controller", "ztka-proxy", "ztka-agent"];
    for server in servers {
        let good = bench.config(server, "", "")?;
        let output = Command::new(program(server)?).arg("--config").arg(&good).arg("--check-config").output()?;
        ensure!(output.status.success(), "{server}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let everywhere = [
        ("domain = 'ztka.test'", "domain = 'ztka.test'\ncolour = 'red'", &["line 2", "unknown field `colour`"][..]),
        ("log = 'info'", "level = 'info'", &["unknown field `level`", "`log`"]),
        ("domain = 'ztka.test'\n", "", &["missing field `domain`"]),
        ("domain = 'ztka.test'", "domain = ", &["line 1"]),
        ("domain = 'ztka.test'", "domain = 7", &["line 1", "expected a string"]),
        ("domain = 'ztka.test'", "domain = 'not a name'", &["domain = \"not a name\" is not a DNS name"]),
        ("log = 'info'", "log = 'info,='", &["runtime.log", "use for example \"info\""]),
        ("log = 'info'", "health = '0.0.0.0:9440'", &["runtime.health", "loopback", "127.0.0.1:9440"]),
        ("log = 'info'", "log_format = 'xml'", &["unknown variant `xml`", "`json`"]),
    ];
    let own = [
        ("ztka-controller", "front = '127.0.0.1:1'", "front = 'here'", &["front must be host:port"][..]),
        ("ztka-controller", "agent = '1h'", "agent = 'an hour'", &["line", "agent"]),
        ("ztka-controller", "agent = '1h'", "agent = '1s'", &["certificates must live for 10 s"]),
        ("ztka-controller", "listen = '", "listen = 'x", &["line", "socket address"]),
        ("ztka-proxy", "controller = '127.0.0.1:1'", "controller = 'c'", &["controller must be host:port"]),
        ("ztka-proxy", "pass_to = '127.0.0.1:1'", "pass_to = 'c'", &["pass_to must be host:port"]),
        ("ztka-proxy", "grace = '1s'", "grace = '-1s'", &["grace must not be negative"]),
        ("ztka-proxy", "grace = '1s'", "shutdown_delay = '-1s'", &["shutdown_delay must not be negative"]),
        ("ztka-agent", "proxies = []", "grace = '-1s'", &["grace must not be negative"]),
        ("ztka-agent", "proxies = []", "max_retry = '1ms'", &["max_retry must not be shorter than 500ms"]),
        ("ztka-proxy", "trusted = []", "trusted = ['all']", &["proxy_protocol.trusted", "such as 10.0.0.0/8"]),
        ("ztka-proxy", "quota_mib = 64", "quota_mib = 'much'", &["line", "quota_mib"]),
        ("ztka-agent", "front = '127.0.0.1:1'", "front = 'here'", &["front must be host:port"]),
        ("ztka-agent", "proxies = []", "proxies = ['there']", &["proxies", "\"there\" is not host:port"]),
        ("ztka-agent", "proxies = []", "proxies = ['there:x']", &["proxies", "does not end with a port"]),
        ("ztka-agent", "url = 'https", "url = 'http", &["apiserver.url", "https://host:port"]),
        ("ztka-agent", "ca_file = '", "ca_file = '/nowhere", &["apiserver.ca_file", "check that it exists"]),
        ("ztka-agent", "/ca.pem", "/token", &["apiserver.ca_file", "holds no certificate"]),
        ("ztka-agent", "token_file = '", "token_file = '/nowhere", &["apiserver.token_file", "check that it exists"]),
    ];
    let all = servers.iter().flat_map(|server| everywhere.map(|(from, to, words)| (*server, from, to, words)));
    for (server, from, to, words) in all.chain(own) {
        let file = bench.config(server, from, to)?;
        let name = file.display().to_string();
        // Checked, and started: the same error.
        for arguments in [&["--config", &name, "--check-config"][..], &["--config", &name]] {
            let text = fails(server, arguments)?;
            says(&text, words).and_then(|()| says(&text, &[&name])).with_context(|| format!("{server}: {to}"))?;
        }
    }
    for server in servers {
        let text = fails(server, &["--config", "/nowhere/at.toml"])?;
        says(&text, &["cannot read the configuration file /nowhere/at.toml", "check that it exists"])?;
        let text = fails(server, &["--config", &bench.folder.path().display().to_string()])?;
        says(&text, &["cannot read the configuration file"])?;
    }
    Ok(())
}

#[test]
fn keys_tokens_ports_and_folders_that_cannot_be_used() -> Result<()> {
    let bench = Bench::new()?;
    let start = |file: &Path| [PathBuf::from("--config"), file.to_owned()];

    // Tokens: not there, a folder, not one, one that was cut.
    let token = |server: &str, token: &Path| {
        let line = format!("token_file = '{}'\nstate_dir = ", token.display());
        bench.config(server, "state_dir = ", &line)
    };
    let cut = bench.write("cut", "ztka1.e0123.AAAA")?;
    for server in ["ztka-proxy", "ztka-agent"] {
        for path in [bench.path("nothing"), bench.folder.path().to_owned()] {
            let text = fails(server, &start(&token(server, &path)?))?;
            says(&text, &["token_file: cannot read", &path.display().to_string(), "check that it exists"])?;
        }
        for path in [&cut, &bench.path("ca.pem")] {
            let text = fails(server, &start(&token(server, path)?))?;
            says(&text, &["token_file", &path.display().to_string(), "copy the whole text"])?;
            ensure!(!text.contains("AAAA"), "a part of the token is shown: {text}");
        }
        // None at all, and no credential.
        let text = fails(server, &start(&bench.config(server, "", "")?))?;
        says(&text, &["no credential in", "ask an administrator for a token"])?;
    }

    // Folders: below a file, and open to others.
    let file = bench.write("file", "")?;
    let open = bench.path("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    for (server, key, own) in [
        ("ztka-controller", "data_dir", "controller"),
        ("ztka-proxy", "state_dir", "proxy"),
        ("ztka-agent", "state_dir", "agent"),
    ] {
        let from = format!("{key} = '{}'", bench.path(own).display());
        let below = file.join("below");
        let config = bench.config(server, &from, &format!("{key} = '{}'", below.display()))?;
        let text = fails(server, &start(&config))?;
        let words = ["cannot make the directory", &below.display().to_string(), "its owner and its mode"];
        says(&text, &words).and_then(|()| says(&text, &["cannot be used"])).context(server)?;
        let config = bench.config(server, &from, &format!("{key} = '{}'", open.display()))?;
        let text = fails(server, &start(&config))?;
        says(&text, &["has mode 777", &format!("chmod 700 {}", open.display())]).context(server)?;
    }

    // Ports.
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?;
    for (server, from, key) in [
        ("ztka-controller", "listen = '127.0.0.1:", "listen: "),
        ("ztka-proxy", "listen = '127.0.0.1:", "listen: "),
        ("ztka-agent", "log = 'info'", "runtime.health: "),
        ("ztka-controller", "log = 'info'", "runtime.health: "),
    ] {
        let to = match from.starts_with("listen") {
            true => format!("listen = '{taken}' # '"),
            false => format!("health = '{taken}'"),
        };
        let text = fails(server, &start(&bench.config(server, from, &to)?))?;
        says(&text, &[key, &taken.to_string(), "is the port in use"]).context(server)?;
    }

    // The master key: the controller has made it above, before it could not listen.
    let (config, key) = (bench.config("ztka-controller", "", "")?, bench.path("controller/master.key"));
    let whole = fs::read(&key)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let text = fails("ztka-controller", &start(&config))?;
    says(&text, &["has mode 644", &format!("chmod 600 {}", key.display())])?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    fs::write(&key, "short")?;
    let text = fails("ztka-controller", &start(&config))?;
    says(&text, &["master key"])?;
    // Another key than the store was made with.
    let other: String = String::from_utf8(whole)?.chars().rev().collect();
    fs::write(&key, other)?;
    let text = fails("ztka-controller", &start(&config))?;
    says(&text, &["master key"])?;
    Ok(())
}

/// Starts a program and waits for what its log says; true if it has ended by then.
async fn logs(name: &str, config: &Path, words: &[&str]) -> Result<bool> {
    let log = config.with_extension("log");
    let mut process = Process::start(&program(name)?, [Path::new("--config"), config], &log)?;
    wait_for("a line of the log", || async { says(&fs::read_to_string(&log)?, words) }).await?;
    if process.is_running() {
        return Ok(false);
    }
    Ok(true)
}

/// Starts a program, waits until it has ended with an error, and checks what it said.
async fn ends(name: &str, config: &Path, words: &[&str]) -> Result<()> {
    let log = config.with_extension("log");
    let mut process = Process::start(&program(name)?, [Path::new("--config"), config], &log)?;
    let ended = wait_for("the end of the program", || {
        let ended = process.ended().and_then(|ended| ended.context("it still runs"));
        async { ended }
    });
    let status = ended.await.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    let text = fs::read_to_string(&log)?;
    ensure!(status.code() == Some(1), "{name}: {status}, not 1: {text}");
    says(&text, words)
}

#[tokio::test]
async fn enrolment_tokens_that_do_not_fit() -> Result<()> {
    let fleet = Fleet::start().await?;
    let other = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.ztka(&["--org", "acme", "cluster", "create", "dev"]).await?;
    let bench = Bench::new()?;
    let front = format!("front = '127.0.0.1:{}'", fleet.front());
    let agent = |name: &str, token: &str| -> Result<PathBuf> {
        let file = bench.write(&format!("{name}.token"), token)?;
        let from = format!("front = '127.0.0.1:1'\nproxies = []\nstate_dir = '{}", bench.path("agent").display());
        let to = format!("{front}\ntoken_file = '{}'\nstate_dir = '{}", file.display(), bench.path(name).display());
        let config = bench.config("ztka-agent", &from, &to)?;
        let own = bench.path(&format!("{name}.toml"));
        fs::rename(config, &own)?;
        Ok(own)
    };
    let token = || fleet.ztka(&["--org", "acme", "cluster", "token", "dev"]);

    // A secret that nobody gave out.
    let good = token().await?;
    let mut parts: Vec<_> = good.split('.').map(str::to_owned).collect();
    parts[2] = parts[2].chars().rev().collect::<String>();
    let secret = parts[2].clone();
    if let Ok(wrong) = parts.join(".").parse::<ztka_pki::EnrolmentToken>() {
        let config = agent("wrong", &wrong.to_text())?;
        ends("ztka-agent", &config, &["error: enrolment was refused", "token"]).await?;
        ensure!(!fs::read_to_string(config.with_extension("log"))?.contains(&secret), "the log shows the secret");
    }

    // One that another agent has spent.
    let first = agent("first", &good)?;
    let log = first.with_extension("log");
    let running = Process::start(&program("ztka-agent")?, [Path::new("--config"), &first], &log)?;
    wait_for("the first agent", || async { says(&fs::read_to_string(&log)?, &["enrolled"]) }).await?;
    let second = agent("second", &good)?;
    ends("ztka-agent", &second, &["error: enrolment was refused", "token"]).await?;
    drop(running);

    // An agent whose credential others may read, or that is cut.
    let credential = fs::read_dir(bench.path("first"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("PRIVATE KEY")));
    let credential = credential.context("no credential in the state directory")?;
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o640))?;
    let arguments = [Path::new("--config"), &first];
    says(&fails("ztka-agent", &arguments)?, &["has mode 640", &format!("chmod 600 {}", credential.display())])?;
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o600))?;
    fs::write(&credential, "{")?;
    says(&fails("ztka-agent", &arguments)?, &["the stored credential cannot be used", "enrol again with a new token"])?;

    // A proxy with an agent's token.
    let file = bench.write("proxy.token", &token().await?)?;
    let internal = fs::read_to_string(fleet.path("proxy-0.toml"))?;
    let internal = internal.lines().find(|line| line.starts_with("controller = ")).context("controller")?.to_owned();
    let to = format!("token_file = '{}'\n{internal}", file.display());
    let config = bench.config("ztka-proxy", "controller = '127.0.0.1:1'", &to)?;
    ends("ztka-proxy", &config, &["error: ", "is not a proxy's", "join with a proxy's token"]).await?;

    // A token of another installation: nothing of it is sent, and the agent goes on trying.
    other.org("acme").await?;
    other.ztka(&["--org", "acme", "cluster", "create", "dev"]).await?;
    let elsewhere = agent("elsewhere", &other.ztka(&["--org", "acme", "cluster", "token", "dev"]).await?)?;
    let words =
        ["not enrolled yet", "the TLS handshake with enroll.ztka.test failed", "check server name, trust and clocks"];
    ensure!(!logs("ztka-agent", &elsewhere, &words).await?, "it has given up");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_named() -> Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let now = Timestamp::now();
    let hour = SignedDuration::from_hours(1);
    let ahead: Arc<dyn Clock> = Arc::new(ManualClock::at(now + hour));
    let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
    // A controller whose clock is an hour ahead. Its CAs are from before.
    let lifetimes = Lifetimes::default();
    let right = Arc::new(ManualClock::at(now));
    let hierarchy = Hierarchy::create(Names::of("ztka.test"), lifetimes, keys, right.clone()).await?;
    let org = "acme".parse()?;
    hierarchy.create_org(&org).await?;
    let bundle = hierarchy.trust_bundle();
    let trust = TrustSource::new(bundle.clone(), provider.clone(), Arc::new(ManualClock::at(now)))?;
    let late = TrustSource::new(bundle.clone(), provider.clone(), Arc::new(ManualClock::at(now - hour)))?;
    let early = TrustSource::new(bundle.clone(), provider.clone(), ahead.clone())?;

    right.advance(hour);
    let csr = ValidCsr::from_der(&SoftwareKey::generate(&provider)?.csr()?)?;
    let issued = hierarchy.issue_agent(&csr, &org, &"c1".parse()?, &"i1".parse()?).await?;
    for receiver in [&trust, &late] {
        let error = receiver.verify(Purpose::Agents, issued.chain()).unwrap_err();
        ensure!(error == PeerError::NotYetValid, "{error}");
        says(&error.to_string(), &["not valid yet", "check the clocks"])?;
    }
    early.verify(Purpose::Agents, issued.chain())?;

    // The same for what it signs.
    let sign = |issued: Timestamp, expires: Timestamp| -> Result<SignedDocument> {
        let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse()?), subject: String::new() };
        let header = DocumentHeader { series, revision: Revision { epoch: 1, version: 1 }, issued, expires };
        let signed = SignedDocument::sign(header, &"{}", |_| anyhow::Ok((ztka_core::KeyId("any".into()), Vec::new())))?;
        Ok(signed)
    };
    struct Any;
    impl ztka_core::SignatureCheck for Any {
        fn is_signed(&self, _: &ztka_core::KeyId, _: &[u8], _: &[u8]) -> bool {
            true
        }
    }
    let future = sign(now + hour, now + hour * 25)?.accept(&Any, None, now).unwrap_err();
    ensure!(future == Rejected::Future, "{future}");
    says(&future.to_string(), &["in the future", "check the clocks"])?;
    let past = sign(now - hour, now)?.accept(&Any, None, now + hour).unwrap_err();
    ensure!(past == Rejected::Expired, "{past}");
    says(&past.to_string(), &["expired", "the clocks"])?;
    // Minutes do not matter.
    sign(now + SignedDuration::from_mins(4), now + hour)?.accept(&Any, None, now)?;
    // And what is not signed is not asked for its time.
    let documents = Documents::open(bundle, None, provider, Arc::new(ManualClock::at(now)))?;
    ensure!(documents.accept(sign(now + hour, now + hour * 25)?).err() == Some(Rejected::Signature), "believed");
    Ok(())
}

/// A small file system of its own; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Result<Self> {
        let options = format!("size={size},mode=0700");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ztka-test"]).arg(at).status()?;
        ensure!(status.success(), "a tmpfs cannot be mounted at {}", at.display());
        Ok(Self(at.to_owned()))
    }

    /// Writes until there is no room left.
    fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("filler"))?;
        let block = vec![0; 1 << 16];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&block[..1]).is_ok() {}
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?;
    ensure!(status.success(), "{} cannot be copied", from.display());
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_what_must_be_recorded_and_serves_again() -> Result<()> {
    let probe = tempfile::tempdir()?;
    if !is_root() || Disk::mount(probe.path(), "1m").is_err() {
        ensure!(std::env::var("CI").map_or(true, |ci| ci != "true"), "a tmpfs cannot be mounted here");
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED a test with a full disk: it mounts a tmpfs, as root");
        return Ok(());
    }
    let mut both = Both::start(Options::default()).await?;

    // What the proxy and the agent keep moves to small disks.
    let places = [both.fleet.path("proxy-0"), both.fleet.path("agent-acme-dev")];
    both.fleet.proxies[0].process.terminate()?;
    both.fleet.agents.values_mut().try_for_each(|agent| agent.process.terminate().map(drop))?;
    let mut disks = Vec::new();
    for place in &places {
        let aside = place.with_extension("aside");
        fs::rename(place, &aside)?;
        fs::create_dir(place)?;
        disks.push(Disk::mount(place, "32m")?);
        copy(&aside, place)?;
    }
    both.fleet.proxies[0].restart()?;
    both.fleet.agents.values_mut().try_for_each(|agent| agent.restart())?;
    let client = Client::of(&both.through).await?;
    let get = async |path: &str| {
        let mut connection = client.connect(Version::HTTP_11).await?;
        let answer = connection.send(Method::GET, path, "").await?;
        anyhow::Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    };
    let served = || async {
        let (status, text) = get("/api/v1/namespaces").await?;
        ensure!(status == StatusCode::OK, "{status} {text}");
        Ok(())
    };
    wait_for("the cluster", served).await.with_context(|| both.fleet.tails())?;

    for disk in &disks {
        disk.fill()?;
        // What has been begun of a page may still take a few records.
        let refused = wait_for("a refusal for want of room", || async {
            let (status, text) = get("/api/v1/namespaces/default/secrets").await?;
            ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status} {text}");
            Ok(text)
        });
        let words = ["nothing goes on unrecorded", "the disk of the audit spool is full; make room on it"];
        says(&refused.await.with_context(|| both.fleet.tails())?, &words)?;
        // Nothing gets by it, and nothing of that comes to the apiserver.
        let (status, _) = get("/api/v1/namespaces/full-disk/secrets").await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
        disk.clear()?;
        wait_for("service with room on the disk", served).await.with_context(|| both.fleet.tails())?;
    }
    let seen =
        ztka_e2e::seen_of(&both.cluster, |event| event["requestURI"].as_str().unwrap_or("").contains("full-disk"))?;
    ensure!(seen.is_empty(), "{seen:#?}");

    both.fleet.proxies[0].process.kill();
    both.fleet.agents.values_mut().for_each(|agent| agent.process.kill());
    Ok(())
}

#[tokio::test]
async fn the_command_line_says_what_to_do() -> Result<()> {
    let bench = Bench::new()?;
    let missing = bench.path("missing.toml").display().to_string();
    let text = fails("ztka", &["--credential", &missing, "whoami"])?;
    says(&text, &["cannot read the credential file", &missing, "--credential or ZTKA_CREDENTIAL"])?;

    let fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    let admin = fs::read_to_string(fleet.path("controller/admin.toml"))?;
    let credential = |name: &str, text: &str, mode: u32| -> Result<String> {
        let path = bench.write(name, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path.display().to_string())
    };
    let open = credential("open.toml", &admin, 0o644)?;
    let text = fails("ztka", &["--credential", &open, "whoami"])?;
    says(&text, &["others may read it", &format!("chmod 600 {open}")])?;

    let broken = credential("broken.toml", &admin.replace("address", "adress"), 0o600)?;
    says(&fails("ztka", &["--credential", &broken, "whoami"])?, &[&broken, "is not a credential file", "adress"])?;
    let kubeconfig = credential("kubeconfig", "apiVersion: v1\nkind: Config\n", 0o600)?;
    says(&fails("ztka", &["--credential", &kubeconfig, "whoami"])?, &[&kubeconfig, "is not a credential file"])?;

    let port = free_port()?.to_string();
    let away = credential("away.toml", &admin.replace(&fleet.front().to_string(), &port), 0o600)?;
    let text = fails("ztka", &["--credential", &away, "whoami"])?;
    says(&text, &[&port, "cannot be reached", "check the address and that it runs"])?;

    let good = credential("good.toml", &admin, 0o600)?;
    for (arguments, words) in [
        (&["--org", "nobody", "cluster", "list"][..], &["there is no organisation \"nobody\"", "ztka org list"][..]),
        (&["--org", "acme", "cluster", "token", "none"], &["there is no cluster \"none\"", "ztka cluster list"]),
        (&["--org", "acme", "cluster", "delete", "none"], &["there is no cluster \"none\"", "ztka cluster list"]),
        (&["--org", "acme", "user", "disable", "none"], &["there is no user \"none\"", "ztka user list"]),
        (&["--org", "acme", "kubeconfig", "--user", "none"], &["there is no user \"none\"", "ztka user list"]),
        (&["--org", "acme", "binding", "delete", "none"], &["none"]),
        (
            &["--org", "acme", "binding", "create", "b", "--role", "view"],
            &["say who gets the role", "--user or --group"],
        ),
        (&["--org", "acme", "binding", "create", "b", "--role", "none", "--user", "u", "--all-clusters"], &["none"]),
        (&["org", "create", "acme"], &["acme"]),
        (&["--org", "acme", "user", "create", "system:admin"], &["system:"]),
    ] {
        let all: Vec<&str> = ["--credential", &good].into_iter().chain(arguments.iter().copied()).collect();
        let text = match fails("ztka", &all) {
            Ok(text) => text,
            // What the command line itself finds wrong.
            Err(error) if error.to_string().contains("exit status: 2") => error.to_string(),
            Err(error) => return Err(error),
        };
        says(&text, words).with_context(|| arguments.join(" "))?;
    }

    // A credential of another installation.
    let other = Fleet::start().await?;
    let foreign = fs::read_to_string(other.path("controller/admin.toml"))?;
    let foreign = foreign.replace(&other.front().to_string(), &fleet.front().to_string());
    let foreign = credential("foreign.toml", &foreign, 0o600)?;
    let text = fails("ztka", &["--credential", &foreign, "whoami"])?;
    says(&text, &["no TLS connection", "check the CA bundle and your credential"])?;
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_that_leads_nowhere_says_so() -> Result<()> {
    let mut both = Both::start(Options::default()).await?;
    // The agent is away: kubectl says which cluster, and what to look at.
    both.fleet.agents.values_mut().for_each(|agent| agent.process.kill());
    let kubectl = Kubectl::new(&both.alice.kubeconfig).await?.context("dev");
    let client = Client::of(&kubectl).await?;
    wait_for("the end of the tunnel", || async {
        let mut connection = client.connect(Version::HTTP_2).await?;
        let answer = connection.send(Method::GET, "/api/v1/namespaces", "").await?;
        ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        ensure!(answer.headers.contains_key(http::header::RETRY_AFTER), "{answer:?}");
        says(&String::from_utf8_lossy(&answer.body), &["is not connected", "check that its pod runs"])
    })
    .await?;
    Ok(())
}
