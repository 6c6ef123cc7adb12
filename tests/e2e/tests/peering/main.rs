//! Two proxies, and an agent with one tunnel, to one of them: users of the other reach the cluster all the same; and the
//! proxy that has the tunnel believes nothing that the other one says.

#[allow(dead_code, reason = "written for another suite")]
#[path = "../lying_proxy/liar.rs"]
mod liar;
mod port_forward;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use http::{Method, Request, StatusCode, Version};
use serde_json::{Value, json};
use ztka_core::{AuditId, DocumentHeader, Evidence, Session};
use ztka_e2e::{Client, Fleet, Installation, User};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};
use ztka_tunnel::{AUDIT_ID, EVIDENCE_PATH};

use self::liar::{Liar, Link, Person, evidence};

/// The agent's tunnel is to the first proxy; users come to the second.
const OTHER: usize = 1;

struct Stage {
    cluster: Cluster,
    fleet: Fleet,
    alice: User,
    /// kubectl by the proxy without a tunnel.
    beyond: Kubectl,
}

async fn by_proxy(fleet: &Fleet, user: &User, number: usize) -> Result<Kubectl> {
    let kubeconfig = fleet.path(&format!("{}-by-proxy-{number}.kubeconfig", user.name));
    let text = fs::read_to_string(&user.kubeconfig)?;
    fs::write(&kubeconfig, text.replace(&format!(":{}", fleet.front()), &format!(":{}", fleet.proxies[number].port)))?;
    fleet.kubectl(&User { name: user.name.clone(), kubeconfig }, "dev").await
}

impl Stage {
    async fn set(options: Options) -> Result<Self> {
        Self::around(Cluster::level1(options).await?).await
    }

    async fn around(cluster: Cluster) -> Result<Self> {
        let wanted = Installation {
            proxies: 2,
            by_front: true,
            peers: true,
            agent_config: "tunnels = 1\n".into(),
            ..Installation::default()
        };
        let mut fleet = Fleet::start_with(wanted).await?;
        fleet.org("acme").await?;
        fleet.cluster("acme", "dev", &cluster, &[]).await?;
        fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
        fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
        let alice = fleet.kubeconfig("acme", "alice").await?;
        let beyond = by_proxy(&fleet, &alice, OTHER).await.with_context(|| fleet.tails())?;
        Ok(Self { cluster, fleet, alice, beyond })
    }

    fn events(&self, proxy: usize) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.fleet.events_file(proxy))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The event of one stage of the request for `uri`, of which there has to be one and no more, at `proxy`.
    async fn event(&self, proxy: usize, stage: &str, uri: &str) -> Result<Value> {
        wait_for("the record", || async {
            let of_it = |event: &Value| {
                event["stage"] == stage && event["requestURI"].as_str().is_some_and(|asked| asked.contains(uri))
            };
            let mut found: Vec<_> = self.events(proxy)?.into_iter().filter(of_it).collect();
            ensure!(found.len() == 1, "at proxy {proxy}: {found:#?}");
            found.pop().context("none")
        })
        .await
    }

    /// The port at which a proxy takes what others pass on.
    fn peers_port(&self, proxy: usize) -> Result<u16> {
        let config = fs::read_to_string(self.fleet.path(&format!("proxy-{proxy}.toml")))?;
        let table = config.split("[peers]").nth(1).context("no [peers]")?;
        let listen = table.lines().find_map(|line| line.strip_prefix("listen = '127.0.0.1:")).context("no listen")?;
        Ok(listen.trim_end_matches('\'').parse()?)
    }
}

fn fact<'a>(event: &'a Value, name: &str) -> &'a str {
    event["annotations"][format!("ztka.dev/{name}")].as_str().unwrap_or_default()
}

