//! Plays asciicast v3.

use std::{io::Write, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::terminal::Filter;

/// How fast it is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) speed: f64,
    /// Seconds.
    pub(super) idle_limit: Option<f64>,
}

impl Pace {
    pub(super) const AT_ONCE: Self = Self { speed: f64::INFINITY, idle_limit: None };

    fn wait(self, interval: f64) -> Duration {
        let interval = self.idle_limit.map_or(interval, |limit| interval.min(limit)) / self.speed;
        Duration::try_from_secs_f64(interval.max(0.0)).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

/// Shows what it is given, line by line.
#[derive(Debug)]
pub(super) struct Player<W> {
    out: W,
    filter: Option<Filter>,
    held: Vec<u8>,
    begun: bool,
}

impl<W: Write> Player<W> {
    /// With `raw` the terminal gets everything.
    pub(super) fn new(out: W, raw: bool) -> Self {
        Self { out, filter: (!raw).then(Filter::default), held: Vec::new(), begun: false }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// More of the recording.
    pub(super) fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.held.extend_from_slice(bytes);
        if !self.begun
            && let Some(header) = self.line()
        {
            let header: Header = serde_json::from_slice(&header).context("this is no asciicast")?;
            ensure!(header.version == 3, "this is asciicast version {}, and not 3", header.version);
            self.begun = true;
        }
        Ok(())
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.held.iter().position(|byte| *byte == b'\n')?;
        let rest = self.held.split_off(end + 1);
        Some(std::mem::replace(&mut self.held, rest))
    }

    /// Shows the next event when its time has come; false if there is none yet.
    pub(super) async fn show(&mut self, pace: Pace) -> anyhow::Result<bool> {
        let Some(line) = self.line() else { return Ok(false) };
        if line.starts_with(b"#") || line.trim_ascii().is_empty() {
            return Ok(true);
        }
        let (interval, code, data): (f64, String, Value) =
            serde_json::from_slice(&line).context("a line of the recording is no event")?;
        let wait = pace.wait(interval);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if code == "o"
            && let Some(text) = data.as_str()
        {
            match &mut self.filter {
                Some(filter) => self.out.write_all(filter.pass(text).as_bytes())?,
                None => self.out.write_all(text.as_bytes())?,
            }
            self.out.flush()?;
        }
        Ok(true)
    }

    /// Leaves the terminal as it should be.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        if self.filter.is_some() && self.begun {
            self.out.write_all(Filter::AFTERWARDS.as_bytes())?;
        }
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAST: &str = "{\"version\":3,\"term\":{\"cols\":80,\"rows\":24}}\n# a comment\n[1.0,\"o\",\"one \"]\n[9.0,\"i\",\"x\"]\n\
                        [4.0,\"o\",\"two\\u001b]52;c;eA==\\u0007\"]\n[0.1,\"x\",\"0\"]\n";

    async fn played(raw: bool, pace: Pace, cuts: usize) -> (String, Duration) {
        let (mut out, begun) = (Vec::new(), tokio::time::Instant::now());
        let mut player = Player::new(&mut out, raw);
        for part in CAST.as_bytes().chunks(cuts) {
            player.take(part).unwrap();
            while player.has_begun() && player.show(pace).await.unwrap() {}
        }
        player.end().unwrap();
        (String::from_utf8(out).unwrap(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn plays_at_its_pace_whatever_the_pieces() {
        let as_it_was = Pace { speed: 1.0, idle_limit: None };
        for cuts in [1, 7, 1000] {
            let (shown, took) = played(false, as_it_was, cuts).await;
            assert_eq!(shown, format!("one two{}", Filter::AFTERWARDS));
            assert!((took.as_secs_f64() - 14.1).abs() < 0.02, "{took:?}");
        }
        let (_, took) = played(false, Pace { speed: 2.0, idle_limit: Some(2.0) }, 50).await;
        assert!((took.as_secs_f64() - 2.55).abs() < 0.02, "{took:?}");
        let (shown, took) = played(true, Pace::AT_ONCE, 50).await;
        assert_eq!((shown.as_str(), took), ("one two\u{1b}]52;c;eA==\u{7}", Duration::ZERO));
    }

    #[test]
    fn what_is_no_asciicast_3_is_refused() {
        for other in ["{\"version\":2,\"width\":80}\n", "hello\n"] {
            assert!(Player::new(Vec::new(), false).take(other.as_bytes()).is_err());
        }
    }
}
