//! Frames as Kubernetes sends them, and as nobody should.

use flate2::{Compress, Compression, FlushCompress};
use proptest::{collection::vec, prelude::*};

use super::{
    dictionary::{DICTIONARY, ID},
    *,
};

/// What an event leaves when pieces of data are put together.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Seen {
    Open(u32, Headers, bool),
    Reply(u32, Headers, bool),
    Headers(u32, Headers, bool),
    Data(u32, Vec<u8>, bool),
    Reset(u32, u32),
    GoAway,
    Other,
}

/// Decodes `bytes` given in pieces of these sizes.
fn decode(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Seen>, Violation> {
    let mut decoder = Decoder::default();
    let mut seen: Vec<Seen> = Vec::new();
    let mut more = false;
    let mut pieces = pieces.iter().copied().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut piece = &rest[..pieces.next().unwrap_or(rest.len()).clamp(1, rest.len())];
        rest = &rest[piece.len()..];
        while !piece.is_empty() {
            let (consumed, event) = decoder.decode(piece)?;
            assert!(consumed > 0);
            piece = &piece[consumed..];
            let Some(event) = event else { continue };
            if let Event::Data { bytes, end, .. } = &event
                && more
            {
                let Some(Seen::Data(_, held, ended)) = seen.last_mut() else { panic!("data goes on") };
                held.extend_from_slice(bytes);
                *ended = *end;
            } else {
                seen.push(match event {
                    Event::Open { stream, headers, end } => Seen::Open(stream, headers, end),
                    Event::Reply { stream, headers, end } => Seen::Reply(stream, headers, end),
                    Event::Headers { stream, headers, end } => Seen::Headers(stream, headers, end),
                    Event::Data { stream, bytes, end } => Seen::Data(stream, bytes.to_vec(), end),
                    Event::Reset { stream, status } => Seen::Reset(stream, status),
                    Event::GoAway => Seen::GoAway,
                    Event::Other => Seen::Other,
                });
            }
            more = matches!(decoder.state, State::Data { .. });
        }
    }
    Ok(seen)
}

struct Encoder(Compress);

impl Encoder {
    fn new() -> Self {
        let mut compress = Compress::new(Compression::best(), true);
        assert_eq!(compress.set_dictionary(&DICTIONARY).unwrap(), ID);
        Self(compress)
    }

    fn compress(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 1024);
        self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
        out
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.bytes());
        }
        self.compress(&plain)
    }

    fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let block = self.block(headers);
        frame(1, 0, &[&stream.to_be_bytes()[..], &[0; 6], &block].concat())
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, kind, flags], &length[1..], payload].concat()
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&stream.to_be_bytes()[..], &[flags], &length[1..], payload].concat()
}

fn headers(block: &[(&str, &str)]) -> Headers {
    Headers(block.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect())
}

const ERROR: [(&str, &str); 3] = [("streamtype", "error"), ("port", "8080"), ("requestid", "0")];
const DATA: [(&str, &str); 3] = [("streamtype", "data"), ("port", "8080"), ("requestid", "0")];

fn port_forward() -> (Vec<u8>, Vec<Seen>) {
    let mut encoder = Encoder::new();
    let settings = [&1_u32.to_be_bytes()[..], &[0; 8]].concat();
    let bytes = [
        frame(4, 0, &settings),
        encoder.open(1, &ERROR),
        data(1, 1, b""),
        encoder.open(3, &DATA),
        data(3, 0, &[7; 5000]),
        frame(6, 0, &1_u32.to_be_bytes()),
        frame(9, 0, &[0, 0, 0, 3, 0, 0, 1, 0]),
        frame(8, 0, &[&3_u32.to_be_bytes()[..], &encoder.block(&[("a", "b\0c")])].concat()),
        frame(2, 1, &[&5_u32.to_be_bytes()[..], &encoder.block(&[])].concat()),
        data(3, 1, b"end"),
        frame(3, 0, &[0, 0, 0, 3, 0, 0, 0, 5]),
        frame(7, 0, &[0; 8]),
    ];
    let expected = vec![
        Seen::Other,
        Seen::Open(1, headers(&ERROR), false),
        Seen::Data(1, vec![], true),
        Seen::Open(3, headers(&DATA), false),
        Seen::Data(3, vec![7; 5000], false),
        Seen::Other,
        Seen::Other,
        Seen::Headers(3, Headers(vec![("a".into(), vec!["b".into(), "c".into()])]), false),
        Seen::Reply(5, Headers::default(), true),
        Seen::Data(3, b"end".to_vec(), true),
        Seen::Reset(3, 5),
        Seen::GoAway,
    ];
    (bytes.concat(), expected)
}

