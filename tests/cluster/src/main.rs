//! Starts a cluster by hand and holds it until standard input closes or the process ends.
//!
//! `cargo run -p ztka-test-cluster -- [--nodes N] [--real-node]` prints `KUBECONFIG=<path>` once the cluster is ready.

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncReadExt as _;
use ztka_test_cluster::{Cluster, Options};

#[tokio::main]
async fn main() -> Result<()> {
    let (mut options, mut real) = (Options::default(), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--real-node" => real = true,
            "--nodes" => options = options.nodes(args.next().context("--nodes needs a number")?.parse()?),
            other => bail!("unknown argument {other}; there are --nodes N and --real-node"),
        }
    }
    let cluster = if real { Cluster::level2(options).await? } else { Cluster::level1(options).await? };
    println!("KUBECONFIG={}", cluster.kubeconfig().display());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
