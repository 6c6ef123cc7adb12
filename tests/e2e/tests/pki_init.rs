//! Certificate authorities that are made before the first start: with the root's key in a file, or with somebody else.

use std::{cell::RefCell, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use ztka_e2e::{Process, free_port, program};
use ztka_test_cluster::{wait_for, wait_for_within};

/// A data directory without a controller yet.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ztka-init-").tempdir()?;
        let site = Self { folder };
        fs::write(site.path("passphrase"), "correct horse battery staple\n")?;
        fs::set_permissions(site.path("passphrase"), fs::Permissions::from_mode(0o600))?;
        Ok(site)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn init(&self, more: &[&str]) -> Result<String> {
        let data = self.path("data");
        let mut all = vec!["pki", "init", "--data", &data, "--domain", "ztka.test"];
        all.extend(more);
        ztka(None, &all).await
    }

    /// The same, with keys in the token of this configuration.
    async fn init_in_token(&self, conf: &str, more: &[&str]) -> Result<()> {
        let data = self.path("data");
        let mut command = Command::new(program("ztka")?);
        command.args(["pki", "init", "--data", &data, "--domain", "ztka.test"]).args(more);
        let output = command.env("SOFTHSM2_CONF", conf).kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Starts the controller and gives it with the credential of its first administrator.
    async fn start(&self) -> Result<(Process, String)> {
        self.start_with("").await
    }

    /// The same, with more of a configuration file.
    async fn start_with(&self, more: &str) -> Result<(Process, String)> {
        let (listen, front) = (free_port()?, free_port()?);
        let config = self.folder.path().join("controller.toml");
        let text = format!(
            "domain = 'ztka.test'\ndata_dir = '{}'\nfront = '127.0.0.1:{listen}'\nlisten = '127.0.0.1:{listen}'\n\
             listen_passed = '127.0.0.1:{front}'\n{more}",
            self.path("data")
        );
        fs::write(&config, text)?;
        let log = config.with_extension("log");
        // Of an earlier start, at another address; a new one is written.
        let admin = self.path("data/admin.toml");
        drop(fs::remove_file(&admin));
        let arguments = ["--config".as_ref(), config.as_os_str()];
        let token = self.folder.path().join("softhsm2.conf");
        let process = RefCell::new(Process::start_with(&program("ztka-controller")?, arguments, &log, |command| {
            command.env("SOFTHSM2_CONF", token);
        })?);
        // A token makes a dozen keys, each in its own time.
        let answers = wait_for_within(Duration::from_secs(120), "the controller", || async {
            if !process.borrow_mut().is_running() {
                return Ok(None);
            }
            ensure!(Path::new(&admin).exists(), "no credential yet");
            ztka(Some(&admin), &["whoami"]).await.map(Some)
        });
        let answers = answers.await.with_context(|| process.borrow().tail())?;
        answers.with_context(|| format!("the controller has ended: {}", process.borrow().tail()))?;
        Ok((process.into_inner(), admin))
    }
}

async fn ztka(credential: Option<&str>, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program("ztka")?);
    if let Some(credential) = credential {
        command.args(["--credential", credential]);
    }
    let output = command.args(arguments).kill_on_drop(true).output().await?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "ztka {}: {stdout}{stderr}", arguments.join(" "));
    Ok(stdout.into_owned())
}

async fn openssl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(arguments).output().await?;
    ensure!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn authority(admin: &str, name: &str) -> Result<Value> {
    let pki: Value = serde_json::from_str(&ztka(Some(admin), &["--output", "json", "pki", "status"]).await?)?;
    let all = pki["authorities"].as_array().context("authorities")?;
    all.iter().find(|one| one["name"] == name).cloned().context("no such authority")
}

