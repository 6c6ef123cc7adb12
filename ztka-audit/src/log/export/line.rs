//! Reads the lines of an export, as bytes wherever exact bytes matter, and little of what events say.

use std::{collections::BTreeMap, io::BufRead, ops::Range};

use serde::Deserialize;

use super::{ENTRY, GONE, LEAF, LONGEST, NotAnExport, SALT, TileLine};
use crate::log::Salt;

/// Reads a line without its end; false at the end of the file.
pub(super) fn next(input: &mut impl BufRead, line: &mut Vec<u8>, number: u64) -> Result<bool, NotAnExport> {
    line.clear();
    let mut limited = std::io::Read::take(&mut *input, LONGEST as u64);
    limited.read_until(b'\n', line).map_err(NotAnExport::Read)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        Ok(true)
    } else if line.is_empty() {
        Ok(false)
    } else {
        Err(NotAnExport::Line { line: number })
    }
}

/// What a line says.
pub(super) enum Line<'a> {
    Tile(TileLine),
    Event { leaf: u64, salt: Salt, entry: &'a [u8] },
    Gone { leaf: u64 },
}

pub(super) fn read(line: &[u8]) -> Option<Line<'_>> {
    let Some(rest) = line.strip_prefix(LEAF) else { return serde_json::from_slice(line).ok().map(Line::Tile) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = rest.split_at_checked(digits).filter(|_| digits <= 19)?;
    // One spelling: no zero in front.
    if digits > 1 && number.first() == Some(&b'0') {
        return None;
    }
    let leaf = str::from_utf8(number).ok()?.parse().ok()?;
    if rest == GONE {
        return Some(Line::Gone { leaf });
    }
    let (salt, rest) = rest.strip_prefix(SALT)?.split_at_checked(Salt::DIGITS)?;
    let (salt, entry) = (Salt::parse(salt).ok()?, rest.strip_prefix(ENTRY)?.strip_suffix(b"}")?);
    Some(Line::Event { leaf, salt, entry })
}

/// What is looked at of an entry, when something is to be said of it.
#[derive(Deserialize)]
struct Entry {
    event: Said,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "auditID", default)]
    audit_id: Option<String>,
    #[serde(default)]
    verb: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub(super) fn audit_id(entry: &[u8]) -> Option<String> {
    let said = serde_json::from_slice::<Entry>(entry).ok()?.event.audit_id?;
    // A claim, for a terminal.
    Some(said.chars().filter(|c| c.is_ascii_graphic()).take(64).collect())
}

/// The leaves that an event of a controller says are gone.
pub(super) fn covering(entry: &[u8]) -> Option<Range<u64>> {
    const WORD: &[u8] = b"ztka.dev/leaves";
    // Almost all are reported by proxies; theirs are not read.
    let rest = entry.strip_prefix(br#"{"source":"spiffe://"#)?;
    let path = rest.get(rest.iter().position(|byte| *byte == b'/')? + 1..)?;
    if !path.starts_with(b"controller/") || !entry.windows(WORD.len()).any(|part| part == WORD) {
        return None;
    }
    let Entry { event, .. } = serde_json::from_slice(entry).ok()?;
    let (first, last) = event.annotations.get("ztka.dev/leaves")?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let says_so = matches!(event.verb.as_str(), "expire" | "shred") && first <= last;
    says_so.then(|| first..last.saturating_add(1))
}
