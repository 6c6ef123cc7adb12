//! Recordings of sessions: where they are, and what the process before has left.

use std::sync::Arc;

use ztka_audit::{Recorder, RecordingDirectory, RecordingOptions, Recordings};
use ztka_core::Clock;
use ztka_follow::ToController;

use crate::Config;

/// Opens the recordings, and notes those that were interrupted in the audit log.
pub(crate) fn open(config: &Config, clock: Arc<dyn Clock>, recorder: &Recorder) -> anyhow::Result<Recordings> {
    let set = &config.recordings;
    let mut options = RecordingOptions::new(config.state_dir.join("recordings")).input(set.input);
    for (name, mib) in set.limits() {
        let bytes = mib << 20;
        options = match name {
            "session_mib" => options.session_limit(bytes),
            "org_mib" => options.org_limit(bytes),
            _ => options.total_limit(bytes),
        };
    }
    if let Some(key) = &set.key_file {
        options = options.key_file(key);
    }
    let (recordings, interrupted) = Recordings::open(options, clock)?;
    for recording in &interrupted {
        tracing::warn!(recording = %recording.id, "a session was being recorded when the last process ended");
        recorder.interrupted(recording);
    }
    Ok(recordings)
}

/// Brings them to where they are kept.
pub(crate) fn ship(config: &Config, recordings: Recordings, controller: ToController) {
    match &config.recordings.directory {
        Some(directory) => drop(tokio::spawn(recordings.ship(RecordingDirectory::new(directory)))),
        None => drop(tokio::spawn(recordings.ship(controller))),
    }
}
