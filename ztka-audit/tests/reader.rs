//! Whatever is on the disk, reading it ends, and never returns a record that was not written.
#![expect(clippy::unwrap_used, reason = "clippy.toml does not reach the helpers of a test")]

use std::{fs, path::Path};

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};
use ztka_audit::{Event, Journal as _, Record, Spool, SpoolOptions, Stage, read};
use ztka_core::{AuditId, SystemClock};

/// A spool of two segments, and what is in it.
fn written(dir: &Path) -> Vec<Record> {
    for segment in [4096, 1 << 20] {
        let (spool, _) = Spool::open(SpoolOptions::new(dir).segment(segment), &SystemClock).unwrap();
        for _ in 0..8 {
            spool.note(&Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::UNIX_EPOCH));
        }
    }
    read(dir).collect::<Result<_, _>>().unwrap()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    paths.sort();
    paths
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changed_bytes_change_no_record(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut: Option<u16>) {
        let dir = tempfile::tempdir().unwrap();
        let records = written(dir.path());
        for path in segments(dir.path()) {
            let mut bytes = fs::read(&path).unwrap();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let length = cut.map_or(bytes.len(), |cut| bytes.len().saturating_sub(usize::from(cut)));
            fs::write(&path, &bytes[..length]).unwrap();
        }
        let good: Vec<_> = read(dir.path()).flatten().collect();
        prop_assert!(good.iter().all(|record| records.contains(record)));
        // A start copes with it as well, and what it writes is read back.
        let (spool, _) = Spool::open(SpoolOptions::new(dir.path()), &SystemClock).unwrap();
        let event = Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::UNIX_EPOCH);
        spool.note(&event);
        drop(spool);
        let last = read(dir.path()).flatten().last().unwrap();
        prop_assert_eq!(last.id, event.audit_id);
        prop_assert!(last.sequence >= good.len() as u64);
    }

    #[test]
    fn any_bytes_are_read_to_their_end(bytes in vec(any::<u8>(), 0..4096)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00000000000000000007.segment"), bytes).unwrap();
        prop_assert_eq!(read(dir.path()).flatten().count(), 0);
    }
}
