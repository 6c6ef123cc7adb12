//! The machine loses power: what was synced is there, and an event says that the rest may not be.

use super::*;

/// The directory as the disk has it when the power goes, and `torn` bytes more of what was on its way.
fn power_cut(dir: &Path, disk: &Faulty, torn: u64) -> (TempDir, PathBuf) {
    let copy = tempfile::tempdir().unwrap();
    let left = copy.path().join("spool");
    fs::create_dir(&left).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let to = left.join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        let about = entry.metadata().unwrap();
        let synced = disk.synced.lock().unwrap().get(&about.ino()).copied();
        if let Some(synced) = synced {
            let file = fs::OpenOptions::new().write(true).open(&to).unwrap();
            file.set_len((synced + torn).min(about.len())).unwrap();
        }
    }
    disk.boots.fetch_add(1, SeqCst);
    (copy, left)
}

fn gaps(dir: &Path) -> Vec<Event> {
    let events = whole(dir).into_iter().map(|record| Event::from_json(record.payload.as_bytes()).unwrap());
    events.filter(|event| event.fact("gap").is_some()).collect()
}

#[tokio::test]
async fn a_power_cut_loses_reads_alone_and_leaves_a_gap_event() {
    for torn in [0, 1, 700, 1500] {
        let (_keep, dir) = dir();
        let (spool, disk) = faulty(SpoolOptions::new(&dir));
        let mut changes = Vec::new();
        for _ in 0..3 {
            changes.push(record(&spool, Durability::Synced).await.unwrap().audit_id);
        }
        for _ in 0..5 {
            record(&spool, Durability::Written).await.unwrap();
        }
        let (_copy, left) = power_cut(&dir, &disk, torn);
        drop(spool);

        let (spool, recovery) = open_on(SpoolOptions::new(&left), disk.clone());
        let Some(Gap::PowerLoss { from, since: Some(_) }) = recovery.gap else { panic!("{:?}", recovery.gap) };
        drop(spool);
        let records = whole(&left);
        assert!(changes.iter().all(|id| records.iter().any(|record| record.id == *id)), "a synced one is lost");
        let [event]: [Event; 1] = gaps(&left).try_into().unwrap();
        assert_eq!((event.fact("gap"), event.fact("gap-from")), (Some("power-loss"), Some(&*from.to_string())));
        // It stands where the missing ones would, before what was open is closed.
        assert_eq!(records[usize::try_from(from).unwrap()].id, event.audit_id);
        assert_eq!(records.len(), 2 * usize::try_from(from).unwrap() + 1);

        // It is said once.
        let (_spool, recovery) = open_on(SpoolOptions::new(&left), disk.clone());
        assert_eq!(recovery.gap, None);
    }
}

#[tokio::test]
async fn a_power_cut_at_the_start_after_one_does_not_hide_it() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    record(&spool, Durability::Synced).await.unwrap();
    let (_copy, left) = power_cut(&dir, &disk, 0);
    let (second, _) = open_on(SpoolOptions::new(&left), disk.clone());
    let (_copy, left) = power_cut(&left, &disk, 0);
    drop((spool, second));
    let (_spool, recovery) = open_on(SpoolOptions::new(&left), disk);
    assert!(recovery.gap.is_some());
    assert_eq!(gaps(&left).len(), 2);
}

#[tokio::test]
async fn neither_a_restart_nor_a_killed_process_is_a_loss_of_power() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    record(&spool, Durability::Written).await.unwrap();
    // Killed: what it has written is as it was, and so is the run of the machine.
    let (_copy, left) = power_cut(&dir, &disk, u64::MAX / 2);
    disk.boots.fetch_sub(1, SeqCst);
    let (_killed, recovery) = open_on(SpoolOptions::new(&left), disk.clone());
    assert_eq!((recovery.gap, recovery.interrupted), (None, 1));
    drop(spool);
    disk.boots.fetch_add(1, SeqCst);
    let (_stopped, recovery) = open_on(SpoolOptions::new(&dir), disk);
    assert_eq!(recovery.gap, None);
}

#[test]
fn of_a_mark_that_cannot_be_read_the_worst_is_assumed() {
    let (_keep, dir) = dir();
    drop(open(SpoolOptions::new(&dir)));
    fs::write(dir.join("mark.json"), "{").unwrap();
    assert!(open(SpoolOptions::new(&dir)).1.gap.is_some());
    assert!(open(SpoolOptions::new(&dir)).1.gap.is_none());
}
