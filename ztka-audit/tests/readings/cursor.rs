//! A consumer's place is where it was, or earlier: records may be seen twice, and none is skipped.

use std::{fs, path::Path, sync::OnceLock};

use serde_json::Value;
use ztka_audit::{Journal as _, Position, Reader, Record, Spool, SpoolOptions, read};
use ztka_core::SystemClock;

use super::event;

struct Written {
    files: Vec<(String, Vec<u8>)>,
    records: Vec<Record>,
}

/// A spool of three segments.
fn written() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            let (spool, _) = Spool::open(SpoolOptions::new(dir.path()).segment(700), &SystemClock).unwrap();
            for _ in 0..2 {
                spool.note(&event());
            }
        }
        let files = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let files = files.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
        Written { files, records: read(dir.path()).collect::<Result<_, _>>().unwrap() }
    })
}

/// The content of a cursor's file; true if the place in it is gone by.
pub(crate) fn spool_cursor(data: &[u8]) -> bool {
    let written = written();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &written.files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let file = dir.path().join("cursor-c.json");
    fs::write(&file, data).unwrap();

    let said = serde_json::from_slice::<Value>(data).ok().and_then(|value| {
        let object = value.as_object()?;
        let exact = object.len() == 2 && data.iter().filter(|byte| **byte == b':').count() == 2;
        let number = |name: &str| object.get(name)?.as_u64();
        exact.then_some(Position { segment: number("segment")?, offset: number("offset")? })
    });
    // Whatever is said: reading from there ends, and brings nothing that was not written.
    if let Some(said) = said {
        let mut reader = Reader::resume(dir.path(), said);
        let seen: Vec<_> = reader.by_ref().flatten().collect();
        assert!(seen.iter().all(|record| written.records.contains(record)));
        assert!(reader.position() >= said || reader.position().segment >= said.segment);
        assert!(read(dir.path()).until(said).flatten().count() + seen.len() <= written.records.len());
    }

    let (spool, _) = Spool::open(SpoolOptions::new(dir.path()).consumer("c"), &SystemClock).unwrap();
    let (place, end) = (spool.cursor("c").unwrap(), spool.status().end);
    assert!(place <= end);
    let believed = match said {
        Some(said) if said <= end => {
            assert_eq!(place, said);
            true
        }
        Some(said) => {
            let segment = if said.segment > end.segment { 0 } else { said.segment };
            assert_eq!(place, Position { segment, offset: 0 });
            false
        }
        None => {
            // What is no object of two numbers may be another spelling of one, or the beginning of everything.
            serde_json::from_slice::<Position>(data).is_ok_and(|spelt| spelt == place) || {
                assert_eq!(place, Position::default());
                false
            }
        }
    };
    let seen: Vec<Record> = Reader::resume(dir.path(), place).until(end).flatten().collect();
    let due = written.records.iter().filter(|record| record.position >= place);
    assert!(due.clone().all(|record| seen.contains(record)) && seen.len() == due.count());
    // What a consumer says is what it is told after the next start.
    spool.set_cursor("c", end).unwrap();
    drop(spool);
    let (spool, _) = Spool::open(SpoolOptions::new(dir.path()).consumer("c"), &SystemClock).unwrap();
    assert_eq!(spool.cursor("c"), Some(end));
    believed
}
