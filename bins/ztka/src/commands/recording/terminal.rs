//! What a recording may do to the terminal of whoever looks at it: show text, and nothing else.
//!
//! A session is made by whoever is looked at. What is let through is what draws: text, movements of the cursor, colours,
//! erasing, scrolling, the other screen. Everything else goes: clipboard, title and links (OSC), device control (DCS), what a
//! terminal answers to as if its user had typed, printing, modes of mouse and keyboard, and what is not known.

use std::fmt::Write as _;

/// Longest sequence that is let through.
const LONGEST: usize = 64;
/// Most repetitions of a character.
const MOST_REPEATED: u32 = 1000;
/// Modes that draw: insert; origin, wrapping, blinking, visible cursor, the other screen.
const PLAIN_MODES: [u32; 1] = [4];
const PRIVATE_MODES: [u32; 8] = [6, 7, 12, 25, 47, 1047, 1048, 1049];

/// Lets through what draws. Sequences may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Filter {
    state: State,
    held: String,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Text,
    Escape,
    /// Behind ESC and an intermediate character.
    Designation,
    Control,
    /// A string that ends with BEL or ST.
    String,
    StringEscape,
}

impl Filter {
    /// Colours, wrapping, cursor, the usual screen, scrolling of all of it, the usual characters.
    pub(super) const AFTERWARDS: &'static str =
        "\u{1b}[0m\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l\u{1b}[4l\u{1b}7\u{1b}[r\u{1b}8\u{1b}(B\u{f}";

    /// What of `text` may be shown.
    pub(super) fn pass(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            self.next(c, &mut out);
        }
        out
    }

    fn next(&mut self, c: char, out: &mut String) {
        match (self.state, c) {
            (State::String, '\u{1b}') => self.state = State::StringEscape,
            (State::String, '\u{7}' | '\u{9c}' | '\u{18}' | '\u{1a}') | (State::StringEscape, '\\') => {
                self.state = State::Text
            }
            (State::StringEscape, '\u{1b}') => {}
            (State::String | State::StringEscape, _) => self.state = State::String,
            (_, '\u{1b}') => self.begin(State::Escape),
            (_, '\u{9b}') => self.begin(State::Control),
            (_, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}') => self.state = State::String,
            (_, '\u{18}' | '\u{1a}') => self.state = State::Text,
            // Within a sequence a terminal does what a control character says, and goes on with the sequence.
            (_, '\u{8}'..='\u{f}' | '\u{7}') => out.push(c),
            (_, c) if c.is_control() => {}
            (State::Text, _) => out.push(c),
            (State::Escape, '[') => self.begin(State::Control),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => self.state = State::String,
            (State::Escape, ' '..='/') => {
                self.begin(State::Designation);
                self.held.push(c);
            }
            (State::Escape, _) => {
                self.state = State::Text;
                match c {
                    '7' | '8' | 'D' | 'E' | 'H' | 'M' => {
                        let _ = write!(out, "\u{1b}{c}");
                    }
                    // A reset, as far as it draws.
                    'c' => out.push_str("\u{1b}[0m\u{1b}[r\u{1b}[2J\u{1b}[H"),
                    _ => {}
                }
            }
            (State::Designation, ' '..='/') => self.held.push(c),
            (State::Designation, _) => {
                self.state = State::Text;
                if matches!(self.held.as_str(), "(" | ")") && matches!(c, '0' | 'A' | 'B') {
                    let _ = write!(out, "\u{1b}{}{c}", self.held);
                }
            }
            (State::Control, '\u{20}'..='\u{3f}') if self.held.len() < LONGEST => self.held.push(c),
            // Too long to be anything.
            (State::Control, '\u{20}'..='\u{3f}') => self.held = "!".repeat(LONGEST),
            (State::Control, '\u{40}'..='\u{7e}') => {
                self.state = State::Text;
                if may_pass(&self.held, c) {
                    let _ = write!(out, "\u{1b}[{}{c}", self.held);
                }
            }
            (State::Control, _) => {
                self.state = State::Text;
                out.push(c);
            }
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.held.clear();
    }
}

