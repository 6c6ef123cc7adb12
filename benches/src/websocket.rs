//! Just enough of RFC 6455, and of Kubernetes' channels on it (`v5.channel.k8s.io`), for both ends of an exec session.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The subprotocol: first byte of a message is the channel, 255 closes one.
pub(crate) const PROTOCOL: &str = "v5.channel.k8s.io";
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const ERROR: u8 = 3;
pub(crate) const CLOSE_CHANNEL: u8 = 255;

pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Longest message taken from the other end.
const MAX: usize = 128 * 1024;

/// One frame, which is always a whole message here.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// Appends a frame; clients mask, servers do not (RFC 6455 §5.1).
pub(crate) fn write(out: &mut Vec<u8>, opcode: u8, parts: &[&[u8]], mask: Option<[u8; 4]>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => out.push(masked | short),
        (_, Ok(middle)) => {
            out.push(masked | 126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask_bytes = mask.unwrap_or_default();
    if mask.is_some() {
        out.extend_from_slice(&mask_bytes);
    }
    let payload = parts.iter().flat_map(|part| part.iter());
    out.extend(payload.zip(mask_bytes.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Reads a frame, unmasked if it was masked.
///
/// # Errors
/// Those of the stream; `InvalidData` for fragments and for more than 128 KiB.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let (first, second) = (io.read_u8().await?, io.read_u8().await?);
    if first & 0x80 == 0 {
        return invalid("a fragment of a message");
    }
    let length = match second & 0x7f {
        126 => u64::from(io.read_u16().await?),
        127 => io.read_u64().await?,
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        io.read_exact(&mut mask).await?;
    }
    let length = match usize::try_from(length) {
        Ok(length @ ..=MAX) => length,
        _ => return invalid("a message of more than 128 KiB"),
    };
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Frame { opcode: first & 0x0f, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for length in [0_usize, 1, 125, 126, 4096, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 250])] {
                let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
                let mut out = Vec::new();
                write(&mut out, BINARY, &[&[STDIN], &data], mask);
                let read = runtime.block_on(read(&mut out.as_slice())).unwrap();
                assert_eq!(read.opcode, BINARY);
                assert_eq!(read.payload.split_first(), Some((&STDIN, data.as_slice())));
            }
        }
    }

    #[test]
    fn fragments_and_floods_are_errors() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for bytes in [&[0x02, 0x00][..], &[0x82, 127, 0, 0, 0, 0, 0, 3, 0, 0], &[0x82, 5, 1]] {
            runtime.block_on(read(&mut &*bytes)).unwrap_err();
        }
    }
}
