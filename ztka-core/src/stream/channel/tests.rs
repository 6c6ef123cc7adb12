//! Channels, whole and in pieces.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug, Eq, PartialEq)]
enum Seen {
    Data(u8, Vec<u8>),
    Close(u8),
    End(Option<u16>),
}

fn decode(version: Version, bytes: &[u8], piece: usize) -> Result<Vec<Seen>, Violation> {
    let mut decoder = Decoder::new(Sender::Server, version);
    let mut seen = Vec::new();
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            let (consumed, event) = decoder.decode(piece)?;
            assert!(consumed > 0);
            piece = &piece[consumed..];
            match (event, seen.last_mut()) {
                (None, _) => {}
                (Some(Event::Data { channel, bytes }), Some(Seen::Data(last, held))) if *last == channel => {
                    held.extend_from_slice(&bytes);
                }
                (Some(Event::Data { channel, bytes }), _) => seen.push(Seen::Data(channel, bytes.to_vec())),
                (Some(Event::Close(channel)), _) => seen.push(Seen::Close(channel)),
                (Some(Event::End(code)), _) => seen.push(Seen::End(code)),
            }
        }
    }
    Ok(seen)
}

fn message(payload: &[u8]) -> Vec<u8> {
    [&[0x82, u8::try_from(payload.len()).unwrap()], payload].concat()
}

#[test]
fn an_exec_is_read() {
    let bytes = [
        message(b"\x00"),
        message(b""),
        message(b"\x01hello"),
        [vec![0x02, 1, 2], b"\x89\x00".to_vec(), vec![0x80, 3], b"oh!".to_vec()].concat(),
        message(b"\xff\x00"),
        [vec![0x02, 1, 255], vec![0x80, 1, 2]].concat(),
        message(b"\x03{\"status\":\"Success\"}"),
        b"\x88\x02\x03\xe8".to_vec(),
    ];
    let expected = [
        Seen::Data(1, b"hello".to_vec()),
        Seen::Data(2, b"oh!".to_vec()),
        Seen::Close(0),
        Seen::Close(2),
        Seen::Data(ERROR, b"{\"status\":\"Success\"}".to_vec()),
        Seen::End(Some(1000)),
    ];
    for piece in [1, 2, 7, 1000] {
        assert_eq!(decode(Version::V5, &bytes.concat(), piece).unwrap(), expected);
    }
}

#[test]
fn only_version_5_closes_channels() {
    assert_eq!(decode(Version::V4, &message(b"\xff\x00"), 9).unwrap(), [Seen::Data(255, vec![0])]);
    for bad in [message(b"\xff"), message(b"\xff\x00\x01"), [vec![0x02, 2, 255, 0], vec![0x80, 1, 1]].concat()] {
        for piece in [1, 9] {
            assert!(decode(Version::V5, &bad, piece).is_err(), "{bad:?}");
        }
    }
    let mut decoder = Decoder::new(Sender::Server, Version::V5);
    let first = decoder.decode(&message(b"\xff")).unwrap_err();
    assert_eq!(decoder.decode(&message(b"\x01a")).unwrap_err(), first);
}

#[test]
fn versions_are_named_by_protocol() {
    assert_eq!(Version::from_protocol("v5.channel.k8s.io"), Some(Version::V5));
    assert_eq!(Version::from_protocol("v4.channel.k8s.io"), Some(Version::V4));
    for other in ["channel.k8s.io", "v4.base64.channel.k8s.io", "SPDY/3.1+portforward.k8s.io", "V5.channel.k8s.io"] {
        assert_eq!(Version::from_protocol(other), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300), piece in 1_usize..40) {
        for version in [Version::V4, Version::V5] {
            prop_assert_eq!(decode(version, &bytes, piece), decode(version, &bytes, 1000));
        }
    }
}
