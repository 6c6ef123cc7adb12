//! What an agent holds of policy: all that its cluster needs, and nothing of any other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Options, wait_for};

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// What the state directory of an agent says, in clear: names of files, and what is in them; of signed documents what is signed.
fn said(state: &Path) -> Result<String> {
    let (mut all, mut found) = (String::new(), Vec::new());
    files(state, &mut found)?;
    for path in found {
        // One that was replaced meanwhile is there under its name again.
        let Ok(bytes) = fs::read(&path) else { continue };
        all.push_str(&format!("\n{}\n", path.strip_prefix(state)?.display()));
        let document = serde_json::from_slice::<Value>(&bytes).ok();
        match document.as_ref().and_then(|document| document["signed"].as_str()) {
            Some(signed) => all.push_str(&String::from_utf8_lossy(&BASE64_STANDARD.decode(signed)?)),
            None => all.push_str(&String::from_utf8_lossy(&bytes)),
        }
    }
    Ok(all)
}

async fn id(fleet: &Fleet, name: &str) -> Result<String> {
    let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let found = clusters.as_array().into_iter().flatten().find(|cluster| cluster["name"] == name);
    Ok(found.and_then(|cluster| cluster["id"].as_str()).context("no such cluster")?.to_owned())
}

async fn apply(fleet: &Fleet, policy: &str) -> Result<()> {
    let file = fleet.path("policy.yaml");
    fs::write(&file, policy)?;
    fleet.ztka(&["--org", "acme", "policy", "apply", "-f", file.to_str().context("not UTF-8")?]).await.map(drop)
}

#[tokio::test]
async fn an_agent_holds_nothing_of_another_cluster_and_decides_as_before() -> Result<()> {
    let (bakery, harbour) = tokio::try_join!(Cluster::level1(Options::default()), Cluster::level1(Options::default()))?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "bakery", &bakery, &["trade=bread"]).await?;
    fleet.cluster("acme", "harbour", &harbour, &["trade=ships"]).await?;
    let ids = [id(&fleet, "bakery").await?, id(&fleet, "harbour").await?];
    let policy = format!(
        r#"
clusters:
- {{id: {}, name: bakery, labels: {{trade: bread}}, project: north}}
- {{id: {}, name: harbour, labels: {{trade: ships}}, project: south}}
projects: [{{name: north}}, {{name: south}}]
groups:
- {{name: millers, members: [{{user: alice}}]}}
- {{name: sailors, members: [{{user: bob}}]}}
roles:
- {{name: kneading, rules: [{{verbs: [get, list], apiGroups: [""], resources: [configmaps]}}]}}
- {{name: mooring, rules: [{{verbs: [get, list], apiGroups: [""], resources: [configmaps]}}]}}
bindings:
- {{name: knead, subjects: [{{group: millers}}], role: kneading, clusters: {{projects: [north]}}, scope: cluster}}
- {{name: moor, subjects: [{{group: sailors}}], role: mooring, clusters: {{matchLabels: {{trade: ships}}}}, scope: cluster}}
"#,
        ids[0], ids[1],
    );
    let (alice, bob) = (fleet.user("acme", "alice", &[]).await?, fleet.user("acme", "bob", &[]).await?);
    apply(&fleet, &policy).await?;
    // Their contexts are of the clusters that they may reach.
    let (alice, bob) = (fleet.kubeconfig("acme", &alice.name).await?, fleet.kubeconfig("acme", &bob.name).await?);
    let (kneads, moors) = (fleet.kubectl(&alice, "bakery").await?, fleet.kubectl(&bob, "harbour").await?);
    fleet.allowed(&kneads, "get configmaps").await?;
    fleet.allowed(&moors, "get configmaps").await?;
    fleet.refused(&kneads, "get pods").await?;
    fleet.refused(&moors, "get pods").await?;

    let agents = ["bakery", "harbour"].map(|name| fleet.path(&format!("agent-acme-{name}")));
    let words = [
        [ids[0].as_str(), "bakery", "bread", "north", "millers", "alice", "kneading", "knead"],
        [ids[1].as_str(), "harbour", "ships", "south", "sailors", "bob", "mooring", "moor"],
    ];
    for (at, state) in agents.iter().enumerate() {
        let (own, others) = (&words[at], &words[1 - at]);
        let looked = wait_for("the policy on the agent's disk", || async {
            let text = said(state)?;
            ensure!(own.iter().all(|word| text.contains(word)), "not all of its own is there:\n{text}");
            Ok(text)
        });
        let text = looked.await?;
        for word in others {
            // As a word: ids and signatures are random, and may contain anything short.
            let found =
                text.split(|letter: char| !letter.is_alphanumeric() && letter != '-').any(|found| found == *word);
            ensure!(!found, "{word:?} of the other cluster is known to this agent:\n{text}");
        }
        let whole: Vec<_> = text.lines().filter(|line| line.starts_with("documents/policy.")).collect();
        ensure!(whole.len() == 1 && whole[0].contains(own[0]), "{whole:?}");
    }

    // A change is enforced as before: what is taken away, and what is given.
    apply(&fleet, &policy.replace("clusters: {projects: [north]}", "clusters: {projects: [south]}")).await?;
    let refused = fleet.refused(&kneads, "get configmaps").await?;
    ensure!(refused.contains("Forbidden") || refused.contains("no such cluster"), "{refused}");
    wait_for("alice to be gone from one agent's disk and known to the other's", || async {
        let texts = [said(&agents[0].join("documents"))?, said(&agents[1].join("documents"))?];
        let known = |text: &str| {
            let of_policy = text.lines().skip_while(|line| !line.starts_with("policy."));
            of_policy.take(2).any(|line| line.contains("\"alice\""))
        };
        ensure!(!known(&texts[0]) && known(&texts[1]), "{texts:?}");
        Ok(())
    })
    .await?;
    apply(&fleet, &policy).await?;
    fleet.allowed(&kneads, "get configmaps").await?;

    // It goes by it after a restart with no controller, and knows no more.
    fleet.controller.kill();
    let agent = fleet.agents.get_mut(&("acme".into(), "bakery".into())).context("no agent")?;
    agent.process.kill();
    agent.restart()?;
    fleet.allowed(&kneads, "get configmaps").await?;
    fleet.refused(&kneads, "get pods").await?;
    Ok(())
}
