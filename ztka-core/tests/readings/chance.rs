//! Requests by chance, out of the words that matter.

use super::words::{METHODS, PARAMETERS, SEGMENTS};

/// Xorshift: the same requests in every run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// A word as it is, or with one byte escaped or replaced.
    fn word(&mut self, words: &[&str]) -> String {
        let word = self.of(words);
        if word.is_empty() || !word.is_ascii() || self.below(12) != 0 {
            return word.to_owned();
        }
        let at = self.below(word.len());
        let (before, after) = (&word[..at], &word[at + 1..]);
        match self.below(3) {
            0 => format!("{before}%{:02x}{after}", word.as_bytes()[at]),
            1 => format!("{before}%{:02X}{after}", self.below(256)),
            _ => format!("{before}{}{after}", char::from(b"!$&'()*+,-./:;=?@\\^_`|~%"[self.below(24)])),
        }
    }

    /// Method and target.
    pub(crate) fn request(&mut self) -> (&'static str, String) {
        const HEADS: [&str; 9] = [
            "",
            "",
            "/api/v1",
            "/api/v1",
            "/apis/apps/v1",
            "/api/v1/namespaces/default",
            "/api/v1/watch",
            "/api/v1/proxy",
            "http://h/api/v1",
        ];
        let mut target = self.of(&HEADS).to_owned();
        for _ in 0..self.below(8) {
            target.push('/');
            target.push_str(&self.word(&SEGMENTS));
        }
        if self.below(8) == 0 {
            target.push('/');
        }
        for parameter in 0..self.below(5).saturating_sub(1) {
            target.push(if parameter == 0 { '?' } else { '&' });
            target.push_str(&self.word(&PARAMETERS));
        }
        (METHODS[self.below(METHODS.len())], target)
    }
}
