//! What is refused says so in kubectl's usual words, is on record, and never reaches the apiserver.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use ztka_e2e::{Both, Fleet, Raw, seen_of};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for, wait_for_within};

/// The newest events of the organisation.
async fn events(fleet: &Fleet) -> Result<Vec<Value>> {
    let text = fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "-n", "500"]).await?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Waits for an event in `ztka audit tail`.
async fn on_record(fleet: &Fleet, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for(&format!("the event of {what}"), || async {
        let events = events(fleet).await?;
        let seen = events.iter().map(|event| format!("{} {}\n", event["responseStatus"]["code"], uri(event)));
        let found = events.iter().find(|event| is(event)).cloned();
        found.with_context(|| format!("it is not among\n{}", seen.collect::<String>()))
    })
    .await
}

fn uri(event: &Value) -> &str {
    event["requestURI"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_denied_request_says_why_and_goes_no_further() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"web","image":"web"}]}}"#;
    both.direct.apply(pod).await?;
    let running = r#"{"status":{"phase":"Running"}}"#; // kubectl does not even try port-forward else
    both.direct.ok(["patch", "pod", "web", "--subresource=status", "-p", running]).await?;
    both.direct.ok(["create", "deployment", "app", "--image=app", "--replicas=0"]).await?;
    both.direct.ok(["create", "secret", "generic", "mine", "--from-literal=password=hidden"]).await?;
    let (_, viewer) = both.colleague("victor", "view").await?;
    for words in ["get pods", "get configmaps -A", "get events", "describe pod web", "get namespaces"] {
        viewer.ok(words.split(' ')).await?;
    }

    let denied = viewer.run(["get", "secrets"]).await?;
    assert_eq!(denied.code, Some(1));
    let line = denied.stderr.lines().last().unwrap_or_default();
    let usual = r#"Error from server (Forbidden): secrets is forbidden: User "victor" cannot list resource "secrets" in API group "" in the namespace "default": "#;
    let reason = line.strip_prefix(usual).with_context(|| line.to_owned())?;
    assert!(reason.contains("no role of victor on cluster dev gives this"), "{reason}");
    let event = on_record(&both.fleet, "the denied list", |event| {
        let of_list = event["objectRef"]["resource"] == "secrets" && event["verb"] == "list";
        event["user"]["username"] == "victor" && of_list && event["stage"] == "ResponseComplete"
    });
    let event = event.await?;
    assert_eq!(event["annotations"]["ztka.dev/decision"], "deny", "{event}");
    assert_eq!(event["responseStatus"]["code"], 403, "{event}");
    let tail = both.fleet.ztka(&["--org", "acme", "audit", "tail", "--decision", "deny", "--user", "victor"]).await?;
    assert!(tail.contains("victor") && tail.contains("/api/v1/namespaces/default/secrets"), "{tail}");

    let csr = r#"{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"x"},"spec":{"request":"eA==","signerName":"a.b/c","usages":["client auth"]}}"#;
    for (words, input) in [
        ("get secret mine", ""),
        ("get secrets --watch", ""),
        ("get --raw /api/v1/watch/namespaces/default/secrets", ""),
        ("get --raw /api/v1/secrets?watch=true", ""),
        ("get --raw /api/v1/namespaces/default/secrets?limit=1", ""),
        ("exec web -- id", ""),
        ("attach web", ""),
        ("port-forward pod/web 0:80", ""),
        ("cp web:/etc/passwd /dev/null", ""),
        ("debug web --image=busybox", ""),
        ("get --raw /api/v1/namespaces/default/pods/web/proxy/", ""),
        ("get --raw /api/v1/namespaces/default/services/web/proxy/", ""),
        ("get --raw /api/v1/nodes/node-0/proxy/logs/", ""),
        ("get --raw /debug/pprof/", ""),
        ("get --raw /logs/", ""),
        ("create token default", ""),
        ("create -f - --validate=false", csr),
        ("apply -f - --validate=false", &pod.replace("web", "own")),
        ("create clusterrolebinding me --clusterrole=cluster-admin --user=victor", ""),
        ("create clusterrole me --verb=* --resource=*", ""),
        ("delete pod web", ""),
        ("scale deployment app --replicas=1", ""),
        ("label namespace default a=b", ""),
        ("get configmaps --as=alice", ""),
        ("get configmaps --as=system:admin --as-group=system:masters", ""),
    ] {
        let words: Vec<_> = words.split(' ').collect();
        let output = viewer.run_with_input(&words, input).await?;
        assert_ne!(output.code, Some(0), "{words:?}: {}", output.stdout);
        let said = output.stderr.to_ascii_lowercase();
        assert!(said.contains("forbidden") && said.contains("victor"), "{words:?}: {}", output.stderr);
    }

    // By its own log the apiserver saw nothing of it: only what view gives, and of nobody but the account.
    let agent = "system:serviceaccount:ztka-system:ztka-agent";
    let seen = seen_of(&both.cluster, |event| {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        // The agent asks with a new account's token whether its roles count already.
        let by_agent = user == agent || event["objectRef"]["resource"] == "selfsubjectaccessreviews";
        user.starts_with("system:serviceaccount:ztka-system:") && !by_agent
    })?;
    assert!(!seen.is_empty());
    for event in seen {
        let what = event["objectRef"]["resource"].as_str().unwrap_or_default();
        assert!(matches!(event["verb"].as_str(), Some("get" | "list" | "watch")), "{event}");
        assert!(what != "secrets" && event["objectRef"]["subresource"].is_null(), "{event}");
        assert!(event.get("impersonatedUser").is_none(), "{event}");
    }
    Ok(())
}

