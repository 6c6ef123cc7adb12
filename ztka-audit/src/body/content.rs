//! What a recorded body looks like in an event.

use std::io::Read as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::{Coding, Held, fields::FieldRule, mend, redact};
use crate::{
    ObjectRef,
    event::{MAX_TEXT, clean, line},
};

/// Longest form of one body in an event, escapes and all: two of them, and the rest of an event, fit into a record.
const LONGEST: usize = 112 * 1024;

/// Deeper ones would make an event that nobody reads again.
const MAX_DEPTH: usize = 100;

/// The beginning of a body as it went by.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    coding: &'a Coding,
    held: &'a Held,
    limit: usize,
}

impl<'a> Content<'a> {
    pub(super) fn new(coding: &'a Coding, held: &'a Held, limit: usize) -> Self {
        Self { coding, held, limit }
    }
}

/// What of a body depends on the request that it belongs to.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) object: &'a ObjectRef,
    pub(crate) fields: &'a [FieldRule],
    pub(crate) omit_managed_fields: bool,
}

/// A body as it is recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// What goes into the event; none of an empty body.
    pub(crate) value: Option<Value>,
    /// Bytes that are left out at the end, where it is JSON that was cut short.
    pub(crate) cut: Option<u64>,
}

/// `content` as an event has it: JSON as it is, less what is never recorded; anything else in base64, or not at all where it
/// cannot be told what is in it. Which rules took something out is added to `rules`.
pub(crate) fn recorded(content: &Content<'_>, about: &About<'_>, rules: &mut redact::Rules) -> Recorded {
    let nothing = Recorded { value: None, cut: None };
    let total = content.held.total;
    if total == 0 {
        return nothing;
    }
    let mut plain = &content.held.bytes;
    let (unpacked, mut whole) = (unpack(content), plain.len() as u64 == total);
    if let Some(unpacked) = &unpacked {
        let Ok((bytes, all)) = unpacked else {
            return Recorded { value: Some(opaque(content, Err("its encoding is not known"), whole)), cut: None };
        };
        (plain, whole) = (bytes, whole && *all);
    }
    let read = serde_json::from_slice(plain).ok().filter(Value::is_object).map(|value| (value, 0)).or_else(|| {
        let list = serde_json::from_slice(plain).ok().filter(Value::is_array).map(|value| (value, 0));
        list.or_else(|| (!whole).then(|| mend::mend(plain)).flatten())
    });
    let Some((mut value, lost)) = read else {
        let bytes = match redact::is_readable(plain, about) {
            true => Ok(plain.as_slice()),
            false => {
                rules.add("unreadable");
                Err("it may hold secrets and cannot be read here")
            }
        };
        return Recorded { value: Some(opaque(content, bytes, whole)), cut: None };
    };
    if depth(&value) > MAX_DEPTH {
        return Recorded { value: Some(opaque(content, Err("it is nested too deeply"), whole)), cut: None };
    }
    redact::redact(&mut value, about, rules);
    if line(&value).len() > LONGEST {
        return Recorded {
            value: Some(opaque(content, Err("it is too long with what had to be escaped"), false)),
            cut: None,
        };
    }
    // Of packed bytes that did not come nobody knows how many they would have been.
    let behind = if unpacked.is_none() { total.saturating_sub(plain.len() as u64) } else { u64::from(!whole) };
    let cut = (!whole).then_some(lost.saturating_add(behind));
    Recorded { value: Some(value), cut }
}

/// How deep lists and objects are in each other.
fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or_default()
}

/// Bytes that came packed, and whether these are all of them; none if they did not.
fn unpack(content: &Content<'_>) -> Option<Result<(Vec<u8>, bool), ()>> {
    let encoding = content.coding.encoding.as_ref()?;
    match encoding.as_bytes() {
        b"identity" => None,
        b"gzip" | b"x-gzip" => {
            let mut plain = Vec::new();
            // One more than there is room for tells that there is more.
            let limit = content.limit as u64 + 1;
            let read = GzDecoder::new(content.held.bytes.as_slice()).take(limit).read_to_end(&mut plain);
            let all = read.is_ok() && plain.len() <= content.limit;
            plain.truncate(content.limit);
            Some(Ok((plain, all)))
        }
        _ => Some(Err(())),
    }
}

/// What stands for a body that is no JSON: an object of our own, so that nobody takes it for Kubernetes'.
fn opaque(content: &Content<'_>, bytes: Result<&[u8], &str>, whole: bool) -> Value {
    let media = content.coding.media.as_ref().map(|media| String::from_utf8_lossy(media.as_bytes()));
    let mut body = json!({
        "apiVersion": "audit.ztka.dev/v1",
        "kind": "Body",
        "contentType": clean(&media.unwrap_or_default(), MAX_TEXT),
        "bytes": content.held.total,
    });
    let Some(fields) = body.as_object_mut() else { return body };
    match bytes {
        Ok(bytes) => {
            // Three bytes become four characters.
            let kept = bytes.get(..LONGEST / 4 * 3 - 3 * MAX_TEXT).unwrap_or(bytes);
            fields.insert("base64".into(), BASE64_STANDARD.encode(kept).into());
            if !whole || kept.len() < bytes.len() {
                fields.insert("truncated".into(), true.into());
            }
        }
        Err(why) => drop(fields.insert("withheld".into(), why.into())),
    }
    body
}
