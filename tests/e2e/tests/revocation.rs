//! Revocation by serial number, as an agent and as an organisation: what is open ends, what comes is refused, also after
//! a restart without any controller, and the CRLs say so to others.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use tokio::process::Command;
use ztka_e2e::{Fleet, Installation, free_port};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

async fn openssl(fleet: &Fleet, words: &str) -> Result<(bool, String)> {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(fleet.folder()).output().await?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.success(), text))
}

/// Writes the parts of the kubeconfig's certificate that openssl wants; its serial number.
async fn certificate(fleet: &Fleet, kubectl: &Kubectl, name: &str) -> Result<String> {
    let view: Value = serde_json::from_str(&kubectl.ok(["config", "view", "--raw", "-o", "json"]).await?)?;
    let decoded = |pointer: &str| -> Result<String> {
        let text = view.pointer(pointer).and_then(Value::as_str).with_context(|| pointer.to_owned())?;
        Ok(String::from_utf8(BASE64_STANDARD.decode(text)?)?)
    };
    let chain = decoded("/users/0/user/client-certificate-data")?;
    let end = "-----END CERTIFICATE-----\n";
    let (leaf, above) = chain.split_at(chain.find(end).context("no certificate")? + end.len());
    fs::write(fleet.path(&format!("{name}.leaf")), leaf)?;
    fs::write(fleet.path(&format!("{name}.issuer")), above)?;
    fs::write(fleet.path("root.pem"), decoded("/clusters/0/cluster/certificate-authority-data")?)?;
    let (_, text) = openssl(fleet, &format!("x509 -in {name}.leaf -noout -serial")).await?;
    Ok(text.trim().trim_start_matches("serial=").to_owned())
}

/// Over plain HTTP, as RFC 5280 has it.
async fn fetch(port: u16, path: &str) -> Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: crl\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no end of the head")?;
    Ok(answer.split_off(head + 4))
}

/// What openssl says of a user's certificate with the CRL that is published now by the authority that has issued it.
async fn judged(fleet: &Fleet, port: u16, name: &str) -> Result<(bool, String)> {
    let (_, issuer) = openssl(fleet, &format!("x509 -in {name}.issuer -noout -ext subjectKeyIdentifier")).await?;
    let wanted = issuer.lines().nth(1).unwrap_or_default().trim().to_owned();
    let all: Value = serde_json::from_slice(&fetch(port, "/crl").await?)?;
    for crl in all.as_array().into_iter().flatten() {
        let der = fetch(port, crl["path"].as_str().context("no path")?).await?;
        fs::write(fleet.path("crl.der"), der)?;
        openssl(fleet, "crl -inform DER -in crl.der -text -out crl.pem").await?;
        if !fs::read_to_string(fleet.path("crl.pem"))?.contains(&wanted) {
            continue;
        }
        let (_, said) = openssl(fleet, &format!("crl -in crl.pem -CAfile {name}.issuer -noout")).await?;
        ensure!(said.contains("verify OK"), "{said}");
        let above = fs::read_to_string(fleet.path(&format!("{name}.issuer")))? + &users_intermediate(fleet)?;
        fs::write(fleet.path("above.pem"), above)?;
        let verify = "verify -x509_strict -purpose sslclient -CAfile root.pem -untrusted above.pem";
        return openssl(fleet, &format!("{verify} -crl_check -CRLfile crl.pem {name}.leaf")).await;
    }
    anyhow::bail!("no CRL is of the authority {wanted}: {all}")
}