#[tokio::test]
async fn the_malformed_and_the_smuggled_is_refused_and_on_record() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let raw = Raw::of(&both.through).await?;
    both.direct.ok(["create", "configmap", "plain", "--from-literal=key=value"]).await?;

    for target in [
        "/api/v1/namespaces//secrets",
        "/api/v1/namespaces/default%2fsecrets",
        "/api/v1/namespaces/default/../kube-system/secrets",
        "/api/v1/namespaces/default/pods/./web",
        "/api/v1/namespaces/default/pods?watch=1&watch=0",
        "/api/v1/namespaces/default/pods?a=1;watch=1",
        "/api/v1/namespaces/default/pods?a=%zz",
        "/api/v1/namespaces/default/pods%00",
    ] {
        let said = raw.get(target, "").await?;
        assert_eq!(said.code, 400, "{target}: {}", said.text);
        assert!(
            said.text.contains(r#""kind":"Status""#) && said.text.contains(r#""reason":"BadRequest""#),
            "{}",
            said.text
        );
        on_record(&both.fleet, target, |event| uri(event) == target && event["responseStatus"]["code"] == 400).await?;
    }

    // Framing that two readers could read differently; nothing behind it is served.
    let (host, target) = (raw.server_name(), "/api/v1/namespaces/default/configmaps/plain");
    let smuggled = "GET /api/v1/namespaces/default/configmaps/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Content-Length: 4\r\nContent-Length: 5\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "X-A: b\r\n folded: yes\r\n".to_owned(),
        "X-A : b\r\n".to_owned(),
        "X-A: b\n".to_owned(),
    ] {
        let said =
            raw.send(format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n0\r\n\r\n{smuggled}")).await?;
        assert_eq!(said.code, 400, "{lines:?}: {}", said.text);
        assert_eq!(said.text.matches("HTTP/1.1 ").count(), 1, "{lines:?}: {}", said.text);
    }

    // Headers that would say who asks. What an identity would be made of is dropped; asking to be somebody is refused.
    for (number, lines) in [
        "X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\nx-remote-extra-a: b\r\n",
        "Authorization: Bearer abc\r\n",
        "authorization: Basic YTpi\r\nCookie: a=b\r\n",
        "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-Client-Cert: x\r\n",
        "Connection: close, X-Remote-User, Authorization\r\nX-Remote-User: admin\r\n",
        "Connection: close, Audit-ID, Host, Accept\r\n",
        "Audit-ID: 11111111-1111-1111-1111-111111111111\r\n",
        "ztka-evidence: x\r\nztka-policy: 1\r\nztka-source: 1.2.3.4\r\nztka-method: DELETE\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let said = raw.get(&format!("{target}?number={number}"), lines).await?;
        assert_eq!(said.code, 200, "{lines:?}: {}", said.text);
    }
    for lines in [
        "Impersonate-User: kubernetes-admin\r\n",
        "impersonate-user: \r\n",
        "Impersonate-Group: system:masters\r\n",
        "Impersonate-Uid: 1\r\n",
        "Impersonate-Extra-Scopes: x\r\n",
        "Connection: close, Impersonate-User\r\nImpersonate-User: kubernetes-admin\r\n",
    ] {
        let said = raw.get(&format!("{target}?impersonated"), lines).await?;
        assert_eq!(said.code, 403, "{lines:?}: {}", said.text);
    }
    for headers in [[("impersonate-user", "kubernetes-admin")], [("impersonate-group", "system:masters")]] {
        let said = raw.get_h2(raw.server_name(), &format!("{target}?impersonated"), &headers).await?;
        assert_eq!(said.code, 403, "{headers:?}: {}", said.text);
    }
    let said = raw.get_h2(raw.server_name(), &format!("{target}?number=8"), &[("x-remote-user", "admin")]).await?;
    assert_eq!(said.code, 200, "{}", said.text);
    // Trailers carry no identity either.
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"trailed"}}"#;
    let said = raw
        .send(format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nTE: trailers\r\nTrailer: Impersonate-User\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nImpersonate-User: kubernetes-admin\r\n\r\n",
            body.len(),
        ))
        .await?;
    assert_eq!(said.code, 201, "{}", said.text);
    let made = seen_of(&both.cluster, |event| event["objectRef"]["name"] == "trailed" && event["verb"] == "create")?;
    assert!(!made.is_empty());
    for event in made {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        assert!(user.starts_with("system:serviceaccount:ztka-system:u"), "{event}");
        assert!(event.get("impersonatedUser").is_none(), "{event}");
    }
    let token = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.c2VjcmV0LXRva2Vu, v4.channel.k8s.io\r\n";
    let said = raw.get("/api/v1/namespaces/default/pods/web/exec?command=id&stdout=true", token).await?;
    assert!((400..500).contains(&said.code), "{}", said.text);
    let written = fs::read_to_string(both.fleet.events_file(0))?;
    assert!(!written.contains("c2VjcmV0LXRva2Vu"));

    let of_this = |event: &Value| uri(event).starts_with(target);
    let seen = seen_of(&both.cluster, |event| of_this(event) && event["user"]["username"] != "kubernetes-admin")?;
    assert_eq!(seen.iter().filter(|event| event["stage"] == "ResponseComplete").count(), 9, "{seen:#?}");
    let account = &seen.first().context("nothing was seen")?["user"]["username"];
    assert!(account.as_str().is_some_and(|name| name.starts_with("system:serviceaccount:ztka-system:")), "{account}");
    for event in &seen {
        assert_eq!(event["user"]["username"], *account);
        assert_eq!(event["verb"], "get");
        assert!(event.get("impersonatedUser").is_none(), "{event}");
        assert_ne!(event["auditID"], "11111111-1111-1111-1111-111111111111");
    }
    assert!(seen_of(&both.cluster, |event| uri(event).contains("smuggled"))?.is_empty());
    Ok(())
}

