//! A proxy that lies gets nothing from the agent: not by leaving out its own check, not by inventing, changing or
//! replaying what the controller has signed, not with other people's certificates; and each try is in the agent's
//! receipts.

#[allow(dead_code, reason = "the test of links between proxies uses the rest")]
mod liar;
mod projections;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use http::{HeaderName, Request, StatusCode};
use serde_json::{Value, json};
use ztka_audit::Receipt;
use ztka_core::{AuditId, ClusterId, DocumentHeader, Evidence, OrgId, Principal, Revision, Session, SignedDocument};
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Options, wait_for};
use ztka_tunnel::{AUDIT_ID, DOCUMENTS_PATH, EVIDENCE_PATH};

use self::liar::{Answer, Liar, Person, altered, evidence, key_of};

struct Stage {
    cluster: Cluster,
    fleet: Fleet,
    /// Uses the library's tunnel, and its permits.
    liar: Liar,
    /// Writes its tunnel by hand.
    by_hand: Liar,
    alice: Person,
    org: OrgId,
    id: ClusterId,
    receipts: PathBuf,
}

impl Stage {
    /// A cluster with a real agent, which has tunnels to an honest proxy and to two that lie.
    async fn set() -> Result<Self> {
        let cluster = Cluster::level1(Options::default()).await?;
        let mut fleet = Fleet::start().await?;
        fleet.org("acme").await?;
        fleet.cluster("acme", "dev", &cluster, &["env=dev"]).await?;
        let (liar, by_hand) = (Liar::join(&fleet, false).await?, Liar::join(&fleet, true).await?);
        dial_as_well(&mut fleet, &[liar.port, by_hand.port])?;

        fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
        fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
        let alice = liar.person(&fleet.kubeconfig("acme", "alice").await?).await?;
        let (org, id) = (alice.org.clone(), cluster_id(&fleet).await?);
        liar.connected(&org, &id).await.with_context(|| fleet.tails())?;
        by_hand.connected(&org, &id).await.with_context(|| fleet.tails())?;
        let receipts = fleet.path("agent-acme-dev").join("receipts");
        let stage = Self { cluster, fleet, liar, by_hand, alice, org, id, receipts };

        // Whoever does not lie is served on such a tunnel.
        let honest = wait_for("an honest request", || async {
            let answer = stage.ask(&stage.alice, "honest").await?.1;
            ensure!(answer.code == StatusCode::OK, "{answer:?}");
            Ok(())
        });
        honest.await?;
        Ok(stage)
    }

    async fn person(&self, org: &str, name: &str, role: Option<&str>) -> Result<Person> {
        self.fleet.ztka(&["--org", org, "user", "create", name]).await?;
        if let Some(role) = role {
            self.fleet.bind(org, name, role, "dev").await?;
        }
        self.liar.person(&self.fleet.kubeconfig(org, name).await?).await
    }

    fn policy(&self) -> Result<Revision> {
        Ok(self.liar.policy(&self.org)?.header().revision)
    }

    /// Asks for what only a `lie` (or `honest`) asks for: the ConfigMaps of a namespace of that name.
    async fn send(&self, who: Principal, evidence: Evidence, lie: &str) -> Result<(AuditId, Answer)> {
        let (id, policy) = (AuditId::generate(), self.policy()?);
        let answer = self.liar.send(id, &self.id, (who, evidence), policy, &path(lie)).await?;
        Ok((id, answer))
    }

    async fn ask(&self, who: &Person, lie: &str) -> Result<(AuditId, Answer)> {
        self.send(who.principal()?, who.evidence()?, lie).await
    }

    /// Waits until the agent has heard of what makes it say so.
    async fn ask_until(&self, who: &Person, code: StatusCode) -> Result<()> {
        wait_for("the agent to hear of it", || async {
            let answer = self.ask(who, "honest").await?.1;
            ensure!(answer.code == code, "{answer:?}");
            Ok(())
        })
        .await
    }