#[tokio::test]
async fn the_roots_key_may_go_into_a_file_and_sign_from_there() -> Result<()> {
    let site = Site::new()?;
    let (key, passphrase) = (site.path("root.key"), site.path("passphrase"));
    site.init(&["--root-key", &key, "--root-passphrase", &passphrase]).await?;
    let file = fs::read_to_string(&key)?;
    ensure!(file.contains("BEGIN ENCRYPTED PRIVATE KEY"), "PKCS#8 under a passphrase");
    ensure!(fs::metadata(&key)?.permissions().mode() & 0o777 == 0o600);
    openssl(&["pkey", "-in", &key, "-passin", &format!("file:{passphrase}"), "-noout"]).await?;
    let again = site.init(&[]).await.err().context("a second time")?;
    ensure!(again.to_string().contains("there are certificate authorities already"), "{again}");

    let (_controller, admin) = site.start().await?;
    let root = authority(&admin, "root").await?;
    ensure!(root["key_here"] == false, "{root}");
    let before = authority(&admin, "agents").await?;
    let refused = ztka(Some(&admin), &["pki", "rotate", "agents"]).await.err().context("without the root")?;
    ensure!(refused.to_string().contains("root's key is not kept here"), "{refused}");
    let rotate = ["pki", "rotate", "agents", "--root-key", &key, "--root-passphrase", &passphrase];
    ztka(Some(&admin), &rotate).await?;
    wait_for("the end of the rotation", || async {
        let now = authority(&admin, "agents").await?;
        ensure!(now["key"] != before["key"] && now["rotation"].is_null(), "{now}");
        Ok(())
    })
    .await?;
    // The request on its way to somebody who keeps the root.
    let csr = site.path("users.csr");
    ztka(Some(&admin), &["pki", "rotate", "users", "--csr", &csr]).await?;
    openssl(&["req", "-in", &csr, "-verify", "-noout"]).await?;
    let wrong = site.path("wrong");
    fs::write(&wrong, "wrong")?;
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600))?;
    let wrong = ["pki", "rotate", "users", "--root-key", &key, "--root-passphrase", &wrong];
    ensure!(ztka(Some(&admin), &wrong).await.is_err());
    ztka(Some(&admin), &["pki", "rotate", "users", "rollback"]).await?;

    // A new root, whose key goes into a file too, certified by the old one.
    let next = site.path("next.key");
    let rotate = ["pki", "rotate", "root", "publish", "--root-key", &key, "--root-passphrase", &passphrase];
    ensure!(ztka(Some(&admin), &rotate).await.is_err(), "where to?");
    ztka(Some(&admin), &[&rotate[..], &["--new-root-key", &next]].concat()).await?;
    ztka(Some(&admin), &["pki", "rotate", "root", "activate"]).await?;
    let now = authority(&admin, "root").await?;
    ensure!(now["key"] != root["key"] && now["rotation"]["other_key"] == root["key"], "{now}");
    openssl(&["pkey", "-in", &next, "-passin", &format!("file:{passphrase}"), "-noout"]).await?;
    // By its first kubeconfig, which knows the old root alone, an administrator still gets in.
    ztka(Some(&admin), &["whoami"]).await?;
    let early = ztka(Some(&admin), &["pki", "rotate", "root", "retire"]).await.err().context("it is waited for")?;
    ensure!(early.to_string().contains("still to be waited for"), "{early}");
    Ok(())
}

#[tokio::test]
async fn a_root_of_ones_own_signs_the_intermediates() -> Result<()> {
    let site = Site::new()?;
    let (requests, certificates) = (site.path("requests"), site.path("certificates"));
    site.init(&["--requests", &requests]).await?;
    let (root, key) = (site.path("corporate.pem"), site.path("corporate.key"));
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Corporate", "-days", "7000"];
    openssl(&[&make[..], &["-keyout", &key, "-out", &root]].concat()).await?;
    fs::create_dir(&certificates)?;
    let import = ["--root", root.as_str(), "--certificates", certificates.as_str()];
    ensure!(site.init(&import).await.is_err(), "there are none yet");
    for purpose in ["servers", "agents", "users", "proxies", "controllers", "signing"] {
        let (csr, pem) = (format!("{requests}/{purpose}.csr"), format!("{certificates}/{purpose}.pem"));
        let sign = ["x509", "-req", "-in", &csr, "-CA", &root, "-CAkey", &key, "-days", "6000", "-out", &pem];
        openssl(&[&sign[..], &["-copy_extensions", "copyall"]].concat()).await?;
    }
    // One that lacks what it needs is told apart, and nothing is taken over.
    let servers = format!("{certificates}/servers.pem");
    let good = fs::read_to_string(&servers)?;
    let csr = format!("{requests}/servers.csr");
    openssl(&["x509", "-req", "-in", &csr, "-CA", &root, "-CAkey", &key, "-days", "6000", "-out", &servers]).await?;
    let refused = site.init(&import).await.err().context("without extensions")?;
    ensure!(refused.to_string().contains("servers may not sign certificates"), "{refused}");
    fs::write(&servers, good)?;
    site.init(&import).await?;

    let (_controller, admin) = site.start().await?;
    ensure!(authority(&admin, "root").await?["key_here"] == false);
    let credential = fs::read_to_string(&admin)?;
    let corporate = fs::read_to_string(&root)?;
    let line = corporate.lines().nth(3).context("a certificate has more lines")?;
    ensure!(credential.contains(line), "kubeconfigs are given the root of their own");
    Ok(())
}

