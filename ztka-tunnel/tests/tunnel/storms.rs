//! What a peer of HTTP/2 can send to make the other end work: frames by hand, and storms of them. Shared with the tests of
//! ztka-proxy.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several test files")]

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    time::timeout,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// More than any end takes before it has had enough.
const MOST: usize = 64 << 20;
/// No storm lasts longer, on a busy machine either.
const LONG: Duration = Duration::from_secs(120);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:method`, `:scheme https`, `:path`, `:authority`, without Huffman coding or the dynamic table (RFC 7541).
pub fn request(method: u8, path: &str, authority: &str) -> Vec<u8> {
    let text = |index: u8, text: &str| [&[index, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![method, 0x87], text(0x04, path), text(0x01, authority)].concat()
}

pub const GET: u8 = 0x82;
pub const POST: u8 = 0x83;

/// `:status 200`
pub const OK: &[u8] = &[0x88];

/// One kind of attack: what comes first, and then again and again.
pub struct Storm {
    pub name: &'static str,
    pub opening: Vec<u8>,
    pub round: Box<dyn Fn(u32) -> Vec<u8> + Send>,
}

impl Storm {
    fn new(name: &'static str, opening: Vec<u8>, round: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Self {
        Self { name, opening, round: Box::new(round) }
    }

    /// Storms that either end can make, where stream 1 is open and its header block is `head`.
    fn of_both(open: &[u8], head: &[u8]) -> Vec<Self> {
        let head = head.to_vec();
        let opened = || open.to_vec();
        vec![
            // Each has to be acknowledged.
            Self::new("SETTINGS", vec![], |_| frame(SETTINGS, 0, 0, &[])),
            Self::new("SETTINGS acknowledged", vec![], |_| frame(SETTINGS, 1, 0, &[])),
            Self::new("PING", vec![], |_| frame(PING, 0, 0, &[7; 8])),
            Self::new("PRIORITY", vec![], |n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1])),
            Self::new("unknown", vec![], |_| frame(0xfa, 0, 0, &[])),
            Self::new("empty DATA", opened(), |_| frame(DATA, 0, 1, &[])),
            Self::new("padding only", opened(), |_| frame(DATA, 8, 1, &[3, 0, 0, 0])),
            // CVE-2024-27316 and its like
            Self::new("CONTINUATION", frame(HEADERS, 0, 1, &head), |_| {
                frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'])
            }),
            Self::new("empty CONTINUATION", frame(HEADERS, 0, 1, &head), |_| frame(CONTINUATION, 0, 1, &[])),
        ]
    }

    /// What a client can send to a server that leaves `path` unanswered.
    pub fn of_client(path: &str, authority: &str) -> Vec<Self> {
        let (get, post) = (request(GET, path, authority), request(POST, path, authority));
        let mut all = Self::of_both(&frame(HEADERS, END_HEADERS, 1, &post), &get);
        // CVE-2023-44487
        all.push(Self::new("rapid reset", vec![], move |n| {
            let begun = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get);
            [begun, frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        }));
        // CVE-2025-8671: the other end is made to reset, by an error of the stream alone.
        let (opened, begun) = (post.clone(), post.clone());
        all.push(Self::new("made you reset, overflow", vec![], move |n| {
            let begun = frame(HEADERS, END_HEADERS, 2 * n + 1, &opened);
            [begun, frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0x7f, 0xff, 0xff, 0xff])].concat()
        }));
        all.push(Self::new("made you reset, half-closed", vec![], move |n| {
            let begun = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &begun);
            [begun, frame(DATA, 0, 2 * n + 1, b"late")].concat()
        }));
        all.push(Self::new("made you reset, no increment", vec![], move |n| {
            let begun = frame(HEADERS, END_HEADERS, 2 * n + 1, &post);
            [begun, frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat()
        }));
        all
    }

    /// What a server can send to a client that waits for the answer on stream 1.
    pub fn of_server() -> Vec<Self> {
        let mut all = Self::of_both(&frame(HEADERS, END_HEADERS, 1, OK), OK);
        all.push(Self::new("RST_STREAM", vec![], |_| frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])));
        all
    }

    /// Goes on until the other end closes; how many bytes that took. `io` is where the storm may begin.
    pub async fn rage(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> usize {
        let (mut read, mut write) = split(io);
        // What comes back is taken, so that nobody is held up by it.
        let reading = tokio::spawn(async move { while matches!(read.read(&mut [0; 65536]).await, Ok(1..)) {} });
        let raging = async {
            let mut sent = self.opening.len();
            if write.write_all(&self.opening).await.is_err() {
                return sent;
            }
            for round in 0.. {
                let rounds: Vec<u8> = (round * 100..round * 100 + 100).flat_map(&self.round).collect();
                sent += rounds.len();
                assert!(sent < MOST, "{}: {sent} bytes and no end", self.name);
                if reading.is_finished() || write.write_all(&rounds).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            sent
        };
        timeout(LONG, raging).await.unwrap_or_else(|_| panic!("{}: neither closed nor read", self.name))
    }
}

/// A header block of a few hundred bytes that unpacks to 16 MiB: one long value, referred to again and again.
pub fn bomb(head: &[u8]) -> Vec<u8> {
    // Literal with indexing, name "x", value of 4,000 bytes: 0x7f 0xa1 0x1e is 4,000 with a prefix of 7 bits.
    let long = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4000]].concat();
    [head, &long, &[0xbe; 4096]].concat()
}
