//! Both directions of an exec, from which a recording is made.

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use jiff::Timestamp;
use serde_json::Value;
use ztka_audit::{Input, Transcript};
use ztka_core::Upgrade;

/// The first byte says which protocol it is and what of the input is recorded. Then pieces: the first byte of each says whose
/// it is and how much time has passed before, the second how long it is.
///
/// Whatever comes, what is recorded are lines of asciicast v3: a header, then events whose time does not go back. However the
/// bytes are cut, the output is the same. True if all of it could be read.
pub(crate) fn recording(data: &[u8]) -> bool {
    let Some((&kind, rest)) = data.split_first() else { return false };
    let upgrade = if kind & 1 == 0 { Upgrade::WebSocket } else { Upgrade::Spdy31 };
    let input = [Input::Off, Input::Echoed, Input::All][usize::from(kind >> 1) % 3];
    let (whole, read) = record(upgrade, input, rest, usize::MAX);
    let (cut, _) = record(upgrade, input, rest, 1);
    assert_eq!(output(&whole), output(&cut), "it depends on where it is cut");
    read
}

fn record(upgrade: Upgrade, input: Input, mut rest: &[u8], size: usize) -> (Vec<u8>, bool) {
    let agreed = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io"))]);
    let mut millis = 1_800_000_000_000;
    let at = |millis| Timestamp::from_millisecond(millis).unwrap();
    let mut transcript = Transcript::of(upgrade, &agreed, input, at(millis)).unwrap();
    let mut all = true;
    'all: while let [head, length, behind @ ..] = rest {
        let (piece, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        // A clock may go back as well.
        millis += i64::from(head >> 1) * 20 - 100;
        for piece in piece.chunks(size) {
            let read =
                if head & 1 == 0 { transcript.client(piece, at(millis)) } else { transcript.server(piece, at(millis)) };
            if read.is_err() {
                all = false;
                break 'all;
            }
        }
        transcript.pass(at(millis));
    }
    transcript.finish(at(millis));
    (transcript.take(), all)
}

/// What was shown, all of it; and the lines are what they should be.
fn output(cast: &[u8]) -> String {
    let cast = std::str::from_utf8(cast).expect("lines are text");
    assert!(cast.ends_with('\n'));
    let mut lines = cast.lines();
    let header: Value = serde_json::from_str(lines.next().expect("a header")).expect("the header is JSON");
    assert_eq!(header["version"], 3);
    let mut output = String::new();
    for line in lines {
        let (interval, code, data): (f64, String, String) = serde_json::from_str(line).expect("an event");
        assert!(interval >= 0.0 && ["o", "i", "r", "m", "x"].contains(&code.as_str()), "{line}");
        if code == "o" {
            output.push_str(&data);
        }
    }
    output
}
