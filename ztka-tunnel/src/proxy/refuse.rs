//! Telling an agent why it gets no tunnel.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

/// Preface of a client (RFC 9113 §3.4) and its SETTINGS, all of them as they are by default.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
/// Longest reason that is told.
const MAX_REASON: usize = 500;
/// An agent that does not take its refusal is not waited for.
const WITHIN: Duration = Duration::from_secs(3);

/// Ends `io`, on which an agent has authenticated, before it becomes a tunnel, and says `why`.
///
/// Instead of a hello the agent gets a GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 §6.8), the 429 of HTTP/2, whose debug data
/// is the reason: it is part of [`TunnelState::error`](crate::TunnelState::error) there. Returns within 3 s.
pub async fn refuse<T>(mut io: T, why: &str)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let why: String = why.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_REASON).collect();
    // The last stream is 0: nothing was begun. With at most 508 bytes, two suffice for the length.
    let length = u16::try_from(8 + why.len()).unwrap_or(8).to_be_bytes();
    let head = [&[0], &length[..], &[GOAWAY, 0, 0, 0, 0, 0], &[0; 4], &ENHANCE_YOUR_CALM.to_be_bytes()].concat();
    let farewell = [OPENING, &head, why.as_bytes()].concat();
    let said = async {
        io.write_all(&farewell).await?;
        io.shutdown().await?;
        // Bytes that nobody reads would have the system take back what was said.
        let mut scrap = [0; 1024];
        while io.read(&mut scrap).await? > 0 {}
        std::io::Result::Ok(())
    };
    if !matches!(timeout(WITHIN, said).await, Ok(Ok(()))) {
        tracing::debug!("an agent has not heard why it gets no tunnel");
    }
}
