//! Frames, whole and in pieces, and what RFC 6455 does not allow.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug, Eq, PartialEq)]
enum Seen {
    Message(Vec<u8>),
    Close(Option<u16>),
    Other,
}

/// Decodes `bytes` given in pieces of these sizes; the message that has not ended comes last.
fn decode(sender: Sender, bytes: &[u8], pieces: &[usize]) -> Result<Vec<Seen>, Violation> {
    let mut decoder = Decoder::new(sender);
    let (mut seen, mut message) = (Vec::new(), None::<Vec<u8>>);
    let mut pieces = pieces.iter().copied().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut piece = &rest[..pieces.next().unwrap_or(rest.len()).clamp(1, rest.len())];
        rest = &rest[piece.len()..];
        while !piece.is_empty() {
            let (consumed, event) = decoder.decode(piece)?;
            assert!(consumed > 0);
            piece = &piece[consumed..];
            match event {
                None => {}
                Some(Event::Close(code)) => seen.push(Seen::Close(code)),
                Some(Event::Other) => seen.push(Seen::Other),
                Some(Event::Message { bytes, start, end }) => {
                    assert_eq!(start, message.is_none());
                    let mut whole = message.take().unwrap_or_default();
                    whole.extend_from_slice(&bytes);
                    match end {
                        true => seen.push(Seen::Message(whole)),
                        false => message = Some(whole),
                    }
                }
            }
        }
    }
    seen.extend(message.map(Seen::Message));
    Ok(seen)
}

fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(masked | u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            frame.push(masked | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(masked | 127);
            frame.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    frame.extend(mask.unwrap_or_default().iter().take(mask.map_or(0, |_| 4)));
    frame.extend(payload.iter().zip(mask.unwrap_or_default().iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// RFC 6455 §5.7.
#[test]
fn the_examples_of_the_rfc_are_read() {
    let hello = [Seen::Message(b"Hello".to_vec())];
    let server = |bytes: &[u8]| decode(Sender::Server, bytes, &[]).unwrap();
    assert_eq!(server(b"\x81\x05\x48\x65\x6c\x6c\x6f"), hello);
    assert_eq!(server(b"\x01\x03\x48\x65\x6c\x80\x02\x6c\x6f"), hello);
    assert_eq!(server(b"\x89\x05\x48\x65\x6c\x6c\x6f"), [Seen::Other]);
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(decode(Sender::Client, masked, &[]).unwrap(), hello);
    assert_eq!(decode(Sender::Client, masked, &[1]).unwrap(), hello);
}

#[test]
fn pings_come_between_the_parts_of_a_message() {
    let mask = Some([1, 2, 3, 4]);
    let bytes = [
        frame(0x02, mask, b"one "),
        frame(0x89, mask, b"ping"),
        frame(0x00, mask, b""),
        frame(0x00, mask, b"two "),
        frame(0x8a, mask, b""),
        frame(0x80, mask, b""),
        frame(0x82, mask, b""),
        frame(0x88, mask, &1000_u16.to_be_bytes()),
    ];
    let expected =
        [Seen::Other, Seen::Other, Seen::Message(b"one two ".to_vec()), Seen::Message(vec![]), Seen::Close(Some(1000))];
    for pieces in [vec![], vec![1], vec![3, 5]] {
        assert_eq!(decode(Sender::Client, &bytes.concat(), &pieces).unwrap(), expected);
    }
    assert_eq!(decode(Sender::Server, b"\x88\x00", &[]).unwrap(), [Seen::Close(None)]);
}

#[test]
fn what_the_rfc_does_not_allow_is_refused() {
    let mask = Some([9; 4]);
    for (sender, bytes) in [
        (Sender::Client, frame(0x82, None, b"not masked")),
        (Sender::Server, frame(0x82, mask, b"masked")),
        (Sender::Server, frame(0xc2, None, b"compressed")),
        (Sender::Server, frame(0x83, None, b"unknown kind")),
        (Sender::Server, frame(0x8b, None, b"unknown control")),
        (Sender::Server, frame(0x80, None, b"goes on")),
        (Sender::Server, [frame(0x02, None, b"a"), frame(0x82, None, b"b")].concat()),
        (Sender::Server, frame(0x09, None, b"ping in parts")),
        (Sender::Server, frame(0x89, None, &[0; 126])),
        (Sender::Server, frame(0x88, None, b"x")),
        (Sender::Server, b"\x82\x7e\x00\x7d".to_vec()),
        (Sender::Server, b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff".to_vec()),
        (Sender::Server, b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00".to_vec()),
    ] {
        for pieces in [vec![], vec![1]] {
            assert!(decode(sender, &bytes, &pieces).is_err(), "{bytes:?}");
        }
    }
}

#[test]
fn a_violation_is_final() {
    let mut decoder = Decoder::new(Sender::Server);
    let first = decoder.decode(b"\xff").unwrap_err();
    assert_eq!(decoder.decode(b"\x81\x00").unwrap_err(), first);
    let mut decoder = Decoder::new(Sender::Server);
    let first = decoder.decode(b"\x80\x00").unwrap_err();
    assert_eq!(decoder.decode(b"\x81\x00").unwrap_err(), first);
}

proptest! {
    #[test]
    fn messages_are_read_back(
        messages in vec(vec(vec(any::<u8>(), 0..300), 1..4), 1..5),
        long in 65_500_usize..65_600,
        mask: Option<[u8; 4]>,
        pieces in vec(1_usize..2000, 1..9),
    ) {
        let mut bytes = frame(0x82, mask, &vec![5; long]);
        let mut expected = vec![Seen::Message(vec![5; long])];
        for parts in messages {
            for (index, part) in parts.iter().enumerate() {
                let last = if index + 1 == parts.len() { 0x80 } else { 0 };
                bytes.extend(frame(last | if index == 0 { 2 } else { 0 }, mask, part));
            }
            expected.push(Seen::Message(parts.concat()));
        }
        let sender = if mask.is_some() { Sender::Client } else { Sender::Server };
        prop_assert_eq!(decode(sender, &bytes, &pieces).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..400), pieces in vec(1_usize..50, 1..9)) {
        for sender in [Sender::Client, Sender::Server] {
            prop_assert_eq!(decode(sender, &bytes, &pieces), decode(sender, &bytes, &[]));
        }
    }
}
