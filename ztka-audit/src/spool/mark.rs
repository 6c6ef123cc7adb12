//! Whether the last process could close the spool, and in which run of the machine it had it open.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::segment;

const NAME: &str = "mark.json";
/// One has two words.
const LONGEST: u64 = 4096;

/// What is kept in `mark.json`. It is on the disk before a first record is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// Names the run of the machine; none where that is not known.
    pub(super) boot: Option<String>,
    /// True while a process has the spool open, and after one that could not close it.
    pub(super) open: bool,
}

impl Mark {
    /// What the last process has left; none of a spool that is new, or from before there were marks.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(NAME);
        let known = fs::metadata(&path).is_ok_and(|found| found.len() <= LONGEST);
        let json = if known { fs::read(path).ok()? } else { return None };
        // Of one that cannot be read the worst is assumed.
        Some(serde_json::from_slice(&json).unwrap_or(Self { boot: None, open: true }))
    }

    /// True if what was written and not synced may be gone by now: nobody closed the spool, and the machine is not known
    /// to have gone on running since.
    pub(super) fn may_have_lost(&self, boot: Option<&str>) -> bool {
        self.open && (boot.is_none() || self.boot.as_deref() != boot)
    }

    /// Writes it, durably: the file is the old or the new one.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("mark.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_data()?;
        fs::rename(new, dir.join(NAME))?;
        segment::sync_dir(dir)
    }
}

/// Linux's name of this run of the machine (`random(4)`); none elsewhere.
pub(super) fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