    /// The receipt of a refusal that `is` true of, with the proxy's name in the reason or not.
    async fn receipt(&self, is: impl Fn(&Receipt) -> bool) -> Result<Receipt> {
        wait_for("the receipt of the refusal", || async {
            let all = ztka_audit::read(&self.receipts).filter_map(Result::ok);
            let all: Vec<_> = all.filter_map(|record| Receipt::from_json(record.payload.as_bytes()).ok()).collect();
            let found = all.iter().find(|receipt| receipt.decision == "deny" && is(receipt)).cloned();
            found.with_context(|| format!("not among {:#?}", &all[all.len().saturating_sub(4)..]))
        })
        .await
    }

    /// A request that the agent took on record and then refused by its own policy.
    async fn denied(&self, (id, answer): (AuditId, Answer), text: &str) -> Result<()> {
        ensure!(answer.code == StatusCode::FORBIDDEN && answer.message.contains(text), "{answer:?}");
        let receipt = self.receipt(|receipt| receipt.audit_id == id && !receipt.reason.is_empty()).await?;
        ensure!(receipt.code == Some(403) && receipt.cluster == self.id.as_str(), "{receipt:?}");
        Ok(())
    }

    /// Evidence that the agent refused, with `code`; the receipt says which proxy has shown it.
    async fn disbelieved(&self, (_, answer): (AuditId, Answer), code: u16, text: &str) -> Result<()> {
        ensure!(answer.code.as_u16() == code && answer.message.contains(text), "{answer:?}");
        let receipt = self.receipt(|receipt| receipt.path == EVIDENCE_PATH && receipt.reason.contains(text)).await?;
        ensure!(receipt.code == Some(code), "{receipt:?}");
        ensure!(code != 401 || receipt.reason.contains(self.liar.id.as_str()), "{receipt:?}");
        Ok(())
    }

    /// Nothing that was a lie has come to the apiserver, and what was none has.
    fn nothing_arrived(&self) -> Result<()> {
        let events = self.cluster.audit_events()?;
        let uri = |event: &Value| event["requestURI"].as_str().unwrap_or_default().to_owned();
        ensure!(events.iter().any(|event| uri(event) == path("honest")), "the honest request is not in the audit log");
        let lie = events.iter().find(|event| uri(event).contains("/lie-"));
        ensure!(lie.is_none(), "{lie:#?}");
        Ok(())
    }
}

