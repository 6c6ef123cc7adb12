//! A disk that fails in every way at any time: nothing acknowledged is lost, and nothing damaged is left behind.

use super::*;

/// Numbers that look random and are the same each time (xorshift).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Fails one time in `rate`, each time in another way.
#[derive(Debug)]
struct Moody {
    random: Mutex<Random>,
    rate: AtomicUsize,
}

impl Moody {
    fn mood(&self) -> Option<u64> {
        let mut random = self.random.lock().unwrap();
        let rate = self.rate.load(SeqCst) as u64;
        (rate > 0 && random.below(rate) == 0).then(|| random.below(4))
    }
}

fn broken(mood: u64) -> io::Error {
    match mood {
        0 => io::ErrorKind::StorageFull.into(),
        1 => io::ErrorKind::ReadOnlyFilesystem.into(),
        2 => io::Error::other("input/output error"),
        _ => io::ErrorKind::QuotaExceeded.into(),
    }
}

impl Disk for Moody {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if let Some(mood) = self.mood() {
            // Nothing of it, or some, or all of it is there all the same.
            let some = usize::try_from(self.random.lock().unwrap().below(bytes.len() as u64 + 1)).unwrap();
            FileSystem.append(file, &bytes[..some])?;
            return Err(broken(mood));
        }
        FileSystem.append(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if let Some(mood) = self.mood() {
            return Err(broken(mood));
        }
        // Slow now and then, so that others come meanwhile.
        if self.random.lock().unwrap().below(8) == 0 {
            thread::yield_now();
        }
        FileSystem.sync(file)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        if let Some(mood) = self.mood() {
            return Err(broken(mood));
        }
        FileSystem.truncate(file, length)
    }

    fn boot(&self) -> Option<String> {
        Some("the same".into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_disk_does_nothing_acknowledged_is_lost() {
    let (mut acknowledged, mut refused) = (0, 0);
    for seed in 1..40 {
        let (_keep, dir) = dir();
        let options = SpoolOptions::new(&dir).segment(8 * 1024);
        let disk = Arc::new(Moody { random: Mutex::new(Random(seed * 7919)), rate: AtomicUsize::new(6) });
        let mut known = Vec::new();
        for _ in 0..3 {
            let (spool, recovery) = open_on(options.clone(), disk.clone());
            assert!(recovery.damage.is_empty() && recovery.gap.is_none(), "seed {seed}: {recovery:?}");
            let turns = (0..40).map(|turn| {
                let spool = spool.clone();
                let durability = if turn % 3 == 0 { Durability::Synced } else { Durability::Written };
                tokio::spawn(async move {
                    let ended = record(&spool, durability).await?;
                    spool.note(&ended);
                    Ok::<_, Unrecorded>(ended.audit_id)
                })
            });
            for turn in turns.collect::<Vec<_>>() {
                match turn.await.unwrap() {
                    Ok(id) => known.push(id),
                    Err(_) => refused += 1,
                }
            }
            // The end is written by a disk that works again.
            disk.rate.store(0, SeqCst);
            drop(spool);
            disk.rate.store(6, SeqCst);
        }
        let opened: Vec<_> = whole(&dir).into_iter().filter(|record| record.kind == Kind::Open).collect();
        for id in &known {
            assert!(opened.iter().any(|record| record.id == *id), "seed {seed}: {id} was acknowledged and is lost");
        }
        acknowledged += known.len();
    }
    assert!(acknowledged > 500 && refused > 50, "{acknowledged} acknowledged, {refused} refused");
}

#[tokio::test]
async fn a_read_only_disk_refuses_and_serves_again() {
    let (_keep, dir) = dir();
    let disk = Arc::new(Moody { random: Mutex::new(Random(1)), rate: AtomicUsize::new(0) });
    let (spool, _) = open_on(SpoolOptions::new(&dir), disk.clone());
    disk.rate.store(1, SeqCst);
    let refused = record(&spool, Durability::Written).await.unwrap_err();
    assert!(refused.to_string().contains("disk"), "{refused}");
    disk.rate.store(0, SeqCst);
    record(&spool, Durability::Synced).await.unwrap();
    drop(spool);
    whole(&dir);
}

#[tokio::test]
async fn what_was_cut_off_in_the_middle_of_a_spool_is_reported_by_place_and_number() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir).segment(4096));
    for _ in 0..20 {
        complete(&spool).await;
    }
    drop(spool);
    let records = whole(&dir);
    let first = segment::path(&dir, 1);
    let of_first = records.iter().filter(|record| record.position.segment == 1).count();
    let cut = &records[of_first - 2];
    let file = fs::OpenOptions::new().write(true).open(&first).unwrap();
    file.set_len(cut.position.offset + 10).unwrap();
    let damage: Vec<_> = Reader::new(&dir).filter_map(Result::err).collect();
    let [Damage::Bytes { at, bytes: 10 }, Damage::Missing { from, to, .. }] = damage[..] else { panic!("{damage:?}") };
    assert_eq!(at, cut.position);
    assert_eq!((from, to), (cut.sequence, of_first as u64));
    assert_eq!((damage[0].file(&dir), damage[1].place()), (first, Position { segment: 2, offset: 0 }));
}

#[tokio::test]
async fn all_records_are_synced_if_that_is_asked_for_and_those_of_a_window_at_once() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir).sync_all(true));
    record(&spool, Durability::Written).await.unwrap();
    assert_eq!(disk.syncs.load(SeqCst), 1);
    drop(spool);

    let (spool, disk) = faulty(SpoolOptions::new(&dir).window(Duration::from_millis(200)));
    let opened: Vec<_> =
        (0..20).map(|_| Journal::open(&spool, &event(Stage::RequestReceived), Durability::Synced)).collect();
    for opening in opened {
        opening.await.unwrap();
    }
    assert!(disk.syncs.load(SeqCst) <= 2, "{} syncs", disk.syncs.load(SeqCst));
}
