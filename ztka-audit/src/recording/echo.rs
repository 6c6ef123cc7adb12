//! Which of what is typed may be seen: what the terminal has shown again.
//!
//! From outside nobody can ask a terminal whether it echoes. What is typed waits here until the output shows the same
//! characters in the same order; what was not shown within a second, or before the output begins a new line, is hidden, and
//! with it everything up to the end of the line that is typed. How much was hidden is not told.

use std::collections::VecDeque;

use jiff::Timestamp;

/// An echo comes within this long, in microseconds: a round trip to the cluster is shorter.
const WINDOW: i64 = 1_000_000;
/// Most characters that wait.
const MOST: usize = 4096;
/// Stands for what is hidden.
const HIDDEN: &str = "***";

#[derive(Clone, Copy, Debug)]
struct Typed {
    key: char,
    /// Part of a key's escape sequence, or a control character: nobody echoes it as it is.
    silent: bool,
    at: i64,
}

impl Typed {
    fn ends_line(self) -> bool {
        matches!(self.key, '\r' | '\n' | '\u{3}' | '\u{4}')
    }
}

/// Follows escape sequences (ECMA-48 §5.3, §5.4, §5.6), to tell them from text.
#[derive(Clone, Copy, Debug, Default)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
    Text,
    TextEscape,
}

impl Sequence {
    /// True if `c` is part of a sequence.
    fn takes(&mut self, c: char) -> bool {
        let (next, part) = match (*self, c) {
            (Self::TextEscape, '\\') => (Self::None, true),
            (_, '\u{1b}') if matches!(self, Self::Text) => (Self::TextEscape, true),
            (_, '\u{1b}') => (Self::Escape, true),
            (Self::None, '\u{9b}') => (Self::Control, true),
            (Self::None, '\u{90}' | '\u{9d}'..='\u{9f}') => (Self::Text, true),
            (Self::None, _) => (Self::None, false),
            (Self::Escape, '[') => (Self::Control, true),
            (Self::Escape, 'O' | 'N' | ' '..='/') => (Self::Escape, true),
            (Self::Escape, ']' | 'P' | '^' | '_' | 'X') => (Self::Text, true),
            (Self::Escape, _) => (Self::None, true),
            (Self::Control, '\u{40}'..='\u{7e}') => (Self::None, true),
            (Self::Control, '\u{20}'..='\u{3f}') => (Self::Control, true),
            (Self::Control, _) => (Self::None, false),
            (Self::Text, '\u{7}' | '\u{9c}') => (Self::None, true),
            (Self::Text | Self::TextEscape, _) => (Self::Text, true),
        };
        *self = next;
        part
    }
}

/// What was typed, and what of it may be seen.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    waiting: VecDeque<Typed>,
    /// The rest of the line is hidden.
    hiding: bool,
    decided: String,
    input: Sequence,
    output: Sequence,
}

impl Echo {
    pub(crate) fn typed(&mut self, text: &str, at: Timestamp) {
        let at = at.as_microsecond();
        for key in text.chars() {
            let silent = self.input.takes(key) || key.is_control();
            self.waiting.push_back(Typed { key, silent, at });
        }
        while self.waiting.len() > MOST {
            self.decide(false);
        }
        self.pass_silent();
    }

    pub(crate) fn shown(&mut self, text: &str, at: Timestamp) {
        self.expire(at);
        for (place, c) in text.char_indices() {
            if self.waiting.is_empty() {
                return self.follow_output(text.get(place..).unwrap_or_default());
            }
            if matches!(c, '\r' | '\n') {
                // Whatever stood before the line's end and was not shown by now was not echoed.
                if let Some(end) = self.waiting.iter().position(|typed| typed.ends_line()) {
                    (0..=end).for_each(|_| self.decide(false));
                }
                self.pass_silent();
            } else if !self.output.takes(c) && self.waiting.front().is_some_and(|typed| typed.key == c) {
                self.decide(true);
                self.pass_silent();
            }
        }
    }

    /// Hides what has waited for too long.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let now = now.as_microsecond();
        while self.waiting.front().is_some_and(|typed| now.saturating_sub(typed.at) > WINDOW) {
            self.decide(false);
        }
        self.pass_silent();
    }

    /// Hides all that waits.
    pub(crate) fn finish(&mut self) {
        while !self.waiting.is_empty() {
            self.decide(false);
        }
    }

    /// What may be seen since the last time.
    pub(crate) fn take(&mut self) -> Option<String> {
        (!self.decided.is_empty()).then(|| std::mem::take(&mut self.decided))
    }

    /// Nothing waits: only whether the text ends within a sequence counts.
    fn follow_output(&mut self, text: &str) {
        // Long output has its last sequence near its end; one that is longer than this is text.
        let tail = text.char_indices().rev().nth(256).map_or(0, |(place, _)| place);
        if tail > 0 {
            self.output = Sequence::None;
        }
        for c in text.get(tail..).unwrap_or_default().chars() {
            self.output.takes(c);
        }
    }

    fn pass_silent(&mut self) {
        while self.waiting.front().is_some_and(|typed| typed.silent) {
            self.decide(false);
        }
    }

    fn decide(&mut self, echoed: bool) {
        let Some(typed) = self.waiting.pop_front() else { return };
        if typed.ends_line() {
            self.hiding = false;
            self.decided.push(typed.key);
        } else if self.hiding {
            // It says *** already.
        } else if echoed || typed.silent {
            self.decided.push(typed.key);
        } else {
            self.hiding = true;
            self.decided.push_str(HIDDEN);
        }
    }
}

#[cfg(test)]
mod tests;
