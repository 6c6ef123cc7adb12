//! Figures of this crate: `cargo bench -p ztka-store --bench store`, or `cargo xtask bench store`.
//!
//! One organisation with 1,000 clusters, 5,000 users and 10,000 bindings, in both databases, each in a process of its own,
//! one after the other on the same disk; beside each figure that of the bare statements by sqlx, in the same process,
//! and beside the writes those of a store that does not encrypt, in turn. A
//! number as argument is the share of that size in per cent.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a bench")]

mod measure;

use std::{env, process::Command};

use measure::{Databases, Row, Scale};
use ztka_test_postgres::Server;

const THREADS: usize = 2;

/// Tells a process of this program which databases it is to measure: the encrypted one, and the other.
const DATABASE: &str = "ZTKA_BENCH_STORE_DATABASE";
const CLEAR: &str = "ZTKA_BENCH_STORE_CLEAR";

fn main() {
    let share = env::args().skip(1).find_map(|argument| argument.parse::<usize>().ok()).unwrap_or(100);
    if let (Ok(encrypted), Ok(clear)) = (env::var(DATABASE), env::var(CLEAR)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
        let databases = Databases { encrypted: encrypted.parse().unwrap(), clear: clear.parse().unwrap() };
        for Row { what, figure, bare, bound } in runtime.block_on(measure::run(&databases, Scale::of(share))) {
            println!("| {what} | {figure} | {bare} | {bound} |");
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    println!("| what | figure | bare sqlx | bound |\n|---|---|---|---|");
    let disk = measure::disk(folder.path(), 300);
    println!("| the disk: 4 KiB written and fdatasync | {disk} | | |");
    let file = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    let mut databases = vec![[file("ztka.db"), file("clear.db")]];
    let server = Server::start_or_skip().unwrap();
    databases.extend(server.as_ref().map(|server| [(); 2].map(|()| server.database().unwrap())));
    for [encrypted, clear] in databases {
        let mut again = Command::new(env::current_exe().unwrap());
        again.arg(share.to_string()).env(DATABASE, encrypted).env(CLEAR, clear);
        // As servers of this many threads have it (`bins/runtime`).
        again.env("MALLOC_ARENA_MAX", THREADS.to_string());
        assert!(again.status().unwrap().success());
    }
}