#[tokio::test]
async fn a_root_of_ones_own_may_come_later() -> Result<()> {
    let site = Site::new()?;
    let (_controller, admin) = site.start().await?;
    let before = authority(&admin, "root").await?;
    let (requests, certificates) = (site.path("requests"), site.path("certificates"));
    let (root, key) = (site.path("corporate.pem"), site.path("corporate.key"));
    let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7000"];
    let name = ["-subj", "/C=DE/O=Corporate/CN=Corporate Root", "-keyout", &key, "-out", &root];
    openssl(&[&make[..], &name].concat()).await?;
    ztka(Some(&admin), &["pki", "rotate", "root", "--requests", &requests]).await?;
    fs::create_dir(&certificates)?;
    for purpose in ["servers", "agents", "users", "proxies", "controllers", "signing"] {
        let (csr, pem) = (format!("{requests}/{purpose}.csr"), format!("{certificates}/{purpose}.pem"));
        let sign = ["x509", "-req", "-in", &csr, "-CA", &root, "-CAkey", &key, "-days", "6000", "-out", &pem];
        openssl(&[&sign[..], &["-copy_extensions", "copyall"]].concat()).await?;
    }
    // A token for the root of now, which activating does not harm.
    ztka(Some(&admin), &["org", "create", "acme"]).await?;
    let new = ["--new-root", root.as_str(), "--certificates", certificates.as_str()];
    let misplaced = ztka(Some(&admin), &[&["pki", "rotate", "agents", "publish"][..], &new].concat()).await;
    ensure!(misplaced.is_err_and(|error| error.to_string().contains("for the root alone")));
    ztka(Some(&admin), &[&["pki", "rotate", "root", "publish"][..], &new].concat()).await?;
    ztka(Some(&admin), &["proxy", "create"]).await?;
    ztka(Some(&admin), &["pki", "rotate", "root", "activate"]).await?;
    let now = authority(&admin, "root").await?;
    ensure!(now["key_here"] == false && now["rotation"]["other_key"] == before["key"], "{now}");
    // Who knows the old root alone gets in; the token that pins it is waited for, and named.
    ztka(Some(&admin), &["whoami"]).await?;
    let early = ztka(Some(&admin), &["pki", "rotate", "root", "retire"]).await.err().context("they are waited for")?;
    ensure!(early.to_string().contains("still to be waited for"), "{early}");
    let waiting = ztka(Some(&admin), &["pki", "status"]).await?;
    ensure!(waiting.contains("token/") && waiting.contains("enrolment token for the old root"), "{waiting}");
    Ok(())
}

