//! asciicast v3: a header, then one event a line (`docs.asciinema.org/manual/asciicast/v3`).

use std::io::Write as _;

use jiff::Timestamp;
use serde::Serialize;

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Size {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

impl Size {
    /// What is said where nobody has said anything.
    pub(crate) const DEFAULT: Self = Self { columns: 80, rows: 24 };
}

/// What an event is, in asciicast's own letters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    Output,
    Input,
    Resize,
    Marker,
    Exit,
}

impl Code {
    fn letter(self) -> char {
        match self {
            Self::Output => 'o',
            Self::Input => 'i',
            Self::Resize => 'r',
            Self::Marker => 'm',
            Self::Exit => 'x',
        }
    }
}

/// What the header says beside the terminal's size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Title {
    pub(crate) command: Option<String>,
    pub(crate) title: String,
}

#[derive(Serialize)]
struct Header<'a> {
    version: u8,
    term: Term,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    title: &'a str,
}

#[derive(Serialize)]
struct Term {
    cols: u16,
    rows: u16,
}

/// Writes lines into a buffer that somebody empties.
#[derive(Debug)]
pub(crate) struct Cast {
    lines: Vec<u8>,
    /// Microseconds since 1970 of the event before.
    last: i64,
    begun: bool,
}

impl Cast {
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { lines: Vec::new(), last: start.as_microsecond(), begun: false }
    }

    /// The header has been written.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(crate) fn header(&mut self, size: Size, title: &Title) {
        self.begun = true;
        let header = Header {
            version: 3,
            term: Term { cols: size.columns, rows: size.rows },
            timestamp: self.last.div_euclid(1_000_000),
            command: title.command.as_deref(),
            title: &title.title,
        };
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut self.lines, &header);
        self.lines.push(b'\n');
    }

    /// Intervals are never negative: a clock that goes back stands still here.
    pub(crate) fn event(&mut self, at: Timestamp, code: Code, data: &str) {
        let interval = at.as_microsecond().saturating_sub(self.last).max(0);
        self.last = self.last.saturating_add(interval);
        let (seconds, micros) = (interval / 1_000_000, interval % 1_000_000);
        let _ = write!(self.lines, "[{seconds}.{micros:06}, \"{}\", ", code.letter());
        let _ = serde_json::to_writer(&mut self.lines, data);
        self.lines.extend_from_slice(b"]\n");
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.lines)
    }
}

/// Makes text of bytes whose characters may be cut anywhere. Bytes that are no UTF-8 become U+FFFD: JSON has no other way.
#[derive(Debug, Default)]
pub(crate) struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// Tells `text` of all whole characters so far.
    pub(crate) fn read(&mut self, bytes: &[u8], text: impl FnOnce(&str)) {
        if self.held.is_empty()
            && let Ok(whole) = std::str::from_utf8(bytes)
        {
            return text(whole);
        }
        self.held.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.held);
        let mut read = String::with_capacity(all.len());
        let mut rest = all.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    read.push_str(whole);
                    break;
                }
                Err(error) => {
                    let (whole, behind) = rest.split_at_checked(error.valid_up_to()).unwrap_or_default();
                    read.push_str(&String::from_utf8_lossy(whole));
                    match error.error_len() {
                        Some(bad) => {
                            read.push(char::REPLACEMENT_CHARACTER);
                            rest = behind.get(bad..).unwrap_or_default();
                        }
                        None => {
                            self.held = behind.to_vec();
                            break;
                        }
                    }
                }
            }
        }
        if !read.is_empty() {
            text(&read);
        }
    }

    /// What is left at the end is no character.
    pub(crate) fn finish(&mut self, text: impl FnOnce(&str)) {
        if !std::mem::take(&mut self.held).is_empty() {
            text("\u{fffd}");
        }
    }
}
