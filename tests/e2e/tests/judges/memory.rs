//! Readers that do not read, and a thousand that hear nothing, on the way through real processes.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use ztka_e2e::{Both, Client, Process};
use ztka_test_cluster::Options;

use super::Court;

/// The most memory that a program has held, in bytes; not that of the shell that watches over it.
fn peak(process: &Process) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.program()?))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_that_nobody_reads_costs_a_bounded_part_of_memory() -> Result<()> {
    let court = Court::open().await?;
    let (_, _, _, kubectl) = &court.servers[0];
    let client = Client::of(kubectl).await?;
    let target = "/judge/bytes?n=1073741824&chunked=1";
    let other = "/judge/bytes?n=67108864";
    client.connect(Version::HTTP_2).await?.read(other).await?;
    let processes =
        [&court.fleet.proxies[0].process, &court.fleet.agents[&("acme".to_owned(), "go".to_owned())].process];
    let before = processes.map(peak);
    let mut stalled = Vec::new();
    for version in [Version::HTTP_11, Version::HTTP_2, Version::HTTP_2] {
        let mut connection = client.connect(version).await?;
        let answer = connection.begin(Method::GET, target, "").await?;
        ensure!(answer.status() == StatusCode::OK, "{answer:?}");
        stalled.push((connection, answer));
    }
    // What is read goes on beside them, and is more than they could hold.
    let mut reading = client.connect(Version::HTTP_2).await?;
    for _ in 0..4 {
        assert_eq!(reading.read(other).await?.len(), 64 << 20);
    }
    for (process, before) in processes.into_iter().zip(before) {
        let grown = peak(process)?.saturating_sub(before?);
        // Three windows of 12 MiB, what is on its way to users, and what debug builds add to it.
        assert!(grown < 80 << 20, "{} has grown by {} MiB", process.pid(), grown >> 20);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watches_of_an_apiserver_and_then_a_get() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let client = Client::of(&both.through).await?;
    let (mut connection, mut watches) = (client.connect(Version::HTTP_2).await?, Vec::new());
    for number in 0..1000 {
        let target = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=0";
        let answer = connection.begin(Method::GET, target, "").await?;
        ensure!(answer.status() == StatusCode::OK, "watch {number}: {}", answer.status());
        watches.push(answer);
    }
    // Far beyond what an apiserver allows on a connection of HTTP/2.
    connection.read("/api/v1/namespaces/default/configmaps").await?;
    client.connect(Version::HTTP_11).await?.read("/version").await?;
    drop(watches);
    connection.read("/api/v1/namespaces/default/configmaps").await.map(drop)
}