#[tokio::test]
async fn the_keys_may_be_in_a_token() -> Result<()> {
    let modules = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    let Some(module) = modules.into_iter().find(|module| Path::new(module).exists()) else {
        ensure!(std::env::var("CI").as_deref() != Ok("true"), "softhsm2 is missing: apt-get install softhsm2");
        eprintln!("SKIPPED: there is no SoftHSM here (apt-get install softhsm2), so no token has been tried");
        return Ok(());
    };
    let site = Site::new()?;
    let (conf, tokens) = (site.path("softhsm2.conf"), site.path("tokens"));
    fs::create_dir(&tokens)?;
    fs::write(&conf, format!("directories.tokendir = {tokens}\n"))?;
    let mut made = Command::new("softhsm2-util");
    made.args(["--init-token", "--free", "--label", "ztka", "--so-pin", "5678", "--pin", "1234"]);
    let made = made.env("SOFTHSM2_CONF", &conf).output().await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(site.path("pin"), "1234\n")?;
    fs::set_permissions(site.path("pin"), fs::Permissions::from_mode(0o600))?;
    let token = format!("[keys.token]\nmodule = '{module}'\nlabel = 'ztka'\npin_file = '{}'\n", site.path("pin"));

    // Before the first start, with the root's key in a file and all others in the token.
    let pin = site.path("pin");
    let before = ["--token-module", module, "--token-label", "ztka", "--token-pin-file", &pin];
    let (root_key, passphrase) = (site.path("root.key"), site.path("passphrase"));
    let offline = ["--root-key", &root_key, "--root-passphrase", &passphrase];
    site.init_in_token(&conf, &[&before[..], &offline].concat()).await?;
    let (controller, admin) = site.start_with(&token).await?;
    ensure!(authority(&admin, "root").await?["key_here"] == false);
    // Not for these keys, but for what else is stored.
    ensure!(Path::new(&site.path("data/master.key")).exists(), "without it data is in clear");
    ztka(Some(&admin), &["org", "create", "acme"]).await.with_context(|| controller.tail())?;
    drop(controller);
    fs::remove_dir_all(site.path("data"))?;

    // So may the master key: it is made there with the database, and found again.
    let master = format!("module = '{module}', label = 'ztka', pin_file = '{}'", site.path("pin"));
    let master = format!("{token}[encryption]\nmaster = {{ token = {{ {master} }} }}\n");
    for again in [false, true] {
        let (controller, admin) = site.start_with(&master).await?;
        if !again {
            ztka(Some(&admin), &["org", "create", "acme"]).await.with_context(|| controller.tail())?;
        }
        ztka(Some(&admin), &["--org", "acme", "user", "create", if again { "bob" } else { "alice" }]).await?;
        let keys = ztka(Some(&admin), &["master-key", "list"]).await?;
        ensure!(keys.lines().count() == 2 && keys.contains("pkcs11:") && keys.contains("wraps"), "{keys}");
        ensure!(!Path::new(&site.path("data/master.key")).exists(), "it is in the token");
        drop(controller);
    }
    fs::remove_dir_all(site.path("data"))?;

    let (controller, admin) = site.start_with(&token).await?;
    ztka(Some(&admin), &["org", "create", "acme"]).await.with_context(|| controller.tail())?;
    // Not for these keys, but for what else is stored.
    ensure!(Path::new(&site.path("data/master.key")).exists(), "without it data is in clear");
    // The root, six purposes, and two of each of the organisations; each as a private and a public key.
    let mut listed = Command::new("pkcs11-tool");
    listed.args(["--module", module, "--login", "--pin", "1234", "--list-objects", "--type", "privkey"]);
    if let Ok(listed) = listed.env("SOFTHSM2_CONF", &conf).output().await {
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        for label in ["root", "servers", "signing"] {
            ensure!(text.contains(label), "{label} is not in the token: {text}");
        }
    }

    // It is found again, and an authority whose key is in it can be replaced.
    drop(controller);
    let (controller, admin) = site.start_with(&token).await?;
    let before = authority(&admin, "agents").await?;
    ztka(Some(&admin), &["pki", "rotate", "agents"]).await?;
    wait_for("the end of the rotation", || async {
        let now = authority(&admin, "agents").await?;
        ensure!(now["key"] != before["key"] && now["rotation"].is_null(), "{now}");
        Ok(())
    })
    .await?;
    drop(controller);

    // A token that does not open is told as such.
    fs::write(site.path("pin"), "4321\n")?;
    let mut refused = Command::new(program("ztka-controller")?);
    refused.args(["--config", &site.path("controller.toml")]).env("SOFTHSM2_CONF", &conf).kill_on_drop(true);
    let refused = tokio::time::timeout(Duration::from_secs(60), refused.output()).await??;
    let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    ensure!(!refused.status.success() && said.contains("keys.token") && said.contains("PIN"), "{said}");
    Ok(())
}
