//! Segments as somebody may leave them: of all that is whole nothing is missed, and nothing is read that was not written.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use ztka_audit::{Damage, Journal as _, Kind, Position, Reader, Record, Spool, SpoolOptions, read};
use ztka_core::{AuditId, SystemClock};

use super::{event, write};

const MAX_PAYLOAD: usize = 256 * 1024;

/// The first byte says what the rest is: bytes of one segment, or steps by which segments are written and spoiled; and
/// whether a process is started on it. True if there are records and no damage.
pub(crate) fn spool_segments(data: &[u8]) -> bool {
    let Some((options, rest)) = data.split_first() else { return false };
    let mut writer = Writer::default();
    if options & 2 != 0 {
        writer.files.insert(7, rest.to_vec());
    } else {
        writer.run(&mut Input(rest));
    }
    let dir = tempfile::tempdir().unwrap();
    for (number, bytes) in &writer.files {
        write(dir.path(), *number, bytes);
    }

    let (records, damage) = writer.judge(read(dir.path()));
    for written in &writer.whole {
        let found = records.iter().any(|record| record.position == written.position);
        assert!(found || !written.is_findable(), "a whole record is missed: {written:?}");
    }
    // From any record on it is the same again, and up to any record it is what was before.
    if let Some(middle) = records.get(usize::from(*options) % records.len().max(1)) {
        let place = records.iter().position(|record| record == middle).unwrap();
        let rest: Vec<Record> = Reader::resume(dir.path(), middle.position).flatten().collect();
        assert!(rest == records[place..], "resumed at {:?}", middle.position);
        let before: Vec<Record> = read(dir.path()).until(middle.position).flatten().collect();
        assert!(before == records[..place], "read until {:?}", middle.position);
    }

    if options & 1 != 0 {
        let (spool, _) = Spool::open(SpoolOptions::new(dir.path()), &SystemClock).unwrap();
        let event = event();
        spool.note(&event);
        let status = spool.status();
        drop(spool);
        let after: Vec<Record> = read(dir.path()).flatten().collect();
        assert!(records.iter().all(|record| after.contains(record)), "a start has lost a record");
        let last = after.last().unwrap();
        assert_eq!((last.id, last.kind), (event.audit_id, Kind::Close));
        assert!(status.open == 0 || after.len() > records.len());
        if let [.., before, last] = after.as_slice()
            && before.position.segment == last.position.segment
        {
            assert_eq!(last.previous, before.hash());
        }
    }
    !records.is_empty() && damage == 0
}

/// Bytes to choose by; zeros when they have run out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes.to_vec()
    }
}

#[derive(Debug)]
struct Whole {
    position: Position,
    length: usize,
}

impl Whole {
    /// No record begins where a header has to be, and no spool comes to numbers so high.
    fn is_findable(&self) -> bool {
        self.position.offset > 0 && self.position.segment < u64::MAX / 2
    }
}

/// Writes as the specification in `spool.rs` says, and spoils.
#[derive(Default)]
struct Writer {
    files: BTreeMap<u64, Vec<u8>>,
    whole: Vec<Whole>,
    number: u64,
    sequence: u64,
    previous: [u8; 32],
}

impl Writer {
    fn run(&mut self, input: &mut Input<'_>) {
        self.number = 1;
        for _ in 0..64 {
            if input.0.is_empty() {
                break;
            }
            let step = input.byte();
            match step % 8 {
                0 => self.header(self.number, self.sequence),
                1 => self.record(input, self.sequence),
                2 => {
                    let sequence = [0, 1, u64::MAX - 1, u64::MAX][usize::from(input.byte() % 4)];
                    self.record(input, sequence);
                }
                3 => {
                    let bytes = input.byte();
                    let bytes = input.bytes(usize::from(bytes));
                    self.file().extend(bytes);
                }
                4 => {
                    self.number = match input.byte() {
                        255 => u64::MAX,
                        254 => u64::MAX - 1,
                        ahead => self.number.saturating_add(1 + u64::from(ahead % 3)),
                    };
                    self.file();
                }
                5 => {
                    let less = usize::from(input.byte());
                    let length = self.file().len().saturating_sub(less);
                    self.file().truncate(length);
                    let number = self.number;
                    self.whole.retain(|whole| {
                        whole.position.segment != number || whole.position.offset as usize + whole.length <= length
                    });
                }
                6 => {
                    let (at, bits) = (u16::from_be_bytes([input.byte(), input.byte()]), input.byte());
                    let length = self.file().len();
                    let at = usize::from(at) % length.max(1);
                    if let Some(byte) = self.file().get_mut(at)
                        && bits != 0
                    {
                        *byte ^= bits;
                        let number = self.number;
                        self.whole.retain(|whole| {
                            let from = whole.position.offset as usize;
                            whole.position.segment != number || !(from..from + whole.length).contains(&at)
                        });
                    }
                }
                _ => {
                    let odd = [0, self.sequence, u64::MAX][usize::from(input.byte() % 3)];
                    let number = self.number.wrapping_sub(u64::from(input.byte() & 1));
                    self.header(number, odd);
                }
            }
        }
    }

