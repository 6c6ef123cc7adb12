//! Replays a corpus in an ordinary test; included by the tests of every crate that a fuzz target is about.

use std::{fs, path::Path};

/// Runs `target` on each file of the corpus `name`, and on `bent` changed copies of each: cut, flipped, doubled, always
/// in the same way. It panics where something does not hold.
///
/// A corpus that is all accepted or all refused shows little, so that fails as well.
pub(crate) fn replay(name: &str, bent: u32, target: fn(&[u8]) -> bool) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let folder = here.map(|folder| folder.join("fuzz/corpus").join(name)).find(|folder| folder.is_dir());
    let folder = folder.unwrap_or_else(|| panic!("there is no corpus of {name}"));
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut accepted = 0;
    for file in &files {
        let content = fs::read(file).unwrap();
        let run = |input: &[u8]| {
            let fine = std::panic::catch_unwind(|| target(input));
            fine.unwrap_or_else(|_| panic!("{}: b\"{}\"", file.display(), input.escape_ascii()))
        };
        accepted += usize::from(run(&content));
        let mut random = Random(content.len() as u64 + 1);
        for _ in 0..bent {
            run(&random.bend(&content));
        }
    }
    assert!(accepted > 0 && accepted < files.len(), "{name}: {accepted} of {} accepted", files.len());
}

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn bend(&mut self, content: &[u8]) -> Vec<u8> {
        let mut bent = content.to_vec();
        for _ in 0..=self.below(3) {
            let (from, to) = (self.below(bent.len()), self.below(bent.len()));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(5) {
                0 => bent.truncate(to),
                1 => drop(bent.drain(from..to)),
                2 => {
                    let again = bent[from..to].to_vec();
                    bent.splice(to..to, again);
                }
                3 if to < bent.len() => bent[to] = self.below(256) as u8,
                _ if to < bent.len() => bent[to] ^= 1 << self.below(8),
                _ => {}
            }
        }
        bent
    }
}
