//! The whole of policy, as an administrator writes it and kubectl meets it: projects, labels, groups within groups, terms,
//! denials, guardrails, settings; what is open ends when it is not given any more; and back.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

/// Clusters of an organisation by name.
async fn cluster_id(fleet: &Fleet, name: &str) -> Result<String> {
    let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let found = clusters.as_array().into_iter().flatten().find(|cluster| cluster["name"] == name);
    Ok(found.and_then(|cluster| cluster["id"].as_str()).context("no such cluster")?.to_owned())
}

/// Applies a policy; what the command says.
async fn apply(fleet: &Fleet, policy: &str, more: &[&str]) -> Result<String> {
    let file = fleet.path("policy.yaml");
    fs::write(&file, policy)?;
    let mut arguments = vec!["--org", "acme", "policy", "apply", "-f", file.to_str().context("not UTF-8")?];
    arguments.extend(more);
    fleet.ztka(&arguments).await
}

#[tokio::test]
async fn the_whole_model_is_in_force() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let id = cluster_id(&fleet, "dev").await?;
    for user in ["alice", "bob", "carol", "dave"] {
        fleet.ztka(&["--org", "acme", "user", "create", user]).await?;
    }
    cluster.kubectl().ok(["create", "namespace", "pay"]).await?;
    cluster.kubectl().ok(["create", "secret", "generic", "key", "-n", "pay"]).await?;
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    let policy = format!(
        r#"
settings: {{viewSecrets: false}}
clusters: [{{id: {id}, name: dev, project: shop, namespaces: {{pay: {{team: pay}}}}}}]
projects: [{{name: shop}}]
groups:
- {{name: inner, members: [{{user: carol}}]}}
- {{name: outer, members: [{{group: inner}}]}}
bindings:
- {{name: owners, subjects: [{{user: alice}}], role: cluster-admin, clusters: {{projects: [shop]}}, scope: cluster}}
- {{name: look, subjects: [{{user: bob}}], role: view, clusters: {{projects: [shop]}}, scope: {{namespaceLabels: {{team: pay}}}}}}
- {{name: nested, subjects: [{{group: outer}}], role: view, clusters: {{all: true}}, scope: allNamespaces}}
- {{name: soon-over, subjects: [{{user: dave}}], role: view, clusters: {{all: true}}, scope: allNamespaces, validUntil: "{until}"}}
- {{name: later, subjects: [{{user: dave}}], role: edit, clusters: {{matchLabels: {{stage: new}}}}, scope: cluster}}
denials:
- {{name: freeze, subjects: [{{user: alice}}], rules: [{{verbs: [delete], apiGroups: [""], resources: [configmaps]}}], clusters: {{all: true}}, scope: cluster, reason: nothing is deleted on Fridays}}
"#
    );
    // What is wrong is said with its line, and nothing happens.
    let wrong = apply(&fleet, &policy.replace("role: cluster-admin", "role: cluster-adnim"), &[]).await;
    let wrong = wrong.err().context("a role that is not there is given")?.to_string();
    ensure!(wrong.contains("line 9") && wrong.contains("there is no role"), "{wrong}");
    let wrong = apply(&fleet, &policy.replace(&id, "c-of-others"), &[]).await;
    let wrong = wrong.err().context("a cluster that is not there is taken")?.to_string();
    ensure!(wrong.contains("line 3") && wrong.contains("there is no cluster"), "{wrong}");
    let looked = apply(&fleet, &policy, &["--dry-run"]).await?;
    ensure!(
        looked.contains("user alice\n")
            && looked.contains("  + * *.* on dev\n")
            && looked.contains("nothing was changed"),
        "{looked}"
    );
    apply(&fleet, &policy, &[]).await?;

    let alice = fleet.kubeconfig("acme", "alice").await?;
    let alice = fleet.kubectl(&alice, "dev").await?;
    let bob = fleet.kubeconfig("acme", "bob").await?;
    let bob = fleet.kubectl(&bob, "dev").await?;
    let carol = fleet.kubeconfig("acme", "carol").await?;
    let carol = fleet.kubectl(&carol, "dev").await?;
    let dave = fleet.kubeconfig("acme", "dave").await?;
    let dave = fleet.kubectl(&dave, "dev").await?;

    // A term, while it lasts.
    fleet.allowed(&dave, "get pods").await?;
    // A denial wins over everything, and says why.
    alice.ok(["create", "configmap", "made"]).await?;
    let said = fleet.refused(&alice, "delete configmap made").await?;
    ensure!(said.contains("nothing is deleted on Fridays"), "{said}");
    // Namespaces by label.
    fleet.allowed(&bob, "get pods -n pay").await?;
    fleet.refused(&bob, "get pods -n default").await?;
    // Groups within groups.
    fleet.allowed(&carol, "get pods -n default").await?;

    // The override of read-only roles: in force in about a second, and on record.
    fleet.refused(&bob, "get secret key -n pay").await?;
    let begun = Instant::now();
    apply(&fleet, &policy.replace("viewSecrets: false", "viewSecrets: true"), &[]).await?;
    fleet.allowed(&bob, "get secret key -n pay").await?;
    let taken = begun.elapsed();
    println!("viewSecrets was in force {} ms after the command was started", taken.as_millis());
    let events = fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "-n", "200"]).await?;
    ensure!(events.contains("/policy"), "the change is on record: {events}");
    let history = fleet.ztka_json("acme", &["policy", "history"]).await?;
    let newest = history.get(0).context("no history")?;
    ensure!(newest["act"] == "apply" && newest["objects"].to_string().contains("settings"), "{newest}");

    // What runs out does so by itself.
    let soon = Timestamp::now() + SignedDuration::from_secs(5);
    apply(&fleet, &policy.replace(&until.to_string(), &soon.to_string()), &[]).await?;
    let said = fleet.refused(&dave, "get pods").await?;
    ensure!(said.contains("run out") || said.contains("no role"), "{said}");

    // A cluster that comes later, with a label that a binding waits for.
    let second = Cluster::level1(Options::default()).await?;
    fleet.cluster("acme", "later", &second, &["stage=new"]).await?;
    let again = fleet.kubeconfig("acme", "dave").await?;
    let later = fleet.kubectl(&again, "later").await?;
    fleet.allowed(&later, "create configmap mine").await?;

    // And back.
    let first =
        history.as_array().and_then(|all| all.get(1)).and_then(|one| one["version"].as_u64()).context("no version")?;
    fleet.ztka(&["--org", "acme", "policy", "rollback", &first.to_string()]).await?;
    fleet.allowed(&dave, "get pods").await?;
    fleet.refused(&bob, "get secret key -n pay").await?;
    let now = fleet.ztka(&["--org", "acme", "policy", "get"]).await?;
    ensure!(now.contains("viewSecrets: false") || !now.contains("viewSecrets: true"), "{now}");
    // What is read is applied as it is, and changes nothing.
    let same = apply(&fleet, &now, &[]).await?;
    ensure!(same.contains("so already"), "{same}");
    // A file of an earlier version is not.
    let stale = apply(&fleet, &now.replacen("# version: ", "# version: 1", 1), &[]).await;
    let stale = stale.err().context("a stale file is applied")?.to_string();
    ensure!(stale.contains("look at it again"), "{stale}");
    Ok(())
}