#[test]
fn a_port_forward_is_read() {
    let (bytes, expected) = port_forward();
    let seen = decode(&bytes, &[]).unwrap();
    assert_eq!(seen, expected);
    let Seen::Open(_, headers, _) = &seen[3] else { panic!() };
    assert_eq!(
        (headers.one("port"), headers.one("streamtype"), headers.one("none")),
        (Some("8080"), Some("data"), None)
    );
    let Seen::Headers(_, headers, _) = &seen[7] else { panic!() };
    assert_eq!((headers.one("a"), headers.values("a").len()), (None, 2));
}

/// Written by `github.com/moby/spdystream` 0.5.1, as kubectl and the kubelet use it.
#[test]
fn frames_of_spdystream_are_read() {
    let seen = decode(include_bytes!("spdystream.bin"), &[3]).unwrap();
    let canonical = |block: &[(&str, &str)]| {
        let mut block: Vec<_> = headers(block).0;
        block.sort();
        block
    };
    let sorted = |seen: &Seen| match seen {
        Seen::Open(stream, Headers(block), end) => {
            let mut block = block.clone();
            block.sort();
            (*stream, block, *end)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sorted(&seen[0]), (1, canonical(&ERROR), false));
    assert_eq!(sorted(&seen[1]), (3, canonical(&DATA), false));
    assert_eq!(seen[2], Seen::Data(3, b"GET / HTTP/1.0\r\n\r\n".to_vec(), false));
    assert_eq!(seen[3], Seen::Data(1, vec![], true));
    assert_eq!(sorted(&seen[4]), (5, canonical(&[("streamtype", "data"), ("port", "22"), ("requestid", "1")]), false));
    assert_eq!(seen.len(), 5);
}

#[test]
fn what_spdystream_would_take_otherwise_is_refused() {
    let open = |tail: &[u8]| {
        let block = Encoder::new().compress(tail);
        frame(1, 0, &[&1_u32.to_be_bytes()[..], &[0; 6], &block].concat())
    };
    let one = |name: &[u8], value: &[u8]| {
        let length = |text: &[u8]| u32::try_from(text.len()).unwrap().to_be_bytes();
        [&length(name)[..], name, &length(value), value].concat()
    };
    let mut twice = Encoder::new();
    let mut finished = Encoder::new();
    let mut ended = Vec::with_capacity(256);
    finished.0.compress_vec(&[0; 4], &mut ended, FlushCompress::Finish).unwrap();
    for (bytes, why) in [
        (frame(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0]), "a reset with more behind it"),
        (frame(3, 0, &[0, 0, 0, 1]), "a short reset"),
        (frame(3, 0, &[0, 0, 0, 0, 0, 0, 0, 5]), "a reset of no stream"),
        (frame(6, 0, &[0; 8]), "a long ping"),
        (frame(6, 1, &[0; 4]), "a ping with flags"),
        (frame(4, 0, &[0, 0, 0, 1]), "settings that are not there"),
        (frame(4, 0, &[0, 0, 0, 0, 0]), "settings with more behind them"),
        (frame(4, 0, &vec![0; 5000]), "long settings"),
        (frame(5, 0, &[]), "NOOP"),
        (frame(10, 0, &[0; 8]), "CREDENTIAL"),
        (vec![0x80, 2, 0, 1, 0, 0, 0, 10], "SPDY/2"),
        (data(0, 0, b"x"), "data of no stream"),
        (data(1, 2, b"x"), "compressed data"),
        (frame(1, 0, &[0; 9]), "a short SYN_STREAM"),
        (frame(1, 4, &[0; 10]), "a SYN_STREAM with unknown flags"),
        (vec![0x80, 3, 0, 1, 0, 0, 0x40, 0x0b], "a long header block"),
        (open(&[0, 0, 0, 1]), "a header that is not there"),
        (open(&[0xff; 4]), "four billion headers"),
        (open(&[&[0, 0, 0, 0][..], b"more"].concat()), "bytes behind the headers"),
        (open(&[&[0, 0, 0, 1][..], &one(b"Port", b"1")].concat()), "upper case"),
        (open(&[&[0, 0, 0, 1][..], &one(b"", b"1")].concat()), "no name"),
        (open(&[&[0, 0, 0, 1][..], &one(b"a b", b"1")].concat()), "a space in a name"),
        (open(&[&[0, 0, 0, 1][..], &one(b"a", b"\xff")].concat()), "no UTF-8"),
        (open(&[&[0, 0, 0, 2][..], &one(b"port", b"1"), &one(b"port", b"2")].concat()), "a name twice"),
        (open(&[&[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0xff, 0xff, 0xff][..], &[b'x'; 9]].concat()), "a long value"),
        ([twice.open(3, &DATA), twice.open(3, &DATA)].concat(), "a stream twice"),
        ([twice.open(5, &DATA), twice.open(1, &DATA)].concat(), "an earlier stream"),
        (frame(1, 0, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &ended].concat()), "the end of the compression"),
        (frame(1, 0, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3]), "no zlib"),
        (frame(1, 0, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0xbb, 1, 2, 3, 4, 0]), "another dictionary"),
        (frame(1, 0, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "no block"),
    ] {
        assert!(decode(&bytes, &[]).is_err(), "{why}");
        assert!(decode(&bytes, &[1]).is_err(), "{why}");
    }
}

