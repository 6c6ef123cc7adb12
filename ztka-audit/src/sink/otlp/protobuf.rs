//! As much of Protobuf's wire format as a log record needs.

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    pub(super) fn varint(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.number(value);
    }

    pub(super) fn fixed64(&mut self, field: u32, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, LENGTH);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn key(&mut self, field: u32, wire_type: u64) {
        self.number(u64::from(field) << 3 | wire_type);
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// `rejected_log_records` of an `ExportLogsServiceResponse`; 0 where there is none, or no such message.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let Some((_, partial)) = field(answer, 1) else { return 0 };
    field(partial, 1).map_or(0, |(value, _)| value)
}

/// The last field of this number: its number, or its bytes.
fn field(mut message: &[u8], wanted: u64) -> Option<(u64, &[u8])> {
    let mut found = None;
    while !message.is_empty() {
        let (key, rest) = number(message)?;
        let (value, bytes, rest) = match key & 7 {
            VARINT => {
                let (value, rest) = number(rest)?;
                (value, &[][..], rest)
            }
            LENGTH => {
                let (length, rest) = number(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (0, bytes, rest)
            }
            FIXED64 => (0, &[][..], rest.get(8..)?),
            FIXED32 => (0, &[][..], rest.get(4..)?),
            _ => return None,
        };
        message = rest;
        if key >> 3 == wanted {
            found = Some((value, bytes));
        }
    }
    found
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_many_were_rejected() {
        // As `protoc --encode` writes partial_success { rejected_log_records: 300 error_message: "no" }.
        let answer = [0x0a, 0x07, 0x08, 0xac, 0x02, 0x12, 0x02, b'n', b'o'];
        assert_eq!(rejected(&answer), 300);
        assert_eq!(rejected(&[]), 0);
        assert_eq!(rejected(&[0x0a, 0x00]), 0);
        assert_eq!(rejected(b"<html>"), 0);
        for cut in 0..answer.len() {
            // No panic, whatever comes.
            let _ = rejected(&answer[..cut]);
        }
        assert_eq!(number(&[0xff; 12]), None);
    }
}
