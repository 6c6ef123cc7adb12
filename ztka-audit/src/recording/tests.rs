//! Frames in, asciicast v3 out: made by hand over both protocols, cut anywhere.

mod directory;
mod disk;
mod session;

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use ztka_core::Upgrade;

use super::*;
use crate::ports::tests::{messages, opens};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
}

pub(super) fn agreed(protocol: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol))])
}

/// A message of the cluster, unmasked.
pub(super) fn message(channel: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() + 1;
    let mut frame = vec![0x82];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => frame.push(short),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.push(channel);
    frame.extend(payload);
    frame
}

/// A message of the client.
pub(super) fn typed(channel: u8, payload: &[u8]) -> Vec<u8> {
    messages(&[&[channel], payload].concat(), 120)
}

fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&stream.to_be_bytes()[..], &[0], &length[1..], payload].concat()
}

const SPDY_STREAMS: [&str; 5] = ["error", "stdin", "stdout", "stderr", "resize"];

/// From the client or not, and what.
type Sent = Vec<(bool, Vec<u8>)>;

/// One session in the words of either protocol; `true` is the client's.
fn both(steps: &[(bool, u8, &[u8])]) -> [(Upgrade, Sent); 2] {
    let by_channel = steps.iter().map(|(client, channel, payload)| {
        (*client, if *client { typed(*channel, payload) } else { message(*channel, payload) })
    });
    let open: Vec<_> = SPDY_STREAMS.iter().map(|kind| [("streamtype", *kind)]).collect();
    let opens = opens(&open.iter().map(<[_; 1]>::as_slice).collect::<Vec<_>>());
    let stream = |channel: u8| [3, 5, 7, 1, 9][usize::from(channel)];
    let by_stream = steps.iter().map(|(client, channel, payload)| (*client, data(stream(*channel), payload)));
    [
        (Upgrade::WebSocket, by_channel.collect()),
        (Upgrade::Spdy31, std::iter::once((true, opens)).chain(by_stream).collect()),
    ]
}

fn transcript(upgrade: Upgrade, input: Input) -> Transcript {
    Transcript::of(upgrade, &agreed("v5.channel.k8s.io"), input, at(0)).unwrap()
}

/// The header and the events.
fn read(cast: &[u8]) -> (Value, Vec<Value>) {
    let mut lines = std::str::from_utf8(cast).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.next().unwrap(), lines.collect())
}

fn of_code(events: &[Value], code: &str) -> String {
    events.iter().filter(|event| event[1] == code).map(|event| event[2].as_str().unwrap()).collect()
}

const SIZE: &[u8] = br#"{"Width":77,"Height":33}"#;
const NON_ZERO: &[u8] = br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;

