//! How many tests passed, failed and were skipped, as read from what test programs print.

use std::ops::AddAssign;

/// Counts of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Tests that said they could not run here; their test program counts them as passed.
    pub(crate) notices: u64,
}

impl Tally {
    /// The counts as they are to be told: a test that said it could not run is skipped, not passed.
    pub(crate) fn settled(self) -> Self {
        let skipped = self.skipped + self.notices;
        Self { passed: self.passed.saturating_sub(self.notices), failed: self.failed, skipped, notices: 0 }
    }

    /// Reads one line: the result of a test program, or the notice of a test that could not run here.
    pub(crate) fn read(&mut self, line: &str) {
        let line = without_colours(line);
        let line = line.trim();
        if line.starts_with("SKIPPED ") {
            self.notices += 1;
        } else if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            for count in counts.split(';') {
                let mut words = count.split_whitespace();
                let number = words.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
                match words.next() {
                    Some("passed") => self.passed += number,
                    Some("failed") => self.failed += number,
                    Some("ignored") => self.skipped += number,
                    _ => {}
                }
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.notices += other.notices;
    }
}

/// Removes `ESC [ … m`.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_results_in_colour_and_without() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s\n");
        tally.read("test result: \x1b[31mFAILED\x1b[0m. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n");
        tally.read("test a ... ok");
        assert_eq!(tally, Tally { passed: 7, failed: 1, skipped: 1, notices: 0 });
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one() {
        let (mut errors, mut tally) = (Tally::default(), Tally::default());
        errors.read("SKIPPED a test with a real node: a real node needs root, this is user 1000");
        tally.read("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        errors += tally;
        assert_eq!(errors.settled(), Tally { passed: 2, failed: 0, skipped: 1, notices: 0 });
    }
}