#[tokio::test]
async fn users_of_a_proxy_without_a_tunnel_reach_the_cluster_through_another() -> Result<()> {
    let stage = Stage::set(Options::default().nodes(1)).await?;
    let Stage { cluster, fleet, beyond, .. } = &stage;

    // Both parts of one request are on record, once each, and say of each other.
    let client = Client::of(beyond).await?;
    let mut connection = client.connect(Version::HTTP_2).await?;
    let answer = connection.send(Method::GET, "/api/v1/namespaces/default?peered", "").await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    let there = stage.event(0, "ResponseComplete", "default?peered").await?;
    let here = stage.event(OTHER, "ResponseComplete", "default?peered").await?;
    stage.event(0, "RequestReceived", "default?peered").await?;
    ensure!(there["auditID"] == here["auditID"], "{there:#}\n{here:#}");
    ensure!(answer.headers["audit-id"] == here["auditID"].as_str().context("no id")?, "{:?}", answer.headers);
    ensure!(fact(&here, "via").starts_with('p') && fact(&here, "from-proxy").is_empty(), "{here:#}");
    ensure!(fact(&there, "from-proxy").starts_with('p') && fact(&there, "via").is_empty(), "{there:#}");
    ensure!(fact(&there, "from-proxy") != fact(&here, "via"), "{there:#}\n{here:#}");
    for event in [&here, &there] {
        ensure!(fact(event, "decision") == "allow" && fact(event, "reached") == "true", "{event:#}");
        ensure!(event["user"]["username"] == "alice" && event["sourceIPs"] == json!(["127.0.0.1"]), "{event:#}");
    }
    ensure!(fact(&there, "source") == "asserted" && fact(&here, "source").is_empty(), "{there:#}");

    // What changes something, watches, exec over both protocols.
    beyond.ok(["create", "configmap", "made"]).await?;
    let mut watch = beyond.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("configmap/made").await?;
    cluster.kubectl().ok(["create", "configmap", "seen"]).await?;
    watch.read_until("configmap/seen").await.with_context(|| fleet.tails())?;
    let direct = cluster.kubectl();
    wait_for("the default account", || direct.ok(["get", "serviceaccount", "default"])).await?;
    direct.ok(["run", "web", "--image=web:1"]).await?;
    direct.ok(["wait", "pod/web", "--for=condition=Ready", "--timeout=30s"]).await?;
    for is_web_socket in ["true", "false"] {
        let kubectl = beyond.clone().env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", is_web_socket);
        let mut exec = kubectl.spawn(["exec", "--stdin", "web", "--", "cat"])?;
        for word in ["one", "two"] {
            exec.write(format!("{word}\n")).await?;
            exec.read_until(word).await.with_context(|| format!("WebSocket: {is_web_socket}\n{}", fleet.tails()))?;
        }
        exec.kill().await?;
    }

    // The end of a role ends what is open, and the next request.
    fleet.ztka(&["--org", "acme", "binding", "delete", "alice-cluster-admin-dev"]).await?;
    watch.ended().await.context("a watch that is not permitted any more")?;
    wait_for("the end of the permission", || async {
        let output = beyond.run(["get", "configmaps"]).await?;
        ensure!(output.stderr.contains("Forbidden"), "{}{}", output.stdout, output.stderr);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_proxy_with_the_tunnel_goes_and_comes_back() -> Result<()> {
    let mut stage = Stage::set(Options::default()).await?;
    stage.fleet.proxies[0].process.kill();
    // The agent finds the other one, which the directory names.
    wait_for("an answer without it", || stage.beyond.ok(["get", "namespaces", "-o", "name"])).await?;
    stage.fleet.proxies[0].restart()?;
    let front = by_proxy(&stage.fleet, &stage.alice, 0).await.with_context(|| stage.fleet.tails())?;
    wait_for("an answer by the one that came back", || front.ok(["get", "namespaces", "-o", "name"]))
        .await
        .with_context(|| stage.fleet.tails())?;
    Ok(())
}

/// A request as an honest proxy passes it on.
fn honest(path: &str, shown: &Evidence, policy: &str) -> http::request::Builder {
    Request::get(path)
        .header(&AUDIT_ID, AuditId::generate().to_string())
        .header(&ztka_core::POLICY, policy)
        .header(&ztka_core::EVIDENCE, shown.id().as_str())
}

async fn show(link: &Link, shown: &Evidence) -> Result<liar::Answer> {
    let request = Request::post(EVIDENCE_PATH).header(&ztka_core::EVIDENCE, shown.id().as_str()).body(())?;
    link.say("proxy", request, shown.bytes().clone()).await
}

#[tokio::test]
async fn a_proxy_that_lies_to_another_gets_nothing_from_it() -> Result<()> {
    let stage = Stage::set(Options::default()).await?;
    let Stage { cluster, fleet, .. } = &stage;
    let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let id = clusters[0]["id"].as_str().context("no id")?.to_owned();
    let liar = Liar::join(fleet, false).await?;
    let alice = liar.person(&stage.alice).await?;
    let person = async |name: &str, role: Option<&str>| -> Result<Person> {
        fleet.ztka(&["--org", "acme", "user", "create", name]).await?;
        if let Some(role) = role {
            fleet.bind("acme", name, role, "dev").await?;
        }
        liar.person(&fleet.kubeconfig("acme", name).await?).await
    };
    let (victor, nora) = (person("victor", Some("view")).await?, person("nora", None).await?);
    let policy = liar.policy(&alice.org)?.header().revision.to_string();
    let path = |what: &str| format!("/api/v1/namespaces/{what}/configmaps");

    // Without a proxy's certificate there is no link.
    ensure!(liar.link(stage.peers_port(0)?, false).await.is_err(), "a link without a certificate");
    let link = liar.link(stage.peers_port(0)?, true).await?;

    // Evidence has to be shown first, and to be that which is named.
    let shown = victor.evidence()?;
    let ask = async |who: &Evidence, what: &str| -> Result<liar::Answer> {
        link.say(&id, honest(&path(what), who, &policy).body(())?, "").await
    };
    let unknown = ask(&shown, "lie-unknown").await?;
    ensure!(unknown.code == StatusCode::UNAUTHORIZED && unknown.asks_for_evidence, "{unknown:?}");
    ensure!(show(&link, &shown).await?.code == StatusCode::NO_CONTENT, "victor's evidence");
    wait_for("an honest request", || async {
        let answer = ask(&shown, "honest").await?;
        ensure!(answer.code == StatusCode::OK, "{answer:?}");
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;

    // A session that the controller never signed, another's, and none.
    let mut session: Session = victor.session.body()?;
    session.name = "alice".parse()?;
    let header = DocumentHeader { issued: jiff::Timestamp::now(), ..victor.session.header().clone() };
    let forged = liar.forged(header, &serde_json::to_value(&session)?, None)?;
    for lie in [
        evidence(&victor.chain, &forged)?,
        evidence(&victor.chain, &alice.session.to_wire())?,
        evidence(&[], &alice.session.to_wire())?,
        Evidence::new("{}"),
    ] {
        let answer = show(&link, &lie).await?;
        ensure!(answer.code == StatusCode::UNAUTHORIZED, "{answer:?}");
        let answer = ask(&lie, "lie-forged").await?;
        ensure!(answer.code == StatusCode::UNAUTHORIZED, "{answer:?}");
    }

    // Its own check left out: the other proxy decides, and records it.
    ensure!(show(&link, &nora.evidence()?).await?.code == StatusCode::NO_CONTENT, "nora's evidence");
    let denied = ask(&nora.evidence()?, "lie-denied").await?;
    ensure!(denied.code == StatusCode::FORBIDDEN && denied.message.contains(r#""nora""#), "{denied:?}");
    let event = stage.event(0, "ResponseComplete", "lie-denied").await?;
    ensure!(fact(&event, "decision") == "deny" && fact(&event, "from-proxy") == liar.id.as_str(), "{event:#}");
    ensure!(fact(&event, "reached").is_empty(), "{event:#}");

    // Without a record, without a policy, as somebody else, for a cluster that is nobody's here.
    let whole = || honest(&path("lie-incomplete"), &shown, &policy);
    for missing in [&AUDIT_ID, &ztka_core::POLICY] {
        let mut request = whole().body(())?;
        request.headers_mut().remove(missing);
        let answer = link.say(&id, request, "").await?;
        ensure!(answer.code == StatusCode::UNAUTHORIZED, "{missing}: {answer:?}");
    }
    let answer = link.say(&id, whole().header("impersonate-user", "system:admin").body(())?, "").await?;
    ensure!(answer.code == StatusCode::FORBIDDEN, "{answer:?}");
    let answer = link.say("nobodys", whole().body(())?, "").await?;
    ensure!(answer.code == StatusCode::MISDIRECTED_REQUEST, "{answer:?}");

    // What is passed on to a proxy without a tunnel ends there, although that one knows who has it.
    let further = liar.link(stage.peers_port(OTHER)?, true).await?;
    ensure!(show(&further, &shown).await?.code == StatusCode::NO_CONTENT, "victor's evidence");
    let answer = further.say(&id, honest(&path("lie-further"), &shown, &policy).body(())?, "").await?;
    ensure!(answer.code == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    ensure!(answer.tunnel.as_deref() == Some("none"), "{answer:?}");

    // A user who was disabled, whose evidence is held.
    fleet.ztka(&["--org", "acme", "user", "disable", "victor"]).await?;
    wait_for("the end of victor", || async {
        let answer = ask(&shown, "honest").await?;
        ensure!(answer.code == StatusCode::UNAUTHORIZED, "{answer:?}");
        Ok(())
    })
    .await?;
    ensure!(show(&link, &shown).await?.code == StatusCode::UNAUTHORIZED, "shown again");
    ensure!(ask(&shown, "lie-disabled").await?.code == StatusCode::UNAUTHORIZED, "asked again");

    let lie = cluster
        .audit_events()?
        .into_iter()
        .find(|event| event["requestURI"].as_str().is_some_and(|uri| uri.contains("/lie-")));
    ensure!(lie.is_none(), "{lie:#?}");
    // A proxy that is revoked has no link any more.
    fleet.ztka(&["revocation", "add", "proxy", liar.id.as_str()]).await.ok();
    Ok(())
}