    fn file(&mut self) -> &mut Vec<u8> {
        self.files.entry(self.number).or_default()
    }

    fn header(&mut self, number: u64, sequence: u64) {
        let previous: String = self.previous.iter().map(|byte| format!("{byte:02x}")).collect();
        let journal = "01890000-0000-7000-8000-000000000000";
        let json = serde_json::json!({
            "journal": journal, "number": number, "sequence": sequence, "previous": previous, "open": {},
        });
        if self.file().is_empty() {
            self.file().extend(b"ZTKASPL1");
        }
        self.frame(json.to_string().as_bytes());
    }

    fn record(&mut self, input: &mut Input<'_>, sequence: u64) {
        let (kind, id, length) = (input.byte() % 4, input.byte() % 4, input.byte());
        let length = match length {
            255 => MAX_PAYLOAD + 1,
            254 => MAX_PAYLOAD,
            250..254 => usize::from(length) * 1000,
            _ => usize::from(length),
        };
        let payload: String =
            input.bytes(length.min(16)).into_iter().map(|byte| char::from(b' ' + byte % 90)).collect();
        let payload = format!("{payload}{}", ".".repeat(length - payload.len()));
        let id = format!("01890000-0000-7000-8000-00000000000{id}");
        let content =
            [&sequence.to_le_bytes()[..], &self.previous, &[kind], id.as_bytes(), payload.as_bytes()].concat();
        let position = Position { segment: self.number, offset: self.file().len() as u64 };
        let framed = self.frame(&content);
        if kind != 0 && length <= MAX_PAYLOAD {
            self.whole.push(Whole { position, length: framed });
            (self.sequence, self.previous) = (sequence.wrapping_add(1), Sha256::digest(&content).into());
        }
    }

    fn frame(&mut self, content: &[u8]) -> usize {
        let length = (content.len() as u32).to_le_bytes();
        let checksum = crc32c::crc32c(&[&length, content].concat()).to_le_bytes();
        let frame = [&length, &checksum, content].concat();
        self.file().extend_from_slice(&frame);
        frame.len()
    }

    /// All that is read is there, in order, each once; and how much damage was told.
    fn judge(&self, reader: Reader) -> (Vec<Record>, usize) {
        let (mut records, mut damage, mut behind) = (Vec::<Record>::new(), 0, Position::default());
        let total: usize = self.files.values().map(Vec::len).sum();
        for (count, item) in reader.enumerate() {
            assert!(count <= 2 * total + 2 * self.files.len(), "reading does not end");
            match item {
                Ok(record) => {
                    assert!(behind <= record.position, "{behind:?} {:?}", record.position);
                    let length = self.written(&record);
                    let offset = record.position.offset + length as u64;
                    behind = Position { segment: record.position.segment, offset };
                    records.push(record);
                }
                Err(Damage::Bytes { at, bytes }) => {
                    assert!(behind <= at && bytes > 0);
                    assert!(at.offset + bytes <= self.files[&at.segment].len() as u64);
                    behind = Position { segment: at.segment, offset: at.offset + bytes };
                    damage += 1;
                }
                Err(Damage::Missing { from, to, .. }) => {
                    assert!(from < to);
                    damage += 1;
                }
                Err(Damage::Unreadable { segment, source }) => panic!("{segment}: {source}"),
                Err(other) => {
                    assert!(!other.to_string().is_empty());
                    damage += 1;
                }
            }
        }
        (records, damage)
    }

    /// `record` stands in its segment as it was read, checksum and all; how long it is.
    fn written(&self, record: &Record) -> usize {
        let kind =
            [Kind::Open, Kind::Note, Kind::Close].iter().position(|kind| *kind == record.kind).unwrap() as u8 + 1;
        let content = [
            &record.sequence.to_le_bytes()[..],
            record.previous.as_bytes(),
            &[kind],
            record.id.to_string().as_bytes(),
            record.payload.as_bytes(),
        ]
        .concat();
        assert_eq!(record.hash().as_bytes()[..], Sha256::digest(&content)[..]);
        assert!(AuditId::parse(&record.id.to_string()).is_some());
        let length = (content.len() as u32).to_le_bytes();
        let checksum = crc32c::crc32c(&[&length, content.as_slice()].concat()).to_le_bytes();
        let frame = [&length[..], &checksum, &content].concat();
        let from = record.position.offset as usize;
        let there = self.files[&record.position.segment].get(from..from + frame.len());
        assert!(there == Some(frame.as_slice()), "another record is written at {:?}", record.position);
        frame.len()
    }
}
