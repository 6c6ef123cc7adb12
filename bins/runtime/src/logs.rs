//! Structured logs on standard error, one event a line.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{Common, LogFormat};

/// Starts logging as `common` says.
///
/// # Errors
/// If the filter is not one, or logging has been started before.
pub fn init(common: &Common) -> anyhow::Result<()> {
    let filter = filter(common)?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match common.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// What is logged.
pub(crate) fn filter(common: &Common) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&common.log)
        .with_context(|| format!("runtime.log = {:?} is not a filter; use for example \"info\"", common.log))
}