#[test]
fn a_bomb_does_not_go_off() {
    let mut encoder = Encoder::new();
    let plain = [&[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0x40, 0, 0][..], &vec![b'x'; 4 << 20]].concat();
    let block = encoder.compress(&plain);
    assert!(block.len() < MAX_BLOCK);
    let bytes = frame(1, 0, &[&1_u32.to_be_bytes()[..], &[0; 6], &block].concat());
    assert_eq!(decode(&bytes, &[]).unwrap_err().what(), "a header block is longer than 16 KiB");
    let fits = "x".repeat(MAX_BLOCK - 13);
    assert!(decode(&Encoder::new().open(1, &[("a", &fits)]), &[]).is_ok());
}

#[test]
fn a_violation_is_final() {
    let mut decoder = Decoder::default();
    let first = decoder.decode(&[0; 8]).unwrap_err();
    assert_eq!(decoder.decode(&data(1, 0, b"x")).unwrap_err(), first);
    assert_eq!(decoder.decode(&[]).unwrap_err(), first);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(pieces in vec(1_usize..700, 1..20)) {
        let (bytes, expected) = port_forward();
        prop_assert_eq!(decode(&bytes, &pieces).unwrap(), expected);
    }

    #[test]
    fn any_headers_are_read_back(block in proptest::collection::btree_map("[a-z0-9:-]{1,20}", "[ -~é]{0,200}", 0..10)) {
        let block: Vec<(&str, &str)> = block.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let seen = decode(&Encoder::new().open(7, &block), &[5]).unwrap();
        prop_assert_eq!(seen, [Seen::Open(7, headers(&block), false)]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..2000), at in 0_usize..6000, byte: u8, pieces in vec(1_usize..50, 1..9)) {
        prop_assert_eq!(decode(&bytes, &pieces), decode(&bytes, &[]));
        let (mut changed, _) = port_forward();
        let at = at % changed.len();
        changed[at] = byte;
        prop_assert_eq!(decode(&changed, &pieces), decode(&changed, &[]));
    }
}
