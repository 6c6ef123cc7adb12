//! JSON on one line that no terminal and no log viewer can be tricked by.
//!
//! Two lines are written for every request, so this is a serializer of its own: a text that needs no escape, and almost
//! every text is one, is looked at once and copied.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write as _},
};

use serde::{
    Serialize, Serializer,
    ser::{self, Impossible},
};

/// `value` as JSON: compact, and beside what JSON demands everything is escaped that is not printed as a character of
/// its own: DEL, C1 controls (among them the one-byte CSI), line and paragraph separators, zero-width and bidirectional
/// marks.
///
/// Of serde's data model it knows what events and receipts are made of: structs, maps with text keys, lists, texts,
/// numbers, truth values, variants without content, and what may be missing.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1536);
    let written = value.serialize(Line { out: &mut out });
    debug_assert!(written.is_ok(), "{written:?}");
    out
}

/// Something that events and receipts are not made of.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unknown(String);

impl ser::Error for Unknown {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn unknown<T>(what: &str) -> Result<T, Unknown> {
    Err(Unknown(format!("{what} is not written to audit lines")))
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
}

/// A struct, map or list that is being written.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    end: u8,
}

impl<'a> Line<'a> {
    fn members(self, begin: u8, end: u8) -> Members<'a> {
        self.out.push(begin);
        Members { out: self.out, first: true, end }
    }

    fn whole(self, number: impl Display) {
        // A vector takes what it is given.
        let _ = write!(Escaped(self.out), "{number}");
    }
}

impl Members<'_> {
    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unknown> {
        value.serialize(Line { out: self.out })
    }

    fn end(self) {
        self.out.push(self.end);
    }
}

/// Escapes what is formatted into it.
struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, text: &str) {
    // Without an early end, so that many bytes are looked at at a time.
    let special = text
        .bytes()
        .fold(false, |special, byte| special | (byte < b' ') | (byte == b'"') | (byte == b'\\') | (byte >= 0x7f));
    if !special {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let mut utf8 = [0; 4];
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            _ if is_plain(character) => out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes()),
            // All of them are in the basic plane: one unit of UTF-16 (RFC 8259 §7).
            _ => out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes()),
        }
    }
}

/// `text` with everything escaped that a terminal would not print as a character of its own; for what comes from a place that
/// somebody else may have written to.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let escaped = |character: char| match is_plain(character) {
        true => character.to_string(),
        false => format!("\\u{:04x}", u32::from(character)),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

fn is_plain(character: char) -> bool {
    !matches!(character,
        '\0'..'\u{20}'
        | '\u{7f}'..='\u{9f}'
        | '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}')
}

macro_rules! whole_numbers {
    ($($name:ident: $type:ty),+) => {
        $(fn $name(self, number: $type) -> Result<(), Unknown> {
            self.whole(number);
            Ok(())
        })+
    };
}

impl<'a> Serializer for Line<'a> {
    type Ok = ();
    type Error = Unknown;
    type SerializeSeq = Members<'a>;
    type SerializeMap = Members<'a>;
    type SerializeStruct = Members<'a>;
    type SerializeTuple = Impossible<(), Unknown>;
    type SerializeTupleStruct = Impossible<(), Unknown>;
    type SerializeTupleVariant = Impossible<(), Unknown>;
    type SerializeStructVariant = Impossible<(), Unknown>;

    whole_numbers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    }

    fn serialize_bool(self, value: bool) -> Result<(), Unknown> {
        self.whole(value);
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), Unknown> {
        quoted(self.out, text);
        Ok(())
    }

    fn serialize_char(self, character: char) -> Result<(), Unknown> {
        quoted(self.out, character.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Unknown> {
        self.out.push(b'"');
        let written = write!(Escaped(self.out), "{value}");
        self.out.push(b'"');
        written.map_err(ser::Error::custom)
    }

    fn serialize_none(self) -> Result<(), Unknown> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unknown> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unknown> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unknown> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), Unknown> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Unknown> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Members<'a>, Unknown> {
        Ok(self.members(b'[', b']'))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'a>, Unknown> {
        Ok(self.members(b'{', b'}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members<'a>, Unknown> {
        Ok(self.members(b'{', b'}'))
    }

    fn serialize_f32(self, number: f32) -> Result<(), Unknown> {
        self.serialize_f64(number.into())
    }

    fn serialize_f64(self, number: f64) -> Result<(), Unknown> {
        match serde_json::Number::from_f64(number) {
            Some(number) => self.whole(number),
            None => return unknown("a number that is none"),
        }
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unknown> {
        unknown("a list of bytes")
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unknown> {
        unknown("a variant with content")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unknown> {
        unknown("a tuple")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Unknown> {
        unknown("a tuple")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unknown> {
        unknown("a variant with content")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unknown> {
        unknown("a variant with content")
    }
}

impl ser::SerializeSeq for Members<'_> {
    type Ok = ();
    type Error = Unknown;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unknown> {
        self.separate();
        self.value(value)
    }

    fn end(self) -> Result<(), Unknown> {
        self.end();
        Ok(())
    }
}

impl ser::SerializeMap for Members<'_> {
    type Ok = ();
    type Error = Unknown;

    /// Keys are texts, or become one.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unknown> {
        self.separate();
        self.value(key)?;
        self.out.push(b':');
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unknown> {
        self.value(value)
    }

    fn end(self) -> Result<(), Unknown> {
        self.end();
        Ok(())
    }
}

impl ser::SerializeStruct for Members<'_> {
    type Ok = ();
    type Error = Unknown;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Unknown> {
        self.separate();
        quoted(self.out, name);
        self.out.push(b':');
        self.value(value)
    }

    fn end(self) -> Result<(), Unknown> {
        self.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_tricks_a_terminal_is_escaped() {
        let cases = [
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\u{0}\u{7}\n\r\t\u{1b}[31m", r#""\u0000\u0007\n\r\t\u001b[31m""#),
            ("\u{7f}\u{9b}\u{ad}", r#""\u007f\u009b\u00ad""#),
            ("\u{200b}\u{202e}\u{2028}\u{2066}\u{feff}", r#""\u200b\u202e\u2028\u2066\ufeff""#),
            ("Zoë 漢 🦀", "\"Zoë 漢 🦀\""),
        ];
        for (text, expected) in cases {
            assert_eq!(String::from_utf8(line(&text)).unwrap(), expected);
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let texts = prop_oneof!["\\PC{0,12}", any::<String>()];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|number| Value::from(f64::from(number) / 64.0)),
            texts.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((texts.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn another_reader_reads_what_was_written(value in values()) {
            let line = line(&value);
            prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), value);
            prop_assert!(line.iter().all(|byte| *byte >= b' '));
        }
    }
}
