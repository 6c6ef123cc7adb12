//! The shell process that removes a cluster when it is dropped or when the test process dies.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::Slot;

/// Keeps the folder of every cluster for reading, when set to anything.
const KEEP: &str = "ZTKA_TEST_KEEP";

/// Holds the write end of a pipe; the watchdog acts when the pipe closes, which the kernel does for a killed process too.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    pub(crate) fn start(slot: &Slot, logs: Option<&Path>) -> Result<Self> {
        let keep = if std::env::var_os(KEEP).is_some() { "keep" } else { "" };
        Command::new("sh")
            .args(["-c", include_str!("assets/watchdog.sh"), "ztka-watchdog"])
            .arg(slot.folder())
            .arg(slot.name())
            .arg(keep)
            .arg(logs.unwrap_or(Path::new("")))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(slot.lock().try_clone().context("cannot hand the slot's lock to its watchdog")?)
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .context("cannot start sh as the cluster's watchdog")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Bounded by the loops of the script; a failure leaves nothing that we could do better here.
        let _ = self.0.wait();
    }
}
