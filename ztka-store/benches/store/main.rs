//! Figures of this crate: `cargo bench -p ztka-store --bench store`, or `cargo xtask bench store`.
//!
//! One organisation with 1,000 clusters, 5,000 users and 10,000 bindings, in both databases, each in a process of its own,
//! one after the other on the same disk; beside each figure that of the bare statements by sqlx, in the same process. A
//! number as argument is the share of that size in per cent.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a bench")]

mod measure;

use std::{env, process::Command};

use measure::{Row, Scale};
use ztka_store::Location;
use ztka_test_postgres::Server;

/// Tells a process of this program which database it is to measure.
const DATABASE: &str = "ZTKA_BENCH_STORE_DATABASE";

fn main() {
    let share = env::args().skip(1).find_map(|argument| argument.parse::<usize>().ok()).unwrap_or(100);
    if let Ok(database) = env::var(DATABASE) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let location: Location = database.parse().unwrap();
        for Row { what, figure, bare, bound } in runtime.block_on(measure::run(&location, Scale::of(share))) {
            println!("| {what} | {figure} | {bare} | {bound} |");
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    println!("| what | figure | bare sqlx | bound |\n|---|---|---|---|");
    let disk = measure::disk(folder.path(), 300);
    println!("| the disk: 4 KiB written and fdatasync | {disk} | | |");
    let mut databases = vec![format!("sqlite://{}", folder.path().join("ztka.db").display())];
    let server = Server::start_or_skip().unwrap();
    databases.extend(server.as_ref().map(|server| server.database().unwrap()));
    for database in databases {
        let mut again = Command::new(env::current_exe().unwrap());
        assert!(again.arg(share.to_string()).env(DATABASE, database).status().unwrap().success());
    }
}