/// What kubectl says with another kubeconfig that differs from the user's by `change`.
async fn with(both: &Both, name: &str, change: impl FnOnce(&mut Value)) -> Result<Kubectl> {
    let text = both.through.ok(["config", "view", "--raw", "--minify", "-o", "json"]).await?;
    let mut config: Value = serde_json::from_str(&text)?;
    change(&mut config);
    let path = both.fleet.path(&format!("{name}.kubeconfig"));
    fs::write(&path, config.to_string())?;
    Kubectl::new(path).await
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_by_kubectl() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let raw = Raw::of(&both.through).await?;
    let middle = both.cluster.authority().server("middle", &[raw.server_name().to_owned(), "127.0.0.1".to_owned()])?;
    let chain = CertificateDer::pem_slice_iter(middle.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(middle.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let middle = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    let kubectl = with(&both, "middle", |config| {
        config["clusters"][0]["cluster"]["server"] = format!("https://127.0.0.1:{port}").into();
    });
    let output = kubectl.await?.run(["get", "pods"]).await?;
    assert!(output.stderr.contains("x509: certificate signed by unknown authority"), "{}", output.stderr);
    middle.abort();
    Ok(())
}

#[tokio::test]
async fn certificates_and_sessions_that_do_not_count() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let raw = Raw::of(&both.through).await?;

    // The shortest certificate there is; it has expired by the end of this test.
    let short = both.fleet.path("short.kubeconfig");
    let file = short.to_str().context("a path that is not UTF-8")?;
    both.fleet.ztka(&["--org", "acme", "kubeconfig", "--user", "alice", "--life", "30s", "--file", file]).await?;
    let short = Kubectl::new(&short).await?.context("dev");
    wait_for("the new credential's session", || async { short.ok(["get", "--raw", "/version"]).await }).await?;

    // Of another authority, and of another purpose: the handshake ends with an alert.
    let stranger = both.cluster.authority().client("alice", &["system:masters"])?;
    let unknown = raw.presenting(stranger.certificate, stranger.key);
    let error = unknown.get("/api", "").await.err().context("a stranger was let in")?;
    assert!(format!("{error:#}").contains("alert"), "{error:#}");
    let kept: Value = serde_json::from_slice(&fs::read(both.fleet.path("proxy-0/server.json"))?)?;
    let text = |name: &str| kept[name].as_str().map(|text| text.as_bytes().to_vec()).context("server.json");
    let server = raw.presenting(text("chain")?, text("key")?);
    let error = server.get("/api", "").await.err().context("a server's certificate was let in")?;
    assert!(format!("{error:#}").contains("alert"), "{error:#}");
    let tunnel = raw.named("tunnel.ztka.test");
    let error = tunnel.get("/api", "").await.err().context("a user's certificate opened a tunnel")?;
    assert!(format!("{error:#}").contains("alert") || format!("{error:#}").contains("certificate"), "{error:#}");

    // None at all: 401 that says what to do, in kubectl too.
    let none = raw.anonymous().get("/api", "").await?;
    assert_eq!(none.code, 401);
    assert!(none.text.contains("no client certificate was presented"), "{}", none.text);
    // Without any credential kubectl asks for a name and password first; a token counts for nothing here.
    let kubectl =
        with(&both, "none", |config| config["users"][0]["user"] = serde_json::json!({ "token": "x" })).await?;
    let output = kubectl.run(["get", "pods"]).await?;
    assert!(output.stderr.contains("no client certificate was presented"), "{}", output.stderr);

    // Disabled: what runs ends, and what comes is told to log in. The other user goes on.
    let (_, bob) = both.colleague("bob", "view").await?;
    let mut watch = bob.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("configmap/kube-root-ca.crt").await?;
    let mut other = both.through.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    other.read_until("configmap/kube-root-ca.crt").await?;
    both.fleet.ztka(&["--org", "acme", "user", "disable", "bob"]).await?;
    watch.ended().await?;
    let output = bob.run(["get", "configmaps"]).await?;
    assert!(output.stderr.contains("You must be logged in to the server"), "{}", output.stderr);
    assert!(output.stderr.contains("disabled") && output.stderr.contains("log in again"), "{}", output.stderr);
    both.direct.ok(["create", "configmap", "later"]).await?;
    other.read_until("configmap/later").await?;
    // His certificate was verified, so the event is his organisation's, by his id.
    wait_for("the event of the refusal", || async {
        let tail = ["--org", "acme", "--output", "json", "audit", "tail", "--decision", "deny", "-n", "1000"];
        let text = both.fleet.ztka(&tail).await?;
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        ensure!(events.any(|event| event["responseStatus"]["code"] == 401 && uri(&event).contains("/configmaps")));
        Ok(())
    })
    .await?;

    // Enabled again, the old credential's session stays ended.
    both.fleet.ztka(&["--org", "acme", "user", "enable", "bob"]).await?;
    let old = both.fleet.path("old.kubeconfig");
    fs::copy(bob.kubeconfig(), &old)?;
    let old = Kubectl::new(old).await?.context("dev");
    let fresh = both.fleet.kubeconfig("acme", "bob").await?;
    let renewed = both.fleet.kubectl(&fresh, "dev").await?;
    renewed.ok(["get", "configmaps"]).await?;
    let output = old.run(["get", "configmaps"]).await?;
    assert!(output.stderr.contains("You must be logged in to the server"), "{}", output.stderr);
    assert!(output.stderr.contains("log in again"), "{}", output.stderr);

    wait_for_within(Duration::from_secs(60), "the certificate to expire", || async {
        let output = short.run(["get", "--raw", "/version"]).await?;
        ensure!(output.stderr.contains("tls: expired certificate"), "{}{}", output.stdout, output.stderr);
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_role_that_is_taken_away_counts_no_more() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let (_, viewer) = both.colleague("victor", "view").await?;
    let mut watch = viewer.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("configmap/kube-root-ca.crt").await?;
    both.fleet.ztka(&["--org", "acme", "binding", "delete", "victor-view-dev"]).await?;
    watch.ended().await?;
    let denied = viewer.run(["get", "configmaps"]).await?;
    assert!(denied.stderr.contains(r#"User "victor" cannot list resource "configmaps""#), "{}", denied.stderr);

    // Given again, in one namespace only: nothing beyond it.
    let create = ["--org", "acme", "binding", "create", "narrow", "--role", "view", "--user", "victor"];
    both.fleet.ztka(&[&create[..], &["--cluster", "dev", "--namespace", "default"]].concat()).await?;
    wait_for("the narrow role", || async { viewer.ok(["get", "configmaps"]).await }).await?;
    for words in ["get configmaps -A", "get configmaps -n kube-system", "get nodes"] {
        let denied = viewer.run(words.split(' ')).await?;
        assert!(denied.stderr.contains("Forbidden"), "{words}: {}{}", denied.stdout, denied.stderr);
    }
    let lists = seen_of(&both.cluster, |event| {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let beyond = event["objectRef"]["namespace"] == "kube-system" || event["objectRef"]["resource"] == "nodes";
        user.starts_with("system:serviceaccount:ztka-system:u") && beyond
    })?;
    assert!(lists.is_empty(), "{lists:#?}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_away_says_so() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut both = Both::around(cluster).await?;
    let key = ("acme".to_owned(), "dev".to_owned());
    both.fleet.agents.get_mut(&key).context("no agent")?.process.kill();
    let raw = Raw::of(&both.through).await?;
    wait_for("the tunnel to be gone", || async {
        let said = raw.get("/version", "").await?;
        ensure!(said.code == 503, "{}", said.text);
        let text = said.text.to_ascii_lowercase();
        ensure!(text.contains("retry-after:") && text.contains(r#""reason":"serviceunavailable""#), "{}", said.text);
        Ok(())
    })
    .await?;
    both.fleet.agents.get_mut(&key).context("no agent")?.restart()?;
    wait_for("the agent to be back", || async { both.through.ok(["get", "namespaces"]).await }).await?;
    Ok(())
}