/// The intermediate of all users, which the proxy has from its trust document.
fn users_intermediate(fleet: &Fleet) -> Result<String> {
    let trust: Value = serde_json::from_slice(&fs::read(fleet.path("proxy-0/trust.json"))?)?;
    let der = trust["anchors"]["users"][0]["certificate"].as_str().context("no anchor")?;
    let lines: Vec<String> = der.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    Ok(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")))
}

async fn refused(kubectl: &Kubectl, fleet: &Fleet, what: &str) -> Result<String> {
    let refused = wait_for(what, || async {
        let output = kubectl.run(["get", "configmaps"]).await?;
        ensure!(!output.success(), "still in");
        Ok(output.stderr)
    });
    refused.await.with_context(|| fleet.tails())
}

#[tokio::test]
async fn each_kind_of_revocation_reaches_what_is_open_what_comes_and_the_crls() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let port = free_port()?;
    let wanted =
        Installation { controller_config: format!("listen_crls = '127.0.0.1:{port}'\n"), ..Default::default() };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let mut users = Vec::new();
    for name in ["alice", "bob"] {
        fleet.ztka(&["--org", "acme", "user", "create", name]).await?;
        fleet.bind("acme", name, "view", "dev").await?;
        let user = fleet.kubeconfig("acme", name).await?;
        users.push(fleet.kubectl(&user, "dev").await?);
    }
    let [alice, bob] = users.as_slice() else { anyhow::bail!("two users") };
    let watch = async |kubectl: &Kubectl| {
        let mut watch = kubectl.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
        watch.read_until("kube-root-ca.crt").await?;
        anyhow::Ok(watch)
    };
    let (serial, _) = (certificate(&fleet, alice, "alice").await?, certificate(&fleet, bob, "bob").await?);
    let listed = wait_for("the first CRLs", || async { judged(&fleet, port, "alice").await });
    let (passed, said) = listed.await.with_context(|| fleet.tails())?;
    ensure!(passed, "{said}");

    // One certificate, by its serial number as openssl prints it.
    let (mut of_alice, mut of_bob) = (watch(alice).await?, watch(bob).await?);
    fleet.ztka(&["--org", "acme", "revocation", "add", "--serial", &serial]).await?;
    of_alice.ended().await.context("a watch with a revoked certificate")?;
    refused(alice, &fleet, "the end of the certificate").await?;
    bob.ok(["get", "configmaps"]).await?;
    wait_for("the CRL", || async {
        let (passed, said) = judged(&fleet, port, "alice").await?;
        ensure!(!passed && said.contains("certificate revoked"), "{said}");
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;
    let (passed, said) = judged(&fleet, port, "bob").await?;
    ensure!(passed, "{said}");

    // It survives a restart of the proxy with no controller to ask.
    fleet.controller.kill();
    let proxy = fleet.proxies.first_mut().context("no proxy")?;
    proxy.process.kill();
    proxy.restart()?;
    let _ = of_bob.ended().await;
    wait_for("bob by the proxy alone", || async { bob.ok(["get", "configmaps"]).await }).await?;
    refused(alice, &fleet, "the revoked certificate after a restart").await?;
    fleet.restart_controller()?;
    wait_for("the controller", || async { fleet.ztka(&["whoami"]).await }).await.with_context(|| fleet.tails())?;

    // An agent: its tunnel ends with all that is in it, and it does not come back.
    let mut of_bob = watch(bob).await?;
    let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let instance = clusters.pointer("/0/instances/0/id").and_then(Value::as_str).context("no agent")?.to_owned();
    fleet.ztka(&["--org", "acme", "revocation", "add", "--instance", &instance]).await?;
    of_bob.ended().await.context("a watch through a revoked agent")?;
    refused(bob, &fleet, "the end of the agent's tunnel").await?;

    // The whole organisation: nobody of it is let in, and back.
    fleet.ztka(&["--org", "acme", "revocation", "add", "--whole-org"]).await?;
    wait_for("the end of the organisation", || async {
        let output = bob.run(["get", "configmaps"]).await?;
        ensure!(output.stderr.contains("revoked"), "{}", output.stderr);
        let (passed, said) = judged(&fleet, port, "bob").await?;
        ensure!(!passed && said.contains("certificate revoked"), "{said}");
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;
    let listed = fleet.ztka(&["revocation", "list", "--installation"]).await?;
    ensure!(listed.contains("org"), "{listed}");
    fleet.ztka(&["--org", "acme", "revocation", "restore"]).await?;
    wait_for("bob's certificate on no list", || async {
        let (passed, said) = judged(&fleet, port, "bob").await?;
        ensure!(passed, "{said}");
        let output = bob.run(["get", "configmaps"]).await?;
        ensure!(!output.stderr.contains("revoked"), "{}", output.stderr);
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;
    Ok(())
}
