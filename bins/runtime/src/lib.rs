//! What every server process shares: the command line, the configuration file, logs, signals, health and metrics.
//!
//! A server's `main` names its configuration and its `run`; [`main`] does the rest:
//!
//! ```no_run
//! use serde::Deserialize;
//! use ztka_runtime::{Common, Configuration, Process};
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     listen: std::net::SocketAddr,
//!     #[serde(default)]
//!     runtime: Common,
//! }
//!
//! impl Configuration for Config {
//!     fn common(&self) -> &Common {
//!         &self.runtime
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     ztka_runtime::main("example", "Listens", |config: Config, process: Process| async move {
//!         let listener = tokio::net::TcpListener::bind(config.listen).await?;
//!         process.ready();
//!         process.shutdown().cancelled().await;
//!         drop(listener);
//!         Ok(())
//!     })
//! }
//! ```
mod arenas;
mod config;
mod crypto;
mod egress;
mod health;
mod logs;
mod process;

pub use self::{
    config::{Common, Configuration, LogFormat, load},
    crypto::crypto,
    egress::EgressConfig,
    health::Health,
    logs::init as init_logs,
    process::{Process, main, report},
};
