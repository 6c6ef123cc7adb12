//! The server name of a ClientHello is the one that stands in it, and the hello stays for whoever answers.

use rustls_pki_types::DnsName;
use ztka_proxy::{BadHello, Buffered, server_name};

use super::{Pieces, run};

/// A hello is at most so long, and a read brings at most so much.
const MOST: usize = 16 * 1024 + 64 * 1024;

/// Reads the first bytes of a TLS client; true if it is known where they are to go.
pub(crate) fn client_hello(data: &[u8]) -> bool {
    let mut outcomes = Vec::new();
    for size in [usize::MAX, 1, 100] {
        let (found, held, answer) = run(async {
            let mut stream = Buffered::new(Pieces::new(data, size));
            let found = server_name(&mut stream).await;
            (found, stream.buffer().to_vec(), stream.get_ref().answer.clone())
        });
        assert!(data.starts_with(&held), "what is held is what came");
        assert!(held.len() <= MOST);
        let outcome = match found {
            Ok(name) => {
                assert!(answer.is_empty());
                if let Some(name) = &name {
                    assert!(DnsName::try_from(name.as_str()).is_ok(), "{name}");
                }
                let named = named(&held);
                assert_eq!(name, named, "pieces of {size}");
                Some(name)
            }
            Err(BadHello::NotTls(_)) => {
                // An alert is answered with none.
                assert!(answer.first().is_none_or(|first| *first == 0x15), "{answer:?}");
                None
            }
            Err(BadHello::TooLong | BadHello::Io(_)) => {
                assert!(answer.is_empty());
                None
            }
        };
        outcomes.push(outcome);
    }
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
    outcomes[0].is_some()
}

/// The `host_name` of the `server_name` extension (RFC 6066 §3) of the hello at the start of `bytes`, which is one.
fn named(mut bytes: &[u8]) -> Option<String> {
    let mut message = Vec::new();
    while let [0x16, _, _, high, low, rest @ ..] = bytes {
        let (record, rest) = rest.split_at_checked(usize::from(*high) * 256 + usize::from(*low))?;
        message.extend_from_slice(record);
        bytes = rest;
        if message.len() >= 4 && message.len() >= 4 + length(&message[1..4]) {
            break;
        }
    }
    let mut body = &message[4..4 + length(&message[1..4])];
    take(&mut body, 2 + 32)?;
    counted(&mut body, 1)?;
    counted(&mut body, 2)?;
    counted(&mut body, 1)?;
    let mut extensions = counted(&mut body, 2)?;
    while !extensions.is_empty() {
        let kind = length(take(&mut extensions, 2)?);
        let mut content = counted(&mut extensions, 2)?;
        if kind == 0 {
            let mut names = counted(&mut content, 2)?;
            while !names.is_empty() {
                let kind = length(take(&mut names, 1)?);
                let name = counted(&mut names, 2)?;
                if kind == 0 {
                    let name = String::from_utf8(name.to_vec()).ok()?.to_ascii_lowercase();
                    // An address is no host name, and names none.
                    return name.parse::<std::net::IpAddr>().is_err().then_some(name);
                }
            }
        }
    }
    None
}

fn length(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |length, byte| length * 256 + usize::from(*byte))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// A vector whose length stands in front of it in `width` bytes.
fn counted<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let count = length(take(bytes, width)?);
    take(bytes, count)
}
