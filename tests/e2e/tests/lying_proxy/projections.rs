//! A proxy has the projections of all clusters, and hands an agent another one than its own: properly signed, and refused.

use super::*;

#[tokio::test]
async fn an_agent_takes_no_other_clusters_policy_from_a_proxy() -> Result<()> {
    let stage = Stage::set().await?;
    stage.fleet.ztka(&["--org", "acme", "cluster", "create", "prod"]).await?;
    stage.fleet.ztka(&["--org", "acme", "user", "create", "paul"]).await?;
    stage.fleet.bind("acme", "paul", "cluster-admin", "prod").await?;
    let clusters = stage.fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let prod = clusters.as_array().into_iter().flatten().find(|cluster| cluster["name"] == "prod");
    let prod: ClusterId = prod.context("no cluster")?["id"].as_str().context("no id")?.parse()?;

    // All that a proxy has of policy is of one version.
    let heard = wait_for("the projections of a policy with paul in it", || async {
        let (whole, own) = (stage.liar.policy(&stage.org)?, stage.liar.projection(&stage.org, &stage.id)?);
        let foreign = stage.liar.projection(&stage.org, &prod)?;
        let revisions = [&whole, &own, &foreign].map(|document| document.header().revision);
        ensure!(revisions[0] == revisions[1] && revisions[1] == revisions[2], "{revisions:?}");
        let text = |document: &SignedDocument| String::from_utf8_lossy(&document.to_wire()).into_owned();
        ensure!(decoded(&text(&foreign))?.contains("paul"), "not yet");
        ensure!(!decoded(&text(&own))?.contains("paul"), "paul has nothing to do here");
        Ok((whole, foreign))
    });
    let (whole, foreign) = heard.await?;

    let document = |wire: Vec<u8>| stage.by_hand.raw(Request::post(DOCUMENTS_PATH).body(()).unwrap(), wire);
    let answer = document(foreign.to_wire()).await?;
    ensure!(answer.code == StatusCode::FORBIDDEN && answer.message.contains("another cluster"), "{answer:?}");
    let is = |receipt: &Receipt| receipt.path == DOCUMENTS_PATH && receipt.reason.contains("another cluster");
    let receipt = stage.receipt(is).await?;
    ensure!(receipt.reason.contains(stage.by_hand.id.as_str()), "it is not said which proxy: {receipt:?}");
    // The whole does no harm, and is passed over.
    let answer = document(whole.to_wire()).await?;
    ensure!(answer.code == StatusCode::NO_CONTENT, "{answer:?}");
    stage.ask_until(&stage.alice, StatusCode::OK).await?;

    // Nothing of it is kept.
    let kept = std::fs::read_dir(stage.fleet.path("agent-acme-dev").join("documents"))?;
    let kept = kept.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    let policies: Vec<_> = kept.iter().filter(|name| name.starts_with("policy.")).collect();
    ensure!(policies == [&format!("policy.{}.{}.json", stage.org, stage.id)], "{policies:?}");
    stage.nothing_arrived()
}

/// What is signed, of the form of the wire.
fn decoded(wire: &str) -> Result<String> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    let wire: Value = serde_json::from_str(wire)?;
    Ok(String::from_utf8(BASE64_STANDARD.decode(wire["signed"].as_str().context("signed")?)?)?)
}
