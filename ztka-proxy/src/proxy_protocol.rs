//! PROXY protocol version 2 (HAProxy's `proxy-protocol.txt`): where a connection really comes from.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use tokio::io::AsyncRead;

use crate::Buffered;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Addresses and TLVs together.
const MOST: usize = 2048;

/// The header that says that a connection from `from` was accepted at `to`.
pub fn header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([TCP4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([TCP6, 0, 36]);
            header.extend(v6(from).octets());
            header.extend(v6(to).octets());
        }
    }
    header.extend(ports);
    header
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Takes a header off `stream` and returns the address it tells: `None` from a balancer that speaks for itself (`LOCAL`).
///
/// # Errors
/// `InvalidData` unless the stream begins with a header of version 2 for TCP.
pub async fn read<T: AsyncRead + Unpin>(stream: &mut Buffered<T>) -> io::Result<Option<SocketAddr>> {
    loop {
        if let Some((source, length)) = parse(stream.buffer())? {
            stream.consume(length);
            return Ok(source);
        }
        if stream.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Source and length of the header, `None` until it is complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(Option<SocketAddr>, usize)>> {
    let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return bad("no PROXY protocol header of version 2 from a trusted balancer");
    }
    let Some([command, family, a, b]) = bytes.get(12..16) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*a, *b]));
    if length > MOST {
        return bad("PROXY protocol header too long");
    }
    let Some(rest) = bytes.get(16..16 + length) else { return Ok(None) };
    let port = |at: usize| rest.get(at..at + 2).and_then(|port| port.try_into().ok()).map(u16::from_be_bytes);
    let source = match (*command, *family) {
        (LOCAL, _) => return Ok(Some((None, 16 + length))),
        // Both addresses and ports are there, or it is no such header.
        (PROXY, TCP4) if length >= 12 => {
            let ip = rest.first_chunk::<4>().map(|ip| IpAddr::from(*ip));
            ip.zip(port(8)).map(SocketAddr::from)
        }
        (PROXY, TCP6) if length >= 36 => {
            let ip = rest.first_chunk::<16>().map(|ip| IpAddr::from(*ip).to_canonical());
            ip.zip(port(32)).map(SocketAddr::from)
        }
        _ => None,
    };
    match source {
        Some(source) => Ok(Some((Some(source), 16 + length))),
        None => bad("PROXY protocol header of another kind than TCP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for (from, to) in [("192.0.2.1:4711", "198.51.100.1:443"), ("[2001:db8::1]:4711", "[2001:db8::2]:443")] {
            let header = header(from.parse().unwrap(), to.parse().unwrap());
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]).unwrap(), None);
            }
            assert_eq!(parse(&header).unwrap(), Some((Some(from.parse().unwrap()), header.len())));
        }
        assert!(parse(b"GET / HTTP/1.1\r\n").is_err());
        assert!(parse(b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n").is_err());
        assert!(parse(&[&SIGNATURE[..], &[PROXY, 0x12, 0, 0]].concat()).is_err());
        assert!(parse(&[&SIGNATURE[..], &[PROXY, TCP4, 0xff, 0xff]].concat()).is_err());
        assert!(parse(&[&SIGNATURE[..], &[PROXY, TCP4, 0, 2, 0, 0]].concat()).is_err());
        // Cut short behind the source's port.
        assert!(parse(&[&SIGNATURE[..], &[PROXY, TCP4, 0, 10], &[1; 10]].concat()).is_err());
        assert!(parse(&[&SIGNATURE[..], &[PROXY, TCP6, 0, 34], &[1; 34]].concat()).is_err());
    }
}