/// A control sequence with these parameters and this end.
fn may_pass(parameters: &str, end: char) -> bool {
    let (private, numbers) = match parameters.strip_prefix('?') {
        Some(numbers) => (true, numbers),
        None => (false, parameters),
    };
    if !numbers.chars().all(|c| matches!(c, '0'..='9' | ';' | ':')) {
        return false;
    }
    let mut values = numbers.split([';', ':']).map(|number| number.parse::<u32>().ok());
    match (end, private) {
        ('h' | 'l', false) => values.all(|mode| mode.is_some_and(|mode| PLAIN_MODES.contains(&mode))),
        ('h' | 'l', true) => values.all(|mode| mode.is_some_and(|mode| PRIVATE_MODES.contains(&mode))),
        // What has scrolled away is not the recording's.
        ('J', _) => values.all(|what| what != Some(3)),
        ('K', _) => true,
        ('b', false) => values.all(|times| times.is_none_or(|times| times <= MOST_REPEATED)),
        // With parameters, these are something else.
        ('s' | 'u', false) => numbers.is_empty(),
        ('T', false) => values.count() == 1,
        ('@'..='I' | 'L' | 'M' | 'P' | 'S' | 'X' | 'Z' | '`' | 'a' | 'd'..='g' | 'm' | 'r', false) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(text: &str) -> String {
        let whole = Filter::default().pass(text);
        let (mut filter, mut cut) = (Filter::default(), String::new());
        text.chars().for_each(|c| cut.push_str(&filter.pass(c.encode_utf8(&mut [0; 4]))));
        assert_eq!(whole, cut, "{text:?}");
        whole
    }

    #[test]
    fn what_draws_is_shown() {
        for drawn in [
            "plain\r\n\ttext ß 😀",
            "\u{1b}[1;31mred\u{1b}[0m\u{1b}[38;5;196m\u{1b}[38:2::1:2:3m",
            "\u{1b}[?1049h\u{1b}[2J\u{1b}[H\u{1b}[3;5H\u{1b}[K\u{1b}[1;10r\u{1b}[?25l\u{1b}[?1049l",
            "\u{1b}7\u{1b}8\u{1b}M\u{1b}(0lqk\u{1b}(B\u{e}\u{f}",
            "\u{1b}[s\u{1b}[u\u{1b}[4h\u{1b}[4l\u{1b}[20b",
        ] {
            assert_eq!(passed(drawn), drawn);
        }
    }

    #[test]
    fn what_does_more_is_left_out() {
        for (hostile, left) in [
            ("a\u{1b}]52;c;ZXZpbA==\u{7}b", "ab"),
            ("a\u{1b}]0;title\u{1b}\\b", "ab"),
            ("a\u{9d}2;title\u{9c}b", "ab"),
            ("a\u{1b}]8;;http://example.com\u{7}link\u{1b}]8;;\u{7}b", "alinkb"),
            ("a\u{1b}[cb\u{1b}[>c\u{1b}[=c\u{1b}[5n\u{1b}[6n\u{1b}[?6n", "ab"),
            ("a\u{5}b", "ab"),
            ("a\u{1b}P+q544e\u{1b}\\b\u{1b}Pprint\u{7}c", "abc"),
            ("a\u{1b}_apc\u{1b}\\b\u{1b}^pm\u{1b}\\c\u{1b}Xsos\u{1b}\\d", "abcd"),
            ("a\u{1b}[21tb\u{1b}[14t\u{1b}[5i\u{1b}[4i", "ab"),
            ("a\u{1b}[?1000h\u{1b}[?1006h\u{1b}[?2004h\u{1b}[?1hb\u{1b}=\u{1b}>", "ab"),
            ("a\u{1b}[?25;1000hb", "ab"),
            ("a\u{1b}[3Jb\u{9b}3Jc", "abc"),
            ("a\u{1b}[999999999bb", "ab"),
            ("a\u{1b}[1$pb\u{1b}[?2026$p\u{1b}[ q\u{1b}[>0q", "ab"),
            ("a\u{1b}[?996n\u{1b}Zb\u{1b}#8", "ab"),
            ("a\u{1b}%@b\u{1b}(%6c", "abc"),
            ("\u{1b}cx", "\u{1b}[0m\u{1b}[r\u{1b}[2J\u{1b}[Hx"),
        ] {
            assert_eq!(passed(hostile), left, "{hostile:?}");
        }
        let long = format!("a\u{1b}[{}mb", "1;".repeat(1000));
        assert_eq!(passed(&long), "ab");
    }

    #[test]
    fn nothing_gets_out_of_what_never_ends() {
        assert_eq!(passed(&format!("a\u{1b}]0;{}", "x".repeat(10_000))), "a");
        assert_eq!(passed("\u{1b}\u{1b}\u{1b}]0;x\u{1b}\u{1b}\\b"), "b");
        assert_eq!(passed("\u{1b}[\u{1b}]52;c;x\u{7}b"), "b");
    }
}
