//! Configuration files: TOML, unknown keys refused, every error with the place it is at.

use std::{net::SocketAddr, num::NonZeroUsize, path::Path, thread};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use crate::logs;

/// What a server's configuration has to offer.
pub trait Configuration: DeserializeOwned {
    /// The `[runtime]` table.
    fn common(&self) -> &Common;

    /// Checks what the types cannot: files that must be readable, values that exclude each other.
    ///
    /// # Errors
    /// Says which key is wrong and what to do.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The `[runtime]` table of every server's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Common {
    /// What is logged, as `tracing` filters: `info`, or `info,ztka_tunnel=debug`. Default `info`.
    pub log: String,
    /// `text` for people, `json` for machines. Default `text`.
    pub log_format: LogFormat,
    /// Where `/livez`, `/readyz` and `/metrics` are served; a loopback address. Default: nowhere.
    pub health: Option<SocketAddr>,
    /// Threads that carry connections. Default: half as many as CPUs, from 1 to 8.
    pub threads: Option<NonZeroUsize>,
}

/// More threads than this are only by configuration.
const MOST_THREADS: usize = 8;

impl Common {
    /// Threads that carry connections.
    ///
    /// Not one for each CPU: the kernel's side of the network takes about as much time as ours, and work that moves to
    /// another thread costs a wake-up there (`docs/performance.md`).
    pub(crate) fn threads(&self) -> usize {
        let by_default = || thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, MOST_THREADS));
        self.threads.map_or_else(by_default, NonZeroUsize::get)
    }
}

impl Default for Common {
    fn default() -> Self {
        Self { log: "info".into(), log_format: LogFormat::Text, health: None, threads: None }
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads and checks the configuration in `file`.
///
/// # Errors
/// Names the file, and the line of what is wrong in it.
pub fn load<C: Configuration>(file: &Path) -> anyhow::Result<C> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the configuration file {name}; check that it exists and its mode"))?;
    let config: C = toml::from_str(&text).with_context(|| format!("the configuration file {name} is not valid"))?;
    let health = config.common().health;
    ensure!(
        health.is_none_or(|address| address.ip().is_loopback()),
        "runtime.health in {name} must be a loopback address such as 127.0.0.1:9440: health and metrics are never public"
    );
    logs::filter(config.common()).with_context(|| format!("the configuration file {name} is not valid"))?;
    config.check().with_context(|| format!("the configuration file {name} is not valid"))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_as_configured_or_half_the_cpus() {
        let four: Common = toml::from_str("threads = 4").unwrap();
        assert_eq!(four.threads(), 4);
        assert!((1..=MOST_THREADS).contains(&Common::default().threads()));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        runtime: Common,
    }

    impl Configuration for Config {
        fn common(&self) -> &Common {
            &self.runtime
        }
    }

    fn error(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        format!("{:#}", load::<Config>(file.path()).unwrap_err())
    }

    #[test]
    fn errors_say_where_and_what() {
        assert!(error("[runtime]\nlogg = 'info'").contains("unknown field `logg`"));
        assert!(error("[runtime").contains("line 1"));
        assert!(error("[runtime]\nlog = 'info,='").contains("runtime.log"));
        assert!(error("[runtime]\nhealth = '0.0.0.0:80'").contains("loopback"));
        assert!(error("[runtime]\nthreads = 0").contains("nonzero"));
        let missing = load::<Config>(Path::new("no/such/file.toml")).unwrap_err();
        assert!(format!("{missing:#}").contains("no/such/file.toml"));
    }
}
