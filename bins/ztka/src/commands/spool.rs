//! `ztka audit cat`: reads the spool of a proxy, or the receipts of an agent, where they lie.

use std::{
    io::{self, ErrorKind, Write},
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use ztka_audit::{printable, read};

use crate::output::No;

#[derive(Args, Debug)]
pub(crate) struct Cat {
    /// The spool: `audit` in the state directory of a proxy, or `receipts` in that of an agent; may be in use
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only records with this sequence number or a later one
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    from: u64,
}

impl Cat {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = self.dir.display();
        let has_segments = std::fs::read_dir(&self.dir)
            .with_context(|| format!("cannot read {name}; check that it exists and whose it is"))?
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|extension| extension == "segment"));
        ensure!(has_segments, "{name} is no spool: it has no segments");
        match self.print(&mut io::stdout().lock(), &mut io::stderr().lock()) {
            Ok(0) => Ok(()),
            Ok(_) => Err(No.into()),
            // Whoever reads has had enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error).context("cannot write"),
        }
    }

    /// How much damage there is.
    fn print(&self, out: &mut impl Write, told: &mut impl Write) -> io::Result<u64> {
        let mut damaged = 0;
        for item in read(&self.dir) {
            match item {
                Ok(record) if record.sequence < self.from => {}
                Ok(record) => writeln!(out, "{}", printable(&record.payload))?,
                Err(damage) => {
                    damaged += 1;
                    writeln!(told, "{}: {damage}", printable(&damage.file(&self.dir).to_string_lossy()))?;
                }
            }
        }
        out.flush()?;
        Ok(damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt as _};

    use jiff::Timestamp;
    use ztka_audit::{Event, Journal as _, Spool, SpoolOptions, Stage};
    use ztka_core::{AuditId, SystemClock};

    use super::*;

    #[test]
    fn what_is_whole_is_printed_and_what_is_damaged_is_told_by_file_and_byte() {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("spool");
        let (spool, _) = Spool::open(SpoolOptions::new(&dir), &SystemClock).unwrap();
        for name in ["a", "b\u{1b}[31m\u{202e}\n", "c"] {
            let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::UNIX_EPOCH);
            event.user_agent = name.into();
            spool.note(&event);
        }
        drop(spool);
        let cat = |from| {
            let (mut out, mut told) = (Vec::new(), Vec::new());
            let damaged = Cat { dir: dir.clone(), from }.print(&mut out, &mut told).unwrap();
            (String::from_utf8(out).unwrap(), String::from_utf8(told).unwrap(), damaged)
        };
        let (out, told, damaged) = cat(0);
        assert_eq!((out.lines().count(), told.as_str(), damaged), (3, "", 0));
        assert!(out.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{out}");
        assert_eq!(cat(2).0.lines().count(), 1);

        let file = dir.join("00000000000000000001.segment");
        let size = fs::metadata(&file).unwrap().len();
        fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"?", size / 2).unwrap();
        let (out, told, damaged) = cat(0);
        assert!(out.lines().count() == 2 && damaged == 2, "{told}");
        assert!(
            told.contains("0001.segment: ") && told.contains("damaged from byte") && told.contains("records 1 to 1"),
            "{told}"
        );
        assert!(Cat { dir: keep.path().into(), from: 0 }.run().unwrap_err().to_string().contains("no spool"));
    }
}
