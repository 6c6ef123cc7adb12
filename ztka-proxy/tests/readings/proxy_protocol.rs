//! A PROXY protocol header is read as its specification says, and not a byte behind it is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use ztka_proxy::{
    Buffered,
    proxy_protocol::{header, read},
};

use super::{Pieces, run};

/// Reads what a balancer sends; true if there is a header.
pub(crate) fn proxy_protocol(data: &[u8]) -> bool {
    let expected = specified(data);
    for size in [usize::MAX, 1, 13] {
        let (found, rest) = run(async {
            let mut stream = Buffered::new(Pieces::new(data, size));
            let found = read(&mut stream).await.ok();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            (found, rest)
        });
        assert_eq!(found, expected.map(|(source, _)| source), "pieces of {size}");
        if let Some((_, length)) = expected {
            assert_eq!(rest, &data[length..], "pieces of {size}");
        }
    }
    if let Some((Some(source), _)) = expected {
        let again = header(source, source);
        assert_eq!(specified(&again), Some((Some(source), again.len())));
        assert!(again.len() <= 52);
    }
    expected.is_some()
}

/// Source and length by section 2.2 of `proxy-protocol.txt`, TCP only and with 2,048 bytes at the most.
fn specified(data: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let rest = data.strip_prefix(b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A")?;
    let [version_command, family, high, low, rest @ ..] = rest else { return None };
    let length = usize::from(*high) * 256 + usize::from(*low);
    if version_command >> 4 != 2 || length > 2048 || rest.len() < length {
        return None;
    }
    let block = &rest[..length];
    let port = |at: usize| u16::from(block[at]) * 256 + u16::from(block[at + 1]);
    let source = match (version_command & 15, family) {
        (0, _) => None,
        // "src_addr, dst_addr, src_port, dst_port": all of the block has to be there.
        (1, 0x11) if length >= 12 => {
            let ip = Ipv4Addr::new(block[0], block[1], block[2], block[3]);
            Some(SocketAddr::new(ip.into(), port(8)))
        }
        (1, 0x21) if length >= 36 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&block[..16]).unwrap());
            // One machine has one name, whatever socket the balancer listened on.
            let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            Some(SocketAddr::new(ip, port(32)))
        }
        _ => return None,
    };
    Some((source, 16 + length))
}
