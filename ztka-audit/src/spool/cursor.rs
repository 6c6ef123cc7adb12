//! How far each consumer has come, kept beside the segments.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{frame::Position, segment};

/// The places up to which the consumers of a spool have taken it.
#[derive(Debug)]
pub(super) struct Cursors {
    dir: PathBuf,
    places: Mutex<BTreeMap<String, Position>>,
}

impl Cursors {
    /// Reads the cursors of `names`. One that is not there, or not readable, starts at the beginning.
    pub(super) fn read(dir: &Path, names: &[String]) -> Self {
        let place = |name: &String| {
            let json = fs::read(path(dir, name)).ok()?;
            serde_json::from_slice(&json).ok()
        };
        let places = names.iter().map(|name| (name.clone(), place(name).unwrap_or_default())).collect();
        Self { dir: dir.to_owned(), places: Mutex::new(places) }
    }

    /// Sends back to the beginning of its segment whoever is ahead of `end`; they see records again, and lose none.
    pub(super) fn confine(&self, end: Position) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places.values_mut().filter(|place| **place > end) {
            *place = Position { segment: if place.segment > end.segment { 0 } else { place.segment }, offset: 0 };
        }
    }

    pub(super) fn place(&self, name: &str) -> Option<Position> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Who is furthest behind, and where; none without consumers.
    pub(super) fn last(&self) -> Option<(String, Position)> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().min_by_key(|(_, place)| **place).map(|(name, place)| (name.clone(), *place))
    }

    pub(super) fn all(&self) -> BTreeMap<String, Position> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves `name` to `place`: the file is the old or the new one, never half of it. Blocks.
    ///
    /// On the disk it is when this returns only for the first place in a segment: a place that a loss of power takes
    /// back costs no more than seeing a part of a segment twice, and syncs have better uses.
    pub(super) fn set(&self, name: &str, place: Position) -> io::Result<()> {
        let (to, new) = (path(&self.dir, name), self.dir.join(format!("cursor-{name}.new")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&place)?)?;
        let durable = self.place(name).is_none_or(|held| held.segment != place.segment);
        if durable {
            file.sync_data()?;
        }
        fs::rename(new, to)?;
        if durable {
            segment::sync_dir(&self.dir)?;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(name.to_owned(), place);
        Ok(())
    }
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("cursor-{name}.json"))
}
