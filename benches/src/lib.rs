//! What the way of a request costs: the same load direct, through HAProxy and through ZTKA, side by side.
//!
//! ```text
//! load ──TLS h1──────────────────────────────────────────────────► upstream      direct
//! load ──TLS h1──► haproxy (edge) ──TLS h2──► haproxy (inner) ──TLS h1──► upstream     default and tuned settings
//! load ──TLS h1──► edge ──TLS h2──► inner ──TLS h1────────────────────────► upstream      bare hops of our libraries
//! load ──TLS h1──► proxy ◄──tunnel, TLS h2── agent ──TLS h1──────────────► upstream     ZTKA
//! ```
//!
//! The binary `path` runs it all and prints a table (`cargo run --release -p ztka-benches --bin path`); the pieces are
//! here so that a harness can start servers of its own and measure them the same way:
//!
//! - [`Target`] is where load goes: an address with its names and keys, and the processes that serve it. A harness
//!   writes one as JSON for each chain it has started.
//! - [`Upstream`] is what answers at the end: the fast one of [`upstream`], or a real apiserver.
//! - [`path::run`] measures targets in interleaved rounds, [`report`] prints medians with machine and method.
//!
//! ```
//! let target: ztka_benches::Target = serde_json::from_str(
//!     r#"{
//!         "name": "ZTKA",
//!         "address": "127.0.0.1:8443",
//!         "server_name": "c1.kube.example.org",
//!         "ca": "ca.crt",
//!         "certificate": "alice.crt",
//!         "key": "alice.key",
//!         "processes": [{"name": "proxy", "pid": 17}, {"name": "agent", "pid": 18}]
//!     }"#,
//! )?;
//! assert_eq!(target.authority(), "c1.kube.example.org");
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! The binary `recovery` measures what happens to users when servers are killed: [`recovery`]; the binary `agents` what
//! many quiet agents cost a proxy: [`agents`]; the binary `change` how soon a hundred proxies enforce a change: [`change`].
//!
//! All load goes to loopback addresses and is bounded in time and count. Functions by themselves are measured by the
//! criterion benches in `benches/` (`cargo bench -p ztka-benches`).
pub mod agents;
pub mod bare;
pub mod change;
pub mod connect;
pub mod haproxy;
pub mod load;
pub mod machine;
pub mod path;
mod payload;
pub mod process;
pub mod procfs;
pub mod recovery;
pub mod report;
pub mod stats;
mod target;
pub mod upstream;
mod websocket;

pub use target::{Kind, Paths, Process, Target, Upstream};
