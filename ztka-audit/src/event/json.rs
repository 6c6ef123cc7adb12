//! JSON on one line that no terminal and no log viewer can be tricked by.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes compactly and escapes, beside what JSON demands, everything that is not printed as a character of its own:
/// DEL, C1 controls (among them the one-byte CSI), line and paragraph separators, zero-width and bidirectional marks.
struct Printable;

fn is_plain(character: char) -> bool {
    !matches!(character,
        '\u{7f}'..='\u{9f}'
        | '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}')
}

impl Formatter for Printable {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // serde_json has taken out quotes, backslashes and everything below a space.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut utf8 = [0; 4];
        for character in fragment.chars() {
            if is_plain(character) {
                writer.write_all(character.encode_utf8(&mut utf8).as_bytes())?;
            } else {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1536);
    let mut serializer = Serializer::with_formatter(&mut out, Printable);
    // Text, numbers and maps with text keys always serialise, and a vector takes them.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "{written:?}");
    out
}
