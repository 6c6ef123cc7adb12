//! The fast upstream as a process of its own, for harnesses that start a chain in front of it.

use anyhow::Result;
use clap::Parser;
use ztka_benches::upstream::{self, Options};

/// A small fast apiserver on loopback; writes upstream.json into its folder once it listens
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    upstream::run(&Arguments::parse().options)
}
