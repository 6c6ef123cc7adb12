//! The table of good and bad framing, byte by byte and all at once.

use super::*;

/// All of `input` that passes, and what ended it; fed in pieces of `piece` bytes.
fn feed(input: &[u8], piece: usize) -> (Vec<u8>, Option<Violation>) {
    let (mut guard, mut pending, mut passed) = (Http1::default(), Vec::new(), Vec::new());
    for piece in input.chunks(piece) {
        pending.extend_from_slice(piece);
        loop {
            match guard.advance(&pending) {
                Ok(0) => break,
                Ok(count) => passed.extend(pending.drain(..count)),
                Err(violation) => return (passed, Some(violation)),
            }
        }
    }
    (passed, None)
}

fn refused(input: &[u8]) -> Violation {
    let (whole, one) = (feed(input, input.len()).1, feed(input, 1).1);
    assert_eq!(whole, one, "{}", String::from_utf8_lossy(input));
    whole.unwrap_or_else(|| panic!("passed: {}", String::from_utf8_lossy(input)))
}

#[test]
fn well_formed_messages_pass_unchanged() {
    let good: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b?c=d HTTP/1.1\r\nhost:a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0A;x=y\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        b"GET https://a/b HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX-Text: \xc3\xa4\tb\r\n\r\n",
    ];
    for input in good {
        for piece in [1, 3, input.len()] {
            let (passed, violation) = feed(input, piece);
            assert_eq!((passed.as_slice(), violation), (*input, None), "{}", String::from_utf8_lossy(input));
        }
    }
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let bad: &[&[u8]] = &[
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0cchunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\x0c\r\n\r\nhello",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a<b> HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET https://[/a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"ZTKA-REFUSED / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\n",
    ];
    for input in bad {
        assert!(matches!(refused(input), Violation::Malformed(_)));
        assert!(feed(input, 1).0.is_empty(), "{}", String::from_utf8_lossy(input));
    }
}

#[test]
fn bad_chunks_are_refused() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bad: &[&[u8]] = &[
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5;a\x01\r\nhello\r\n",
        b"10000000000000000\r\n",
        b"00000000000000005\r\nhello\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nX: y\n\r\n",
    ];
    for body in bad {
        assert!(matches!(refused(&[head, *body].concat()), Violation::Malformed(_)));
    }
    let long = [b"5;".as_slice(), &vec![b'x'; 300]].concat();
    assert!(matches!(refused(&[head, long.as_slice()].concat()), Violation::Malformed(_)));
}

#[test]
fn size_is_bounded() {
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length - 1)).into_bytes();
    assert_eq!(feed(&target(60 * 1024), 1 << 20).1, None);
    assert_eq!(feed(&target(65_534), 1 << 20).1, None);
    assert_eq!(refused(&target(65_535)), Violation::TargetTooLong);
    assert_eq!(feed(&vec![b'a'; 1 << 20], 4096).1, Some(Violation::TargetTooLong));
    let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count)).into_bytes();
    assert_eq!(feed(&lines(499), 1 << 20).1, None);
    assert_eq!(refused(&lines(500 + 2)), Violation::HeadTooLarge);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(HEAD)).into_bytes();
    assert_eq!(feed(&large, 4096).1, Some(Violation::HeadTooLarge));
    let name = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}: y\r\n\r\n", "X".repeat(length)).into_bytes();
    assert_eq!(feed(&name(65_535), 1 << 20).1, None);
    assert_eq!(refused(&name(65_536)), Violation::HeadTooLarge);
}

#[test]
fn nothing_passes_behind_a_request_to_upgrade() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".as_slice();
    let smuggled = [head, b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    assert_eq!(feed(&smuggled, smuggled.len()), (head.to_vec(), None));
}

/// Parts of messages, good and bad, so that random sequences come close to both.
fn parts() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let part = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\nHost: a\r\n"[..],
        b"POST /b HTTP/1.1\r\nHost: a\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Upgrade: websocket\r\n",
        b"X: y\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"\0",
        b"abc",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b";",
    ]);
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest::proptest! {
    /// What passes does not depend on how the network cuts it, and is always the beginning of what came.
    #[test]
    fn the_verdict_does_not_depend_on_the_cut(input in parts(), piece in 1_usize..9) {
        let (whole, cut) = (feed(&input, input.len().max(1)), feed(&input, piece));
        assert!(input.starts_with(&whole.0));
        assert_eq!(whole, cut);
    }
}
