//! Port-forwards made by hand, and one that was written by Kubernetes' own library.

use http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use ztka_core::stream::forward::MAX_PORTS;

use super::*;

/// Written by `github.com/moby/spdystream`: two streams to port 8080, one to 22.
const SPDYSTREAM: &[u8] = include_bytes!("../../../ztka-core/src/stream/spdy/spdystream.bin");

/// SYN_STREAMs that carry these headers, in one compression context of stored blocks.
pub(crate) fn opens(streams: &[&[(&str, &str)]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, headers) in (0_u32..).zip(streams) {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.bytes());
        }
        // zlib's head with the name of SPDY's dictionary, then a stored block and an empty one, as a flush leaves it.
        let length = u16::try_from(plain.len()).unwrap();
        let mut block = if index == 0 { vec![0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2] } else { Vec::new() };
        block.push(0);
        block.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        block.extend(plain);
        block.extend([0, 0, 0, 0xff, 0xff]);
        let payload = [&(2 * index + 1).to_be_bytes()[..], &[0; 6], &block].concat();
        bytes.extend([0x80, 3, 0, 1, 0]);
        bytes.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        bytes.extend(payload);
    }
    bytes
}

/// What kubectl opens for one connection to each port.
pub(crate) fn forward(ports: &[&str]) -> Vec<u8> {
    let pairs = ports.iter().flat_map(|port| ["error", "data"].map(|kind| [("streamtype", kind), ("port", *port)]));
    let pairs: Vec<_> = pairs.collect();
    opens(&pairs.iter().map(<[_; 2]>::as_slice).collect::<Vec<_>>())
}

/// Binary messages of a client, of at most `size` bytes each.
pub(crate) fn messages(bytes: &[u8], size: usize) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let message = |part: &[u8]| {
        let masked = part.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [0x82, 0x80 | u8::try_from(part.len()).unwrap()].into_iter().chain(mask).chain(masked).collect::<Vec<_>>()
    };
    bytes.chunks(size).flat_map(message).collect()
}

pub(crate) fn tunnelled() -> HeaderMap {
    let protocol = HeaderValue::from_static("SPDY/3.1+portforward.k8s.io");
    HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, protocol)])
}

fn spdy() -> Ports {
    Ports::of(Upgrade::Spdy31, &HeaderMap::new()).unwrap()
}

#[test]
fn ports_are_read_however_the_bytes_are_cut() {
    let bytes = SPDYSTREAM;
    let in_messages = messages(bytes, 100);
    for (upgrade, bytes) in [(Upgrade::Spdy31, bytes), (Upgrade::WebSocket, &in_messages)] {
        for cut in 0..bytes.len() {
            let mut ports = Ports::of(upgrade, &tunnelled()).unwrap();
            let (one, other) = bytes.split_at(cut);
            ports.read(one).unwrap();
            ports.read(other).unwrap();
            assert_eq!(ports.list(), "8080,22", "{upgrade:?} cut at {cut}");
        }
        let mut ports = Ports::of(upgrade, &tunnelled()).unwrap();
        let news = bytes.chunks(1).filter(|byte| ports.read(byte).unwrap()).count();
        assert_eq!((ports.list().as_str(), news), ("8080,22", 2), "{upgrade:?} byte by byte");
    }
}

#[test]
fn what_names_no_port_ends_the_stream() {
    let port = |value| opens(&[&[("streamtype", "data"), ("port", value)]]);
    for value in ["", "0", "+80", "80 ", "http", "65536", "80\x0081", "0x50"] {
        assert!(matches!(spdy().read(&port(value)), Err(Unreadable::NotOne)), "{value:?}");
    }
    assert!(matches!(spdy().read(&opens(&[&[("streamtype", "data")]])), Err(Unreadable::NotOne)));
    assert!(matches!(spdy().read(&opens(&[&[("port", "1"), ("port", "2")]])), Err(Unreadable::Violation(_))));
    // As Kubernetes reads it.
    let mut ports = spdy();
    assert!(ports.read(&port("0080")).unwrap());
    assert_eq!(ports.list(), "80");
}

#[test]
fn what_is_no_port_forward_ends_the_stream_for_good() {
    for (upgrade, bytes) in [(Upgrade::Spdy31, &b"GET / HTTP/1.1\r\n\r\n"[..]), (Upgrade::WebSocket, b"\x82\x01x")] {
        let mut ports = Ports::of(upgrade, &tunnelled()).unwrap();
        assert!(ports.read(bytes).is_err(), "{upgrade:?}");
        assert!(ports.read(&forward(&["80"])).is_err(), "{upgrade:?}: read on");
    }
}

#[test]
fn different_ports_are_few_and_their_list_is_short() {
    let all: Vec<_> = (65_000..65_000 + MAX_PORTS).map(|port| port.to_string()).collect();
    let mut all: Vec<_> = all.iter().map(String::as_str).collect();
    all.push("65000"); // again
    let mut ports = spdy();
    assert!(ports.read(&forward(&all)).unwrap());
    assert!(ports.list().len() <= crate::event::MAX_TEXT);
    all.push("80");
    assert!(matches!(spdy().read(&forward(&all)), Err(Unreadable::TooMany)));
}

#[test]
fn the_older_form_of_websocket_names_its_ports_in_the_request() {
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let answer = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol))]);
        assert!(Ports::of(Upgrade::WebSocket, &answer).is_none(), "{protocol}");
    }
    assert!(Ports::of(Upgrade::WebSocket, &HeaderMap::new()).is_none());
}
