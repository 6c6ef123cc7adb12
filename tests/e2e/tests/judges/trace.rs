//! The trace that a client begins goes on through proxy and agent, a step at each, to the server behind them.

use anyhow::{Context as _, Result, ensure};
use http::{Method, Version};
use serde_json::Value;
use ztka_core::TraceContext;
use ztka_e2e::Client;

use super::Court;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_through_both_hops() -> Result<()> {
    let court = Court::open().await?;
    let (.., kubectl) = court.servers.iter().find(|(name, ..)| *name == "hyper").context("no server")?;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut connection = Client::of(kubectl).await?.connect(version).await?;
        let mut said = async |headers: &[(&'static str, &str)]| -> Result<(TraceContext, Value)> {
            let answer = connection.send_with(Method::GET, "/judge/trace", headers, "").await?;
            let said: Value = serde_json::from_slice(&answer.body).with_context(|| format!("{answer:?}"))?;
            let parents = said["traceparent"].as_array().context("no list")?;
            ensure!(parents.len() == 1, "{version:?}: {said}");
            let parent = parents[0].as_str().and_then(|parent| TraceContext::parse(parent.as_bytes()));
            Ok((parent.with_context(|| said.to_string())?, said["tracestate"].clone()))
        };
        for flags in ["01", "00"] {
            let given = format!("00-{TRACE}-{SPAN}-{flags}");
            let (step, state) = said(&[("traceparent", given.as_str()), ("tracestate", "vendor=1")]).await?;
            ensure!(format!("{:032x}", step.trace()) == TRACE, "{version:?}: another trace: {step}");
            ensure!(format!("{:016x}", step.span()) != SPAN, "{version:?}: not a step of ours: {step}");
            ensure!(step.is_sampled() == (flags == "01"), "{version:?}: {step}");
            ensure!(state == serde_json::json!(["vendor=1"]), "{version:?}: {state}");
        }
        // Whoever names none, or none that can be read, gets one, and no two the same.
        let (first, _) = said(&[]).await?;
        let bad = format!("00-{TRACE}-{SPAN}-01-more");
        let (second, state) = said(&[("traceparent", bad.as_str()), ("tracestate", "vendor=1")]).await?;
        ensure!(first.trace() != second.trace() && format!("{:032x}", second.trace()) != TRACE, "{first} {second}");
        ensure!(!second.is_sampled() && state == serde_json::json!([]), "{second} {state}");
    }
    Ok(())
}