fn version(header: &DocumentHeader) -> String {
    format!(r#""version":{}"#, header.revision.version)
}

fn path(lie: &str) -> String {
    format!("/api/v1/namespaces/{lie}/configmaps")
}

async fn cluster_id(fleet: &Fleet) -> Result<ClusterId> {
    let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let cluster = clusters.as_array().into_iter().flatten().find(|cluster| cluster["name"] == "dev");
    Ok(cluster.context("no cluster")?["id"].as_str().context("no id")?.parse()?)
}

/// The owner of the cluster adds proxies to the agent's configuration.
fn dial_as_well(fleet: &mut Fleet, ports: &[u16]) -> Result<()> {
    let config = fleet.path("agent-acme-dev.toml");
    let more: String = ports.iter().map(|port| format!(", '127.0.0.1:{port}']")).collect();
    let more = more.replace("],", ",");
    let text = std::fs::read_to_string(&config)?;
    let proxies = text.lines().find(|line| line.starts_with("proxies = [")).context("proxies")?.to_owned();
    let text = text.replace(&proxies, &format!("{}{more}", proxies.trim_end_matches(']')));
    std::fs::write(&config, text)?;
    let agent = fleet.agents.get_mut(&("acme".into(), "dev".into())).context("no agent")?;
    agent.process.kill();
    agent.restart()
}

#[tokio::test]
async fn what_a_proxy_permits_is_decided_again_by_the_newest_policy() -> Result<()> {
    let stage = Stage::set().await?;

    // It leaves out its own check.
    let victor = stage.person("acme", "victor", Some("view")).await?;
    let nora = stage.person("acme", "nora", None).await?;
    stage.ask_until(&victor, StatusCode::OK).await?;
    stage.denied(stage.ask(&nora, "lie-nobody").await?, r#"User "nora" cannot list resource "configmaps""#).await?;
    let (id, policy) = (AuditId::generate(), stage.policy()?);
    let secrets = "/api/v1/namespaces/lie-secrets/secrets";
    let asked = stage.liar.send(id, &stage.id, (victor.principal()?, victor.evidence()?), policy, secrets).await?;
    stage.denied((id, asked), r#"User "victor" cannot list resource "secrets""#).await?;

    // It says that it is alice who asks, with the evidence of another.
    stage.denied(stage.send(stage.alice.principal()?, nora.evidence()?, "lie-claimed").await?, r#""nora""#).await?;

    // A user of the organisation, who may use another cluster and not this one.
    stage.fleet.ztka(&["--org", "acme", "cluster", "create", "prod"]).await?;
    stage.fleet.ztka(&["--org", "acme", "user", "create", "paul"]).await?;
    stage.fleet.bind("acme", "paul", "cluster-admin", "prod").await?;
    let paul = stage.liar.person(&stage.fleet.kubeconfig("acme", "paul").await?).await?;
    stage.denied(stage.ask(&paul, "lie-cluster").await?, r#"User "paul" cannot list"#).await?;

    // It keeps the policy of yesterday, names it, and hands it to the agent again.
    let old = stage.liar.policy(&stage.org)?;
    stage.fleet.ztka(&["--org", "acme", "binding", "delete", "victor-view-dev"]).await?;
    stage.ask_until(&victor, StatusCode::FORBIDDEN).await?;
    let document = |wire: Vec<u8>| stage.by_hand.raw(Request::post(DOCUMENTS_PATH).body(()).unwrap(), wire);
    let answer = document(old.to_wire()).await?;
    ensure!(answer.code == StatusCode::NO_CONTENT, "what is older is passed over: {answer:?}");
    for policy in [old.header().revision, Revision::default()] {
        let id = AuditId::generate();
        let who = (victor.principal()?, victor.evidence()?);
        let answer = stage.liar.send(id, &stage.id, who, policy, &path("lie-replayed")).await?;
        stage.denied((id, answer), r#"User "victor" cannot list"#).await?;
    }

    // It makes a policy: signs it itself, says that the controller's key has, or changes one that is signed.
    let newest = stage.liar.policy(&stage.org)?;
    let mut header: DocumentHeader = newest.header().clone();
    header.revision.version += 100;
    let everything = json!({
        "clusters": [{ "id": stage.id, "name": "dev" }],
        "bindings": [{
            "name": "all", "subjects": [{ "user": "victor" }], "role": "cluster-admin",
            "clusters": { "all": true }, "scope": "cluster",
        }],
    });
    for wire in [
        stage.liar.forged(header.clone(), &everything, None)?,
        stage.liar.forged(header.clone(), &everything, Some(key_of(&newest)?))?,
        altered(&newest, &version(newest.header()), &version(&header))?,
        b"{}".to_vec(),
    ] {
        let answer = document(wire).await?;
        ensure!(answer.code == StatusCode::FORBIDDEN && answer.message.contains("refused a document"), "{answer:?}");
    }
    for text in ["signature is not valid", "not a signed document"] {
        let is = |receipt: &Receipt| receipt.path == DOCUMENTS_PATH && receipt.reason.contains(text);
        let receipt = stage.receipt(is).await?;
        ensure!(receipt.reason.contains(stage.by_hand.id.as_str()), "{receipt:?}");
    }
    stage.denied(stage.ask(&victor, "lie-forged").await?, r#"User "victor" cannot list"#).await?;

    // It says that it decided by a policy that nobody has: the agent waits for it, and then refuses.
    let id = AuditId::generate();
    let who = (stage.alice.principal()?, stage.alice.evidence()?);
    let answer = stage.liar.send(id, &stage.id, who, header.revision, &path("lie-future")).await?;
    ensure!(answer.code == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    stage.receipt(|receipt| receipt.audit_id == id && receipt.code == Some(503)).await?;

    // After all that the agent still serves.
    stage.ask_until(&stage.alice, StatusCode::OK).await?;
    stage.nothing_arrived()
}

#[tokio::test]
async fn nobody_is_invented_borrowed_or_brought_back() -> Result<()> {
    let stage = Stage::set().await?;
    let (alice, now) = (stage.alice.clone(), jiff::Timestamp::now());
    let victor = stage.person("acme", "victor", Some("view")).await?;
    // Ends on its own while the rest of this test runs.
    let carl = stage.person("acme", "carl", Some("view")).await?;
    let file = stage.fleet.path("carl-short.kubeconfig");
    let short = ["--org", "acme", "kubeconfig", "--user", "carl", "--life", "30s", "--file"];
    stage.fleet.ztka(&[&short[..], &[file.to_str().context("UTF-8")?]].concat()).await?;
    let short = stage.liar.person(&ztka_e2e::User { name: "carl".into(), kubeconfig: file }).await?;
    drop(carl);

    // A session that the controller never signed: by a key of its own, under the controller's name, or changed.
    let mut session: Session = victor.session.body()?;
    session.name = "alice".parse()?;
    let invented = serde_json::to_value(&session)?;
    let header = DocumentHeader { issued: now, ..victor.session.header().clone() };
    for wire in [
        stage.liar.forged(header.clone(), &invented, None)?,
        stage.liar.forged(header.clone(), &invented, Some(key_of(&victor.session)?))?,
        altered(&victor.session, r#""name":"victor""#, r#""name":"alice""#)?,
    ] {
        let answer = stage.send(alice.principal()?, evidence(&victor.chain, &wire)?, "lie-session").await?;
        stage.disbelieved(answer, 401, "signature is not valid").await?;
    }
    // A signed document of another kind in its place.
    let policy = stage.liar.policy(&stage.org)?;
    let answer = stage.send(alice.principal()?, evidence(&victor.chain, &policy.to_wire())?, "lie-kind").await?;
    stage.disbelieved(answer, 401, "session document").await?;

    // Alice's session under another's certificate, and the other way round; no chain, and a proxy's instead.
    for (chain, session) in [(&victor.chain, &alice.session), (&alice.chain, &victor.session)] {
        let answer = stage.send(alice.principal()?, evidence(chain, &session.to_wire())?, "lie-mixed").await?;
        stage.disbelieved(answer, 401, "not of the same credential").await?;
    }
    let answer = stage.send(alice.principal()?, evidence(&[], &alice.session.to_wire())?, "lie-chain").await?;
    stage.disbelieved(answer, 401, "certificate chain is empty").await?;
    let answer = stage.send(alice.principal()?, Evidence::new(""), "lie-nothing").await?;
    stage.disbelieved(answer, 401, "cannot be read").await?;

    // A user of another organisation; all that is shown of them is true.
    stage.fleet.org("globex").await?;
    stage.fleet.ztka(&["--org", "globex", "user", "create", "bob"]).await?;
    let bob = stage.liar.person(&stage.fleet.kubeconfig("globex", "bob").await?).await?;
    let claimed = Principal::new(stage.org.clone(), bob.session.body()?);
    let answer = stage.send(claimed, bob.evidence()?, "lie-org").await?;
    stage.disbelieved(answer, 421, "another organisation").await?;

    by_hand(&stage).await?;

    // A user who was disabled: what the agent holds of them counts no more, and showing it again does not help.
    let dave = stage.person("acme", "dave", Some("view")).await?;
    stage.ask_until(&dave, StatusCode::OK).await?;
    stage.fleet.ztka(&["--org", "acme", "user", "disable", "dave"]).await?;
    stage.ask_until(&dave, StatusCode::UNAUTHORIZED).await?;
    let (_, answer) = stage.ask(&dave, "lie-disabled").await?;
    ensure!(answer.code == StatusCode::UNAUTHORIZED && answer.message.contains("revoked"), "{answer:?}");
    stage.receipt(|receipt| receipt.path == path("lie-disabled") && receipt.code == Some(401)).await?;
    let spaced = Evidence::new([dave.evidence()?.bytes().as_ref(), b" "].concat());
    stage.disbelieved(stage.send(dave.principal()?, spaced, "lie-disabled").await?, 401, "revoked").await?;

    // A session that is over, as the agent holds it and shown again.
    stage.ask_until(&short, StatusCode::UNAUTHORIZED).await?;
    let spaced = Evidence::new([short.evidence()?.bytes().as_ref(), b" "].concat());
    for (lie, evidence) in [("lie-expired", short.evidence()?), ("lie-expired-again", spaced)] {
        let (_, answer) = stage.send(short.principal()?, evidence, lie).await?;
        let over = answer.message.contains("ended") || answer.message.contains("expired");
        ensure!(answer.code == StatusCode::UNAUTHORIZED && over, "{answer:?}");
    }
    // Refused with the request, or with the evidence where the certificate is over as well.
    let over = |receipt: &Receipt| receipt.reason.contains("ended") || receipt.reason.contains("expired");
    stage.receipt(|receipt| over(receipt) && receipt.code == Some(401)).await?;

    stage.ask_until(&alice, StatusCode::OK).await?;
    stage.nothing_arrived()
}

/// What the library's end of a tunnel cannot say.
async fn by_hand(stage: &Stage) -> Result<()> {
    let shown = stage.alice.evidence()?;
    let named = |name: &str| Request::post(EVIDENCE_PATH).header(&ztka_core::EVIDENCE, name).body(());

    // Evidence under the name of other evidence.
    let other = Evidence::new("other");
    let answer = stage.by_hand.raw(named(other.id().as_str())?, shown.bytes().clone()).await?;
    ensure!(answer.code == StatusCode::UNAUTHORIZED && answer.message.contains("do not belong"), "{answer:?}");
    stage.receipt(|receipt| receipt.path == EVIDENCE_PATH && receipt.reason.contains("do not belong")).await?;

    let (id, policy) = (AuditId::generate().to_string(), stage.policy()?.to_string());
    let whole: [(&HeaderName, &str); 3] =
        [(&AUDIT_ID, &id), (&ztka_core::POLICY, &policy), (&ztka_core::EVIDENCE, shown.id().as_str())];
    let send = async |lie: &str, headers: &[(&HeaderName, &str)]| {
        let mut request = Request::get(path(lie));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        stage.by_hand.raw(request.body(())?, "").await
    };
    let accepted = stage.by_hand.raw(named(shown.id().as_str())?, shown.bytes().clone()).await?;
    ensure!(accepted.code == StatusCode::NO_CONTENT, "{accepted:?}");
    let honest = send("honest", &whole).await?;
    ensure!(honest.code == StatusCode::OK, "{honest:?}");

    // Without evidence, without a record, without a policy; evidence that nobody has shown is asked for.
    for (missing, text) in [(0, "names no audit record"), (1, "names no policy"), (2, "no evidence of a user")] {
        let some: Vec<_> = (0..3).filter(|n| *n != missing).map(|n| whole[n]).collect();
        let lie = format!("lie-without-{missing}");
        let answer = send(&lie, &some).await?;
        ensure!(answer.code == StatusCode::UNAUTHORIZED && answer.message.contains(text), "{answer:?}");
        ensure!(!answer.asks_for_evidence, "{answer:?}");
        stage.receipt(|receipt| receipt.path == path(&lie) && receipt.reason.contains(text)).await?;
    }
    let answer = send("lie-unknown", &[whole[0], whole[1], (&ztka_core::EVIDENCE, other.id().as_str())]).await?;
    ensure!(answer.code == StatusCode::UNAUTHORIZED && answer.asks_for_evidence, "{answer:?}");
    stage.receipt(|receipt| receipt.path == path("lie-unknown") && receipt.code == Some(401)).await?;

    // Names for the apiserver, past all that is proven.
    let impersonate = HeaderName::from_static("impersonate-user");
    let mut headers = whole.to_vec();
    headers.push((&impersonate, "system:admin"));
    let answer = send("lie-impersonated", &headers).await?;
    ensure!(answer.code == StatusCode::FORBIDDEN, "{answer:?}");
    stage.receipt(|receipt| receipt.path == path("lie-impersonated") && receipt.code == Some(403)).await?;
    Ok(())
}
