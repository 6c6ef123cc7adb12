//! `ztka recording`
//!
//! Not `ztka sessions`, though that is understood as well: `ztka session` is about login sessions, and one letter is too
//! little between ending somebody's session and looking at it.

mod player;
mod terminal;

use std::{io::IsTerminal as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use ztka_api::{CastStream, Recording as Recorded, RecordingQuery};
use ztka_core::AuditId;

use self::player::{Pace, Player};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Recording {
    /// List recordings of exec and attach, newest first
    List {
        /// How many
        #[arg(long, short = 'n', default_value_t = 50)]
        lines: u32,
        /// Only older ones than this
        #[arg(long, value_name = "ID", value_parser = id)]
        before: Option<AuditId>,
    },
    /// Show what is known of a recording
    Show {
        /// Id of the recording: the Audit-ID of its request
        #[arg(value_parser = id)]
        id: AuditId,
    },
    /// Play a recording on this terminal, without what could do more to it than show text
    Play(Play),
    /// Write a recording to a file, asciicast v3
    Export {
        /// Id of the recording: the Audit-ID of its request
        #[arg(value_parser = id)]
        id: AuditId,
        /// The file, which must not exist yet, or - for standard output; <ID>.cast by default
        file: Option<PathBuf>,
    },
    /// Look on while a session runs, from its beginning
    Watch {
        /// Id of the recording: the Audit-ID of its request
        #[arg(value_parser = id)]
        id: AuditId,
        /// Give the terminal everything as it was recorded, also what sets its clipboard or title, or makes it answer
        #[arg(long)]
        raw: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Play {
    /// Id of the recording, or a file that `export` has written
    recording: String,
    /// How much faster than it was
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    speed: f64,
    /// Wait no longer than this between two things, in seconds
    #[arg(long, value_name = "SECONDS")]
    idle_limit: Option<f64>,
    /// Give the terminal everything as it was recorded, also what sets its clipboard or title, or makes it answer
    #[arg(long)]
    raw: bool,
}

fn id(text: &str) -> Result<AuditId, String> {
    AuditId::parse(text).ok_or_else(|| "the id of a recording is a UUID; see: ztka recording list".into())
}

impl Recording {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (api, org) = (&session.api, session.org().await?);
        match self {
            Self::List { lines, before } => {
                let recordings = api.recordings(&org, &RecordingQuery { before, limit: Some(lines) }).await?;
                let heads = ["ID", "STARTED", "USER", "CLUSTER", "POD", "COMMAND", "STATE"];
                session.output.list(&recordings, heads, |recording| {
                    let Recorded { id, started, user, cluster, namespace, pod, .. } = recording;
                    let pod = printable(&format!("{namespace}/{pod}"));
                    let command = printable(&recording.command.join(" "));
                    let (user, cluster) = (user.to_string(), cluster.to_string());
                    [id.to_string(), started.to_string(), user, cluster, pod, command, recording.state.clone()]
                })
            }
            Self::Show { id } => {
                let recording = api.recording(&org, id).await?;
                session.output.one(&recording, || shown(&recording))
            }
            Self::Play(play) => play.run(session).await,
            Self::Export { id, file } => {
                let mut cast = api.cast(&org, id, false).await?;
                let file = file.unwrap_or_else(|| format!("{id}.cast").into());
                if file.as_os_str() == "-" {
                    return copy(&mut cast, &mut std::io::stdout().lock()).await;
                }
                let mut options = std::fs::OpenOptions::new();
                let opened = options.write(true).create_new(true).mode(0o600).open(&file);
                let mut out = opened.with_context(|| format!("{} cannot be made", file.display()))?;
                copy(&mut cast, &mut out).await?;
                out.sync_all()?;
                let recording = api.recording(&org, id).await?;
                session.output.one(&recording, || format!("{}: {}", file.display(), recording.state))
            }
            Self::Watch { id, raw } => {
                let mut player = Player::new(std::io::stdout(), raw || !std::io::stdout().is_terminal());
                let mut cast = api.cast(&org, id, true).await?;
                while let Some(bytes) = cast.next().await? {
                    player.take(&bytes)?;
                    while player.show(Pace::AT_ONCE).await? {}
                }
                player.end()?;
                let recording = api.recording(&org, id).await?;
                ensure!(recording.state != "running", "the controller ended the stream; run the command again");
                eprintln!("{}", shown(&recording));
                Ok(())
            }
        }
    }
}

impl Play {
    async fn run(self, session: &Session) -> anyhow::Result<()> {
        ensure!(self.speed > 0.0 && self.speed.is_finite(), "--speed is more than 0");
        ensure!(self.idle_limit.is_none_or(|limit| limit >= 0.0), "--idle-limit is not negative");
        let pace = Pace { speed: self.speed, idle_limit: self.idle_limit };
        let mut player = Player::new(std::io::stdout(), self.raw);
        match AuditId::parse(&self.recording) {
            Some(id) => {
                let mut cast = session.api.cast(&session.org().await?, id, false).await?;
                while let Some(bytes) = cast.next().await? {
                    player.take(&bytes)?;
                    while player.show(pace).await? {}
                }
            }
            None => {
                let bytes = std::fs::read(&self.recording);
                player.take(&bytes.with_context(|| format!("{} is no id, and no file", self.recording))?)?;
                while player.show(pace).await? {}
            }
        }
        if !player.has_begun() {
            bail!("nothing was recorded");
        }
        player.end()
    }
}

async fn copy(cast: &mut CastStream, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    while let Some(bytes) = cast.next().await? {
        out.write_all(&bytes)?;
    }
    Ok(out.flush()?)
}

/// On one line, whatever is in it.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn shown(recording: &Recorded) -> String {
    let Recorded { id, user, cluster, namespace, pod, kind, started, state, chunks, bytes, hash, .. } = recording;
    let exit = recording.exit.map_or(String::new(), |code| format!(", exit code {code}"));
    let reason = recording.reason.as_ref().map_or(String::new(), |reason| format!(" ({})", printable(reason)));
    let (pod, command) = (printable(&format!("{namespace}/{pod}")), printable(&recording.command.join(" ")));
    format!(
        "{id}: {kind} of {user} into {pod} on {cluster}, {started}: {command}\n\
         {state}{reason}{exit}; {chunks} chunks, {bytes} bytes, hash of the last one {hash}"
    )
}
