//! The beginning of a JSON text as a whole one: what is not complete is left out, and what is open is closed.

use serde_json::Value;

/// Deeper texts are not mended.
const MAX_DEPTH: usize = 100;

/// Reads as much of `bytes`, the beginning of an object or a list, as is complete; and says how many bytes that leaves out.
pub(super) fn mend(bytes: &[u8]) -> Option<(Value, u64)> {
    let (end, open) = complete(bytes)?;
    let mut text = bytes.get(..end)?.to_vec();
    text.extend(open.iter().rev().map(|open| if *open == b'{' { b'}' } else { b']' }));
    let value = serde_json::from_slice(&text).ok()?;
    Some((value, (bytes.len() - end) as u64))
}

/// Where the last complete value ends, and what is open there.
fn complete(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let mut open: Vec<u8> = Vec::new();
    // Behind the last complete value, or the bracket that opened what is empty so far.
    let mut last: Option<(usize, usize)> = None;
    // Of an object: the next text is a name.
    let mut is_name = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                open.push(*byte);
                if open.len() > MAX_DEPTH {
                    return None;
                }
                is_name = *byte == b'{';
                at += 1;
                last = Some((at, open.len()));
            }
            b'}' | b']' => {
                open.pop()?;
                at += 1;
                last = Some((at, open.len()));
            }
            b',' => {
                is_name = open.last() == Some(&b'{');
                at += 1;
            }
            b':' => {
                is_name = false;
                at += 1;
            }
            b'"' => {
                let Some(length) = text(bytes.get(at..)?) else { break };
                at += length;
                if !is_name {
                    last = Some((at, open.len()));
                }
            }
            b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            // A number or a word; at the very end it may be half of one.
            _ => {
                let rest = bytes.get(at..)?;
                let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
                let Some(length) = rest.iter().position(|byte| !part(byte)).filter(|length| *length > 0) else { break };
                at += length;
                last = Some((at, open.len()));
            }
        }
    }
    let (end, depth) = last?;
    open.truncate(depth);
    (depth > 0 || end > 0).then_some((end, open))
}

/// Length of the text at the start of `bytes`, quotes and all, if it ends.
fn text(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = bytes.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(end + 2)
}