#[test]
fn a_session_is_the_same_over_both_protocols() {
    let steps: &[(bool, u8, &[u8])] = &[
        (true, 4, SIZE),
        (false, 1, b"$ "),
        (true, 0, b"ls\r"),
        (false, 1, b"ls\r\n\x1b[1mfile\x1b[0m\r\n"),
        (false, 2, b"warning\r\n"),
        (true, 4, br#"{"Width":100,"Height":40}"#),
        (false, 3, NON_ZERO),
    ];
    for (upgrade, steps) in both(steps) {
        let mut transcript = transcript(upgrade, Input::Echoed).titled("exec default/web".into(), Some("sh".into()));
        for (index, (client, bytes)) in (1_i64..).zip(steps) {
            let now = at(index * 100);
            if client { transcript.client(&bytes, now) } else { transcript.server(&bytes, now) }.unwrap();
        }
        transcript.finish(at(2000));
        assert_eq!(transcript.exit(), Some(3));
        let (header, events) = read(&transcript.take());
        let expected = json!({"version": 3, "term": {"cols": 77, "rows": 33}, "timestamp": 1_800_000_000,
            "command": "sh", "title": "exec default/web"});
        assert_eq!(header, expected, "{upgrade:?}");
        let events: Vec<_> =
            events.iter().map(|event| (event[1].as_str().unwrap(), event[2].as_str().unwrap())).collect();
        let expected = [
            ("o", "$ "),
            ("i", "ls\r"),
            ("o", "ls\r\n\u{1b}[1mfile\u{1b}[0m\r\n"),
            ("o", "warning\r\n"),
            ("r", "100x40"),
            ("x", "3"),
        ];
        assert_eq!(events, expected, "{upgrade:?}");
    }
}

#[test]
fn intervals_are_those_between_events_and_never_negative() {
    let mut transcript = transcript(Upgrade::WebSocket, Input::Off);
    for millis in [1500, 1750, 1000, 1800] {
        transcript.server(&message(1, b"x"), at(millis)).unwrap();
    }
    let lines = transcript.take();
    let events: Vec<_> = std::str::from_utf8(&lines).unwrap().lines().skip(1).map(|line| &line[..10]).collect();
    assert_eq!(events, ["[1.500000,", "[0.250000,", "[0.000000,", "[0.050000,"]);
}

#[test]
fn hostile_bytes_are_text_in_the_file() {
    let hostile = "\u{1b}]52;c;ZXZpbA==\u{7}\u{9d}\0\n]\"\\\u{202e}\u{2028}";
    let mut transcript = transcript(Upgrade::WebSocket, Input::Off);
    transcript.server(&message(1, hostile.as_bytes()), at(1)).unwrap();
    transcript.server(&message(1, b"\xff\xfe"), at(2)).unwrap();
    let lines = transcript.take();
    let raw = std::str::from_utf8(&lines).unwrap();
    assert!(!raw.contains('\u{1b}') && raw.lines().count() == 3);
    let (_, events) = read(&lines);
    assert_eq!(of_code(&events, "o"), format!("{hostile}\u{fffd}\u{fffd}"));
}

#[test]
fn input_is_recorded_as_it_is_set() {
    for (input, expected) in [(Input::Off, ""), (Input::Echoed, "***\r"), (Input::All, "secret\r")] {
        let mut transcript = transcript(Upgrade::WebSocket, input);
        transcript.client(&typed(0, b"secret\r"), at(1)).unwrap();
        transcript.server(&message(1, b"\r\nwelcome"), at(2)).unwrap();
        transcript.finish(at(3));
        let lines = transcript.take();
        assert_eq!(of_code(&read(&lines).1, "i"), expected, "{input:?}");
        assert_eq!(String::from_utf8(lines).unwrap().contains("secret"), input == Input::All);
    }
}

#[test]
fn an_end_is_an_exit_code_or_why_there_is_none() {
    let end = |status: &[u8]| {
        let mut transcript = transcript(Upgrade::WebSocket, Input::Off);
        let (one, other) = status.split_at(status.len() / 2);
        transcript.server(&message(3, one), at(1)).unwrap();
        transcript.server(&message(3, other), at(1)).unwrap();
        let event = read(&transcript.take()).1.pop().unwrap();
        (event[1].as_str().unwrap().to_owned(), event[2].as_str().unwrap().to_owned(), transcript.exit())
    };
    assert_eq!(end(br#"{"metadata":{},"status":"Success"}"#), ("x".into(), "0".into(), Some(0)));
    assert_eq!(end(NON_ZERO), ("x".into(), "3".into(), Some(3)));
    let failed = br#"{"status":"Failure","message":"no such container","reason":"InternalError"}"#;
    assert_eq!(end(failed), ("m".into(), "no such container".into(), None));
}

#[test]
fn what_cannot_be_read_is_said() {
    let v1 = agreed("channel.k8s.io");
    assert!(Transcript::of(Upgrade::WebSocket, &v1, Input::Off, at(0)).is_none());
    assert!(Transcript::of(Upgrade::WebSocket, &HeaderMap::new(), Input::Off, at(0)).is_none());
    assert!(frames::Frames::cannot_be_read(Upgrade::WebSocket, &v1).is_some());
    let several = agreed("v5.channel.k8s.io, channel.k8s.io");
    assert!(frames::Frames::cannot_be_read(Upgrade::WebSocket, &several).is_none());
    for upgrade in [Upgrade::WebSocket, Upgrade::Spdy31] {
        let mut transcript = transcript(upgrade, Input::Off);
        assert!(transcript.client(b"GET / HTTP/1.1\r\n\r\n", at(1)).is_err(), "{upgrade:?}");
    }
    // Sizes that mean nothing are passed over, however long.
    let mut transcript = transcript(Upgrade::WebSocket, Input::Off);
    for bad in [&b"{}"[..], b"[[[[", b"{\"Width\":70000,\"Height\":1}", &[b'{'; 100]] {
        for _ in 0..100 {
            transcript.client(&typed(4, bad), at(1)).unwrap();
        }
    }
    transcript.client(&typed(4, SIZE), at(2)).unwrap();
    assert_eq!(read(&transcript.take()).0["term"], json!({"cols": 77, "rows": 33}));
}

proptest! {
    #[test]
    fn output_is_the_same_however_it_is_cut(text in "[a-zß€😀\u{1b}\r\n\"]{0,200}", cuts in prop::collection::vec(1..40_usize, 1..20)) {
        let steps: Vec<_> = text.as_bytes().chunks(7).map(|part| (false, 1_u8, part)).collect();
        for (upgrade, steps) in both(&steps) {
            let mut transcript = transcript(upgrade, Input::Echoed);
            let mut cuts = cuts.iter().cycle();
            for (client, bytes) in steps {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (part, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    if client { transcript.client(part, at(1)) } else { transcript.server(part, at(1)) }.unwrap();
                    rest = after;
                }
            }
            transcript.finish(at(2));
            prop_assert_eq!(of_code(&read(&transcript.take()).1, "o"), text.clone());
        }
    }

    #[test]
    fn anything_at_all_gives_lines(pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..50)), 0..20)) {
        for upgrade in [Upgrade::WebSocket, Upgrade::Spdy31] {
            let mut transcript = transcript(upgrade, Input::All);
            for (client, bytes) in &pieces {
                let _ = if *client { transcript.client(bytes, at(1)) } else { transcript.server(bytes, at(1)) };
            }
            transcript.finish(at(2));
            let (header, events) = read(&transcript.take());
            prop_assert_eq!(&header["version"], 3);
            prop_assert!(events.iter().all(|event| event.as_array().is_some_and(|event| event.len() == 3)));
        }
    }
}
