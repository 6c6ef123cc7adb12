//! The guard as a stream: what is good passes unchanged however it is cut, what is bad stands for itself alone.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Reads all through a guard; the client writes in pieces of `write`, the server reads pieces of `read`.
async fn pass(input: &[u8], write: usize, read: usize) -> (Vec<u8>, io::Result<()>, Option<Violation>) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut guarded = Guarded::http1(server);
    let framing = guarded.framing();
    let send = async {
        for piece in input.chunks(write) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let receive = async {
        let (mut passed, mut piece) = (Vec::new(), vec![0; read]);
        loop {
            match guarded.read(&mut piece).await {
                Ok(0) => return (passed, Ok(())),
                Ok(count) => passed.extend_from_slice(&piece[..count]),
                Err(error) => return (passed, Err(error)),
            }
        }
    };
    let ((), (passed, end)) = tokio::join!(send, receive);
    (passed, end, framing.violation())
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LENGTH: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world";
const CHUNKED: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x\r\n world\r\n0\r\nA: b\r\n\r\n";
const BAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";

#[tokio::test]
async fn good_messages_pass_unchanged_however_they_are_cut() {
    let input = [GET, LENGTH, CHUNKED, LENGTH, GET].concat();
    for write in [1, 2, 3, 5, 17, 64, 1000] {
        for read in [1, 2, 7, 31, 1000] {
            let (passed, end, violation) = pass(&input, write, read).await;
            assert!(end.is_ok() && violation.is_none(), "{write} {read} {end:?} {violation:?}");
            assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(&input), "{write} {read}");
        }
    }
}

#[tokio::test]
async fn a_bad_head_is_replaced_and_nothing_follows_it() {
    for before in [&[][..], GET, LENGTH, CHUNKED] {
        let input = [before, BAD, GET].concat();
        for write in [1, 7, 1000] {
            for read in [1, 31, 1000] {
                let (passed, end, violation) = pass(&input, write, read).await;
                let expected = [before, STAND_IN].concat();
                assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(&expected), "{write} {read}");
                assert!(end.is_ok() && violation.is_some());
            }
        }
    }
}

#[tokio::test]
async fn a_bad_body_breaks_off_or_takes_its_head_with_it() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let input = [GET, head, b"5\r\nhello", b"!!0\r\n\r\n", GET].concat();
    let good = [GET, head, b"5\r\nhello"].concat();
    for write in [1, 7, 1000] {
        for read in [1, 31, 1000] {
            let (passed, end, violation) = pass(&input, write, read).await;
            assert!(matches!(violation, Some(Violation::Malformed(_))));
            match end {
                // The server knew of the request already.
                Err(_) => {
                    assert!(good.starts_with(&passed) && passed.starts_with(&[GET, head].concat()), "{write} {read}")
                }
                Ok(()) => assert_eq!(passed, [GET, STAND_IN].concat(), "{write} {read}"),
            }
        }
    }
}

#[tokio::test]
async fn early_bytes_wait_for_the_answer_to_an_upgrade() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".as_slice();
    for granted in [true, false] {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut guarded = Guarded::http1(server);
        let framing = guarded.framing();
        client.write_all(&[head, GET].concat()).await.unwrap();
        let mut passed = vec![0; head.len()];
        guarded.read_exact(&mut passed).await.unwrap();
        assert_eq!(passed, head);
        let mut more = [0; 100];
        let early = tokio::time::timeout(Duration::from_millis(10), guarded.read(&mut more)).await;
        assert!(early.is_err(), "passed before the answer");
        client.shutdown().await.unwrap();
        match granted {
            true => framing.upgrade_granted(),
            false => framing.upgrade_denied(),
        }
        let mut rest = Vec::new();
        guarded.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, if granted { GET } else { b"" });
    }
}
