//! What clients open however the bytes are cut, and answers that a decoder of SPDY reads wherever they are put in.

use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::stream::spdy::{DICTIONARY, Decoder, Event};

/// Written by `github.com/moby/spdystream`: two streams to port 8080, one to 22.
const SPDYSTREAM: &[u8] = include_bytes!("../spdy/spdystream.bin");

fn tunnelled() -> HeaderMap {
    HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(TUNNELLED))])
}

/// Frames of a WebSocket with parts of this size at the most; a client masks.
fn messages(bytes: &[u8], size: usize, by: Sender) -> Vec<u8> {
    let mask = if by == Sender::Client { [0x12, 0x34, 0x56, 0x78] } else { [0; 4] };
    let mut out = Vec::new();
    for part in bytes.chunks(size) {
        out.push(0x82);
        let bit = if by == Sender::Client { 0x80 } else { 0 };
        match u8::try_from(part.len()) {
            Ok(length @ 0..126) => out.push(bit | length),
            _ => {
                out.push(bit | 126);
                out.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            }
        }
        if by == Sender::Client {
            out.extend(mask);
        }
        out.extend(part.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
    out
}

fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&stream.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

fn opens(upgrade: Upgrade, bytes: &[u8], cut: usize) -> Vec<Open> {
    let mut requests = Requests::of(upgrade, &tunnelled()).unwrap();
    let mut opens = Vec::new();
    for piece in bytes.chunks(cut) {
        requests.read(piece, |open| opens.push(open)).unwrap();
    }
    opens
}

#[test]
fn streams_are_told_however_the_bytes_are_cut_and_whatever_lies_between() {
    // Payload that looks like frames is nobody's business.
    let decoy = data(3, &SPDYSTREAM[..100]);
    let all = [SPDYSTREAM, &decoy, &data(3, &[7; 70_000])].concat();
    let plain = opens(Upgrade::Spdy31, &all, all.len());
    assert_eq!(plain.iter().map(|open| open.port.get()).collect::<Vec<_>>(), [8080, 8080, 22]);
    assert_eq!(plain[0].kind, Kind::Error);
    assert_eq!((plain[1].kind, &plain[1].request), (Kind::Data, &plain[0].request));
    let wrapped = [100, 127, 40_000].map(|size| messages(&all, size, Sender::Client));
    for cut in [1, 2, 3, 7, 64, 255, 256, 257, 1000, 65_536] {
        assert_eq!(opens(Upgrade::Spdy31, &all, cut), plain, "{cut}");
        for wrapped in &wrapped {
            assert_eq!(opens(Upgrade::WebSocket, wrapped, cut), plain, "{cut}");
        }
    }
}

/// A server's side: a reply in one compression context, then data.
fn answered(streams: &[u32]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), true);
    compress.set_dictionary(&DICTIONARY).unwrap();
    let mut out = Vec::new();
    for stream in streams {
        let mut block = Vec::with_capacity(1024);
        compress.compress_vec(&[0; 4], &mut block, FlushCompress::Sync).unwrap();
        let payload = [&stream.to_be_bytes()[..], &block].concat();
        out.extend([0x80, 3, 0, 2]);
        out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend(payload);
        out.extend(data(*stream, &[9; 50]));
    }
    out
}

fn open(stream: u32, kind: Kind) -> Open {
    Open { stream, kind, port: port("22").unwrap(), request: "0".into() }
}

/// Pieces of data by stream, and whether it ends there.
type Said = Vec<(u32, Vec<u8>, bool)>;

/// Reads all of it as a client would: streams answered, and what was said and ended on each.
fn heard(bytes: &[u8], tunnelled: bool) -> (Vec<u32>, Said) {
    let mut plain = Vec::new();
    let mut bytes = bytes;
    if tunnelled {
        let mut messages = websocket::Decoder::new(Sender::Server);
        while !bytes.is_empty() {
            let (consumed, event) = messages.decode(bytes).unwrap();
            if let Some(websocket::Event::Message { bytes, .. }) = event {
                plain.extend_from_slice(&bytes);
            }
            bytes = &bytes[consumed..];
        }
        bytes = &plain;
    }
    let (mut decoder, mut replies, mut said) = (Decoder::default(), Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let (consumed, event) = decoder.decode(bytes).unwrap();
        match event {
            Some(Event::Reply { stream, headers, end: false }) => {
                assert_eq!(headers.iter().count(), 0);
                replies.push(stream);
            }
            Some(Event::Data { stream, bytes, end }) => said.push((stream, bytes.to_vec(), end)),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        bytes = &bytes[consumed..];
    }
    (replies, said)
}

#[test]
fn a_refusal_is_read_at_every_place_between_frames_and_nowhere_else() {
    let before = answered(&[1, 3]);
    for is_tunnelled in [false, true] {
        let before = if is_tunnelled { messages(&before, 61, Sender::Server) } else { before.clone() };
        let mut places = 0;
        for cut in 0..=before.len() {
            let mut answers = Answers::new(is_tunnelled);
            let (gone, mut rest) = before.split_at(cut);
            answers.passed(gone);
            places += usize::from(answers.is_between());
            let mut sent = gone.to_vec();
            // The next place is found without passing one.
            while !answers.is_between() {
                let step = answers.until_between();
                assert!(step > 0 && step <= rest.len(), "{cut}: {step}");
                answers.passed(&rest[..step]);
                sent.extend_from_slice(&rest[..step]);
                rest = &rest[step..];
            }
            let mut refusal = Refusal::new(&answers, "port 22 is closed");
            refusal.opened(&open(5, Kind::Error));
            sent.extend(refusal.take());
            assert!(!refusal.is_said(), "the client has not opened what it reads from");
            refusal.opened(&open(7, Kind::Data));
            sent.extend(refusal.take());
            assert!(refusal.is_said());
            let (replies, said) = heard(&sent, is_tunnelled);
            assert!(replies.ends_with(&[5, 7]), "{cut}: {replies:?}");
            assert_eq!(said[said.len() - 2..], [(5, b"port 22 is closed".to_vec(), true), (7, vec![], true)], "{cut}");
        }
        // Before, between and behind four frames; messages that end with one are fewer.
        assert_eq!(places, if is_tunnelled { 2 } else { 5 });
    }
}

#[test]
fn what_is_said_is_bounded() {
    let mut refusal = Refusal::new(&Answers::new(true), &"ü".repeat(5000));
    for number in 0..100_000 {
        refusal.opened(&Open { request: number.to_string(), ..open(2 * number + 1, Kind::Error) });
    }
    assert!(refusal.take().len() < 16 << 10);
    let farewell = refusal.farewell();
    let mut messages = websocket::Decoder::new(Sender::Server);
    assert_eq!(messages.decode(&farewell), Ok((farewell.len(), Some(websocket::Event::Close(Some(1008))))));
    assert!(Refusal::new(&Answers::new(false), "no").farewell().is_empty(), "SPDY has no place for it");
}

#[test]
fn a_side_that_is_no_websocket_is_given_up() {
    let mut answers = Answers::new(true);
    answers.passed(b"HTTP/1.1 500 no\r\n");
    assert!(answers.is_lost() && !answers.is_between());
}
