//! What somebody's first request takes longer than their next ones: it waits for an account in the cluster. Printed, and held
//! to no time; that each of them succeeds is what is tested.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use ztka_e2e::{Client, Fleet};
use ztka_test_cluster::{Cluster, Kubectl, Options};

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const USERS: usize = 10;
const NEXT: usize = 10;

#[tokio::test]
async fn the_first_request_waits_for_an_account_and_succeeds() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let mut users = Vec::new();
    for number in 0..USERS {
        let user = fleet.user("acme", &format!("user-{number}"), &[]).await?;
        fleet.bind("acme", &user.name, "edit", "dev").await?;
        users.push(fleet.kubeconfig("acme", &user.name).await?);
    }
    // Who is known last is known after all the others.
    let last = fleet.user("acme", "last", &[]).await?;
    fleet.bind("acme", "last", "view", "dev").await?;
    fleet.allowed(&fleet.kubectl(&fleet.kubeconfig("acme", &last.name).await?, "dev").await?, "get configmaps").await?;

    let (mut first, mut next) = (Vec::new(), Vec::new());
    for user in &users {
        let client = Client::of(&Kubectl::new(&user.kubeconfig).await?.context("dev")).await?;
        let mut connection = client.connect(Version::HTTP_2).await?;
        for number in 0..=NEXT {
            let begun = Instant::now();
            let answer = connection.send(Method::GET, PATH, "").await?;
            let took = begun.elapsed();
            ensure!(answer.status == StatusCode::OK, "{}, request {number}: {answer:?}\n{}", user.name, fleet.tails());
            if number == 0 { first.push(took) } else { next.push(took) }
        }
    }
    let (first, next) = (sorted(first), sorted(next));
    println!("first request of {USERS} users: {}; next ones: {}", told(&first)?, told(&next)?);
    Ok(())
}

fn sorted(mut all: Vec<Duration>) -> Vec<Duration> {
    all.sort_unstable();
    all
}

fn told(sorted: &[Duration]) -> Result<String> {
    let (median, most) = sorted.get(sorted.len() / 2).zip(sorted.last()).context("nothing was measured")?;
    Ok(format!("median {median:.1?}, at most {most:.1?}"))
}
