//! PROXY protocol version 2 (HAProxy's `proxy-protocol.txt`, section 2.2), as proxies send it when they pass on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and a few extensions.
const LONGEST: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Reads the header; `None` where it names no client (a health check by the proxy itself).
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    timeout(PATIENCE, read_header(io)).await.unwrap_or_else(|late| Err(late.into()))
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn read_header(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; 16];
    io.read_exact(&mut start).await?;
    let [signature @ .., command, family, high, low] = start;
    if signature != SIGNATURE {
        return Err(bad("a PROXY protocol header of version 2 is expected here"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(bad("the PROXY protocol header is too long"));
    }
    let mut rest = vec![0; length];
    io.read_exact(&mut rest).await?;
    match (command, family) {
        (LOCAL, _) => Ok(None),
        (PROXY, TCP4) => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or_else(|| bad("an address is cut short"))?;
            address(Ipv4Addr::from(*ip).into(), rest.get(4..)).map(Some)
        }
        (PROXY, TCP6) => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or_else(|| bad("an address is cut short"))?;
            address(Ipv6Addr::from(*ip).into(), rest.get(16..)).map(Some)
        }
        _ => Err(bad("a PROXY protocol header of another kind than TCP")),
    }
}

/// The source address, and what follows the destination's.
fn address(ip: IpAddr, ports: Option<&[u8]>) -> io::Result<SocketAddr> {
    let ports = ports.and_then(|ports| ports.first_chunk::<4>()).ok_or_else(|| bad("an address is cut short"))?;
    let [high, low, ..] = *ports;
    Ok(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn reads_the_client_and_leaves_the_rest() {
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 0x1f, 0x90, 1, 187];
        let bytes = [header(PROXY, TCP4, &four), b"hello".to_vec()].concat();
        let mut io = bytes.as_slice();
        assert_eq!(read(&mut io).await.unwrap(), Some("192.0.2.1:8080".parse().unwrap()));
        assert_eq!(io, b"hello");
        let six = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 80, 0, 81], b"extension"].concat();
        let bytes = header(PROXY, TCP6, &six);
        assert_eq!(read(&mut bytes.as_slice()).await.unwrap(), Some("[::1]:80".parse().unwrap()));
        assert_eq!(read(&mut header(LOCAL, 0, &[]).as_slice()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn refuses_everything_else() {
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 0x1f, 0x90, 1, 187];
        let good = header(PROXY, TCP4, &four);
        for cut in 0..good.len() {
            assert!(read(&mut &good[..cut]).await.is_err(), "{cut}");
        }
        for bad in [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0".to_vec(),
            header(PROXY, 0x12, &four),
            header(PROXY, TCP6, &four),
            header(PROXY, TCP4, &four[..8]),
            header(PROXY, TCP4, &four[..10]),
            header(PROXY, TCP4, &[0; LONGEST + 1]),
        ] {
            assert!(read(&mut bad.as_slice()).await.is_err());
        }
    }
}
