//! Percent-encoding (RFC 3986 §2.1), both ways and without leniency.

use std::borrow::Cow;

/// Decodes `raw`, reading `+` as `plus`. `None` if a `%` is not followed by two hexadecimal digits.
pub(super) fn decode(raw: &str, plus: u8) -> Option<Cow<'_, [u8]>> {
    let bytes = raw.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(bytes));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(*bytes.next()?)? << 4 | digit(*bytes.next()?)?,
            b'+' => plus,
            byte => byte,
        });
    }
    Some(Cow::Owned(decoded))
}

/// Appends `bytes`, escaping those that are neither unreserved (RFC 3986 §2.3) nor in `kept`.
pub(super) fn encode(out: &mut String, bytes: &[u8], kept: &[u8]) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
