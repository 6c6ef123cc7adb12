//! Header blocks: zlib with a preset dictionary, one context for the whole of a direction.

use flate2::{Decompress, FlushDecompress, Status};

use super::{
    MAX_BLOCK,
    dictionary::{DICTIONARY, ID},
};
use crate::stream::{Violation, u32_at};

/// Names (lower case, unique) and their values, in the order received.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers(pub(super) Vec<(String, Vec<String>)>);

impl Headers {
    /// The values of `name`, given in lower case.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.iter().find(|(key, _)| key == name).map_or(&[], |(_, values)| values.as_slice())
    }

    /// The value of `name`, if it has exactly one.
    pub fn one(&self, name: &str) -> Option<&str> {
        match self.values(name) {
            [value] => Some(value),
            _ => None,
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// Reads an inflated block, to its last byte: a reader that stops earlier would begin the next block elsewhere.
    fn read(block: &[u8]) -> Result<Self, Violation> {
        const SHORT: Violation = Violation("a header block is shorter than it says");
        let (count, mut rest) = u32_at(block).ok_or(SHORT)?;
        let mut text = || {
            let (length, after) = u32_at(rest)?;
            let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            Some(text)
        };
        let mut headers = Self::default();
        for _ in 0..count {
            let (name, value) = (text().ok_or(SHORT)?, text().ok_or(SHORT)?);
            let plain = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
            let name = String::from_utf8(name.to_vec()).ok().filter(|name| name.bytes().all(|byte| plain(&byte)));
            let name = name.filter(|name| !name.is_empty());
            let name = name.ok_or(Violation::new("the name of a header is not in plain lower case"))?;
            if !headers.values(&name).is_empty() {
                return Err(Violation::new("a header occurs twice"));
            }
            let value = std::str::from_utf8(value).map_err(|_| Violation::new("a header's value is not UTF-8"))?;
            headers.0.push((name, value.split('\0').map(str::to_owned).collect()));
        }
        match rest {
            [] => Ok(headers),
            _ => Err(Violation::new("a header block is longer than it says")),
        }
    }
}

/// The decompression context of one direction.
#[derive(Debug)]
pub(super) struct Inflate(Decompress);

impl Default for Inflate {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflate {
    /// Inflates and reads one block.
    pub(super) fn block(&mut self, mut block: &[u8]) -> Result<Headers, Violation> {
        const BAD: Violation = Violation("a header block cannot be inflated");
        let mut inflated = Vec::with_capacity(1024);
        let mut buffer = [0; 1024];
        loop {
            let (consumed, produced) = (self.0.total_in(), self.0.total_out());
            let status = match self.0.decompress(block, &mut buffer, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => {
                    return Err(Violation::new("the header compression ends before the connection"));
                }
                Ok(status) => Some(status),
                Err(error) if error.needs_dictionary() == Some(ID) => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| BAD)?;
                    None
                }
                Err(_) => return Err(BAD),
            };
            let consumed = usize::try_from(self.0.total_in() - consumed).map_err(|_| BAD)?;
            let produced = usize::try_from(self.0.total_out() - produced).map_err(|_| BAD)?;
            block = block.get(consumed..).unwrap_or_default();
            inflated.extend_from_slice(buffer.get(..produced).unwrap_or_default());
            if inflated.len() > MAX_BLOCK {
                return Err(Violation::new("a header block is longer than 16 KiB"));
            }
            // A full buffer may mean that more is to come.
            if status.is_some() && produced < buffer.len() {
                break;
            }
        }
        match block {
            [] => Headers::read(&inflated),
            _ => Err(BAD),
        }
    }
}
