//! What the guard of HTTP/1.1 lets through has one reading.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use tokio::io::AsyncReadExt as _;
use ztka_proxy::{Guarded, Violation};

use super::{Pieces, run};

/// What stands for a refused request.
const STAND_IN: &[u8] = b"ZTKA-REFUSED / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// The guard holds back at most the longest head, what may come early, and what one read brings.
const HELD: usize = (128 + 64 + 64) * 1024;

/// What came through.
#[derive(Debug)]
struct Passed {
    bytes: Vec<u8>,
    /// The server was told that the connection is broken, not that it has ended.
    broken: bool,
    violation: Option<Violation>,
    /// The answer to a request to upgrade was waited for.
    asked: bool,
}

fn pass(data: &[u8], size: usize, granted: bool) -> Passed {
    run(async {
        let taken = Mutex::new(0);
        let source = Counted { inner: Pieces::new(data, size), taken: &taken };
        let mut guarded = Guarded::http1(source);
        let framing = guarded.framing();
        let (mut bytes, mut piece, mut asked) = (Vec::new(), vec![0; size.min(4096)], false);
        let broken = loop {
            let read = guarded.read(&mut piece).now_or_never();
            let taken = *taken.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(taken <= bytes.len() + piece.len() + HELD, "{taken} bytes are held");
            match read {
                Some(Ok(0)) => break false,
                Some(Ok(count)) => bytes.extend_from_slice(&piece[..count]),
                Some(Err(_)) => break true,
                None => {
                    assert!(!asked, "the answer was given and nothing comes of it");
                    asked = true;
                    if granted { framing.upgrade_granted() } else { framing.upgrade_denied() }
                }
            }
        };
        Passed { bytes, broken, violation: framing.violation(), asked }
    })
}

/// The first byte says how the rest comes and how a request to upgrade is answered; true if nothing is refused.
pub(crate) fn http1_guard(data: &[u8]) -> bool {
    let Some((options, data)) = data.split_first() else { return false };
    let granted = options & 1 == 1;
    let whole = pass(data, usize::MAX, granted);
    judge(data, &whole);
    for size in [1, 7, usize::from(*options) + 1] {
        let cut = pass(data, size, granted);
        judge(data, &cut);
        assert_eq!(cut.violation, whole.violation, "in pieces of {size}");
        if whole.violation.is_none() {
            assert_eq!(cut.bytes, whole.bytes, "in pieces of {size}");
        }
    }
    whole.violation.is_none()
}

fn judge(data: &[u8], passed: &Passed) {
    // Nothing is changed, and nothing follows what was refused.
    let refused = passed.violation.is_some() && !passed.broken;
    let genuine = match refused {
        true => passed.bytes.strip_suffix(STAND_IN).expect("a refused request has a stand-in"),
        false => &passed.bytes,
    };
    assert!(data.starts_with(genuine), "what passes is what came");
    assert!(!passed.broken || passed.violation.is_some());
    match read_all(genuine) {
        End::Between => assert!(!passed.broken, "the server takes a refused body for whole"),
        End::InBody => assert!(!refused, "a message was taken back that the server has seen a part of"),
        End::Upgrade(rest) => assert!(passed.asked || rest.is_empty() || passed.violation.is_none()),
    }
}

/// Where the second reading ends.
enum End<'a> {
    Between,
    InBody,
    /// Behind a request to upgrade.
    Upgrade(&'a [u8]),
}

/// Reads messages with `httparse`, and their framing as RFC 9112 §6.3 says.
fn read_all(mut rest: &[u8]) -> End<'_> {
    while !rest.is_empty() {
        let mut headers = vec![httparse::EMPTY_HEADER; 600];
        let mut request = httparse::Request::new(&mut headers);
        let head = match request.parse(rest) {
            Ok(httparse::Status::Complete(length)) => length,
            other => panic!("a head passed that is none: {other:?} {:?}", String::from_utf8_lossy(rest)),
        };
        let shown = String::from_utf8_lossy(&rest[..head]).into_owned();
        assert_eq!(head, find(rest, b"\r\n\r\n") + 4, "another end of the head: {shown}");
        // What hyper makes of it.
        http::Method::from_bytes(request.method.unwrap().as_bytes()).expect("a method");
        http::Uri::try_from(request.path.unwrap()).unwrap_or_else(|error| panic!("{error}: {shown}"));
        for header in request.headers.iter() {
            http::HeaderName::from_bytes(header.name.as_bytes()).expect("a name");
            http::HeaderValue::from_bytes(header.value).expect("a value");
            assert!(!header.value.iter().any(|byte| b"\r\n\0".contains(byte)));
        }
        let all = |name: &str| -> Vec<&[u8]> {
            let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| header.value).collect()
        };
        let (lengths, codings, hosts) = (all("content-length"), all("transfer-encoding"), all("host"));
        let is_new = request.version == Some(1);
        assert!(lengths.len() + codings.len() <= 1, "framed twice: {shown}");
        assert!(hosts.len() <= 1 && (hosts.len() == 1 || !is_new), "{} hosts: {shown}", hosts.len());
        assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")) && (codings.is_empty() || is_new));
        let length = lengths.first().map(|length| std::str::from_utf8(length).unwrap().parse::<u64>().expect("digits"));
        rest = &rest[head..];
        if !all("upgrade").is_empty() {
            assert!(codings.is_empty() && length.unwrap_or(0) == 0, "an upgrade with a body: {shown}");
            return End::Upgrade(rest);
        }
        let whole = match codings.is_empty() {
            true => usize::try_from(length.unwrap_or(0)).ok().and_then(|length| rest.get(length..)),
            false => chunks(rest),
        };
        match whole {
            Some(after) => rest = after,
            None => return End::InBody,
        }
    }
    End::Between
}

/// What follows a chunked body; none if it is not there to its end.
fn chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (start, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return None,
            Err(_) => panic!("no size of a chunk: {:?}", String::from_utf8_lossy(rest)),
        };
        rest = &rest[start..];
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok()?;
        let end = rest.get(size..)?;
        rest = match end {
            [b'\r', b'\n', after @ ..] => after,
            [] | [b'\r'] => return None,
            _ => panic!("a chunk does not end where it says"),
        };
    }
    let mut headers = vec![httparse::EMPTY_HEADER; 600];
    match httparse::parse_headers(rest, &mut headers) {
        Ok(httparse::Status::Complete((length, trailers))) => {
            let framing = ["content-length", "transfer-encoding", "host"];
            assert!(!trailers.iter().any(|trailer| framing.contains(&trailer.name.to_ascii_lowercase().as_str())));
            Some(&rest[length..])
        }
        Ok(httparse::Status::Partial) => None,
        Err(error) => panic!("trailers passed that are none: {error}"),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|window| window == needle).expect("a head has an end")
}

/// Counts what is taken off a connection.
struct Counted<'a> {
    inner: Pieces<'a>,
    taken: &'a Mutex<usize>,
}

impl tokio::io::AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::pin::Pin::new(&mut self.inner).poll_read(cx, buf);
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) += buf.filled().len() - before;
        polled
    }
}