/// A watch that has begun, of somebody who is let in.
async fn watch(fleet: &Fleet, kubectl: &Kubectl, namespace: &str) -> Result<ztka_test_cluster::Running> {
    fleet.allowed(kubectl, &format!("get configmaps -n {namespace}")).await?;
    let mut watch = kubectl.spawn(["get", "configmaps", "-n", namespace, "--watch"])?;
    watch.read_until("kube-root-ca.crt").await.with_context(|| fleet.tails())?;
    Ok(watch)
}

#[tokio::test]
async fn what_is_open_ends_with_a_group_and_by_a_guardrail() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    for user in ["alice", "bob"] {
        fleet.ztka(&["--org", "acme", "user", "create", user]).await?;
    }
    for namespace in ["guarded", "shop"] {
        cluster.kubectl().ok(["create", "namespace", namespace]).await?;
        // What a controller makes in every namespace of a real cluster.
        cluster.kubectl().run(["create", "configmap", "kube-root-ca.crt", "-n", namespace]).await?;
    }
    let policy = "
groups: [{name: team, members: [{user: alice}, {user: bob}]}]
bindings:
- {name: team-edits, subjects: [{group: team}], role: edit, clusters: {all: true}, scope: allNamespaces}
";
    apply(&fleet, policy, &[]).await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let alice = fleet.kubectl(&alice, "dev").await?;
    let bob = fleet.kubeconfig("acme", "bob").await?;
    let bob = fleet.kubectl(&bob, "dev").await?;

    let (mut of_alice, mut of_bob) = (watch(&fleet, &alice, "shop").await?, watch(&fleet, &bob, "guarded").await?);
    let mut goes_on = watch(&fleet, &bob, "shop").await?;
    let begun = Instant::now();
    apply(&fleet, &policy.replace("{user: alice}, ", ""), &[]).await?;
    of_alice.ended().await.with_context(|| fleet.tails())?;
    println!("a watch ended {} ms after its user was taken out of the group", begun.elapsed().as_millis());
    fleet.refused(&alice, "get configmaps -n shop").await?;

    let guarded = format!(
        "{policy}guardrails: {{protectedNamespaces: [{{namespaces: [guarded], access: none, clusters: {{all: true}}}}]}}\n"
    );
    let begun = Instant::now();
    apply(&fleet, &guarded, &[]).await?;
    of_bob.ended().await.with_context(|| fleet.tails())?;
    println!("a watch ended {} ms after its namespace was protected", begun.elapsed().as_millis());
    let said = fleet.refused(&bob, "get configmaps -n guarded").await?;
    ensure!(said.contains("protected"), "{said}");
    ensure!(goes_on.child().try_wait()?.is_none(), "a watch that is given still goes on");

    // The record has a reason of each.
    let recorded = wait_for("the record of the ends", || async {
        let text = fs::read_to_string(fleet.events_file(0))?;
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ends: Vec<_> = events
            .filter(|event| event["stage"] == "ResponseComplete" && event["verb"] == "watch")
            .map(|event| event.to_string())
            .collect();
        ensure!(
            ends.iter().any(|end| end.contains("alice")) && ends.iter().any(|end| end.contains("protected")),
            "{ends:?}"
        );
        Ok(())
    });
    recorded.await
}
