//! The guard of HTTP/2 counts as RFC 9113 frames, and changes nothing.

use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use ztka_proxy::{FloodLimits, Guarded, Violation};
use ztka_tunnel::{BadFrames, FrameGuard};

use super::{Pieces, run};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of one header block.
const CONTINUATIONS: u32 = 32;

/// The first two bytes say how much may be empty and how the rest comes; true if nothing is refused.
pub(crate) fn http2_guard(data: &[u8]) -> bool {
    let Some(([burst, options], data)) = data.split_first_chunk::<2>() else { return false };
    let limits = FloodLimits { burst: u32::from(*burst), per_second: 1 };
    let is_client = options & 1 == 0;
    if !is_client {
        let flood = counted(data, limits.burst);
        for size in [usize::MAX, 1, 9, usize::from(*options) + 1] {
            let mut guard = FrameGuard::of_server(limits, Instant::now());
            let end = data.chunks(size).try_for_each(|piece| guard.advance(piece, Instant::now()));
            assert_eq!(matches!(end, Err(BadFrames::Flood(_))), flood, "pieces of {size}");
            assert_eq!(end.is_err(), flood);
        }
        return !flood;
    }
    let begun = data.len().min(PREFACE.len());
    let is_http2 = data[..begun] == PREFACE[..begun];
    let flood = is_http2 && counted(data.get(PREFACE.len()..).unwrap_or_default(), limits.burst);
    for size in [usize::MAX, 1, 9, usize::from(*options) + 1] {
        let (passed, end, violation) = run(async {
            let source = Pieces::new(data, size);
            let mut guarded = Guarded::http2_server(source, limits);
            let framing = guarded.framing();
            let mut passed = Vec::new();
            let end = guarded.read_to_end(&mut passed).await;
            (passed, end, framing.violation())
        });
        assert!(data.starts_with(&passed));
        assert_eq!(end.is_err(), flood || !is_http2, "pieces of {size}");
        match violation {
            Some(Violation::Flood(_)) => assert!(flood && passed.len() < data.len()),
            Some(Violation::Malformed(_)) => assert!(!is_http2 && passed.len() <= begun),
            None => assert!(is_http2 && !flood && passed == data),
            other => panic!("{other:?}"),
        }
    }
    is_http2 && !flood
}

/// True if more frames carry nothing, or reset, than `burst`, or a header block goes on without end.
fn counted(mut rest: &[u8], burst: u32) -> bool {
    let (mut noise, mut resets, mut continuations) = (0, 0, 0);
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let [a, b, c, kind, flags, ..] = *header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let (end_stream, end_headers, padded) = (flags & 1 != 0, flags & 4 != 0, flags & 8 != 0);
        // A padded frame of no more than 256 bytes may be all padding.
        let carries = end_stream || if padded { length > 256 } else { length > 0 };
        match kind {
            0 if carries => {}
            1 | 5 => continuations = 0,
            8 => {}
            9 => {
                continuations += 1;
                if continuations > CONTINUATIONS {
                    return true;
                }
                if end_headers {
                    continuations = 0;
                }
            }
            3 => resets += 1,
            _ => noise += 1,
        }
        if noise > burst || resets > burst {
            return true;
        }
        rest = after.get(length..).unwrap_or_default();
    }
    false
}
