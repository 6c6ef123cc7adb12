//! Looks into a ClientHello for the server name, and leaves all of it to whoever answers.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::Buffered;

/// A ClientHello is at most this long; one with post-quantum key shares takes 2 KiB.
const MOST: usize = 16 * 1024;

/// A fatal `unrecognized_name` (RFC 6066 §3) in a TLS record.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

/// Why there is no server name to route by.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BadHello {
    #[error("the connection ended before a ClientHello")]
    Io(#[from] io::Error),
    #[error("not a TLS ClientHello")]
    NotTls(#[source] rustls::Error),
    #[error("the ClientHello is longer than 16 KiB")]
    TooLong,
}

/// The server name that the client asks for, `None` where it names none (as when it dials an IP address).
///
/// The bytes stay in the buffer of `stream`. Cancel safe.
///
/// # Errors
/// What is not TLS is answered with an alert first, and the stream is of no further use.
pub async fn server_name<T>(stream: &mut Buffered<T>) -> Result<Option<String>, BadHello>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        while let Some(mut unseen @ [_, ..]) = stream.buffer().get(seen..) {
            seen += acceptor.read_tls(&mut unseen)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted.client_hello().server_name().map(Into::into)),
                Ok(None) if seen < MOST => {}
                Ok(None) => return Err(BadHello::TooLong),
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    stream.write_all(&bytes).await?;
                    return Err(BadHello::NotTls(error));
                }
            }
        }
        if stream.fill().await? == 0 {
            return Err(BadHello::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Tells a client that there is nothing here by the name it asked for.
pub(crate) async fn refuse_name<T: AsyncWrite + Unpin>(stream: &mut T) -> io::Result<()> {
    stream.write_all(&UNRECOGNIZED_NAME).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_not_tls_gets_an_alert() {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let found = server_name(&mut Buffered::new(server)).await;
        assert!(matches!(found, Err(BadHello::NotTls(_))));
        let mut alert = Vec::new();
        client.read_to_end(&mut alert).await.unwrap();
        assert_eq!(alert.first(), Some(&0x15));
    }

    #[tokio::test]
    async fn a_hello_without_end_is_given_up() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        // A handshake message of 60,000 bytes, in records of 4 KiB.
        let mut hello = vec![1, 0, 0xea, 0x60];
        hello.resize(60_000, 0);
        for record in hello.chunks(4096) {
            let length = u16::try_from(record.len()).unwrap().to_be_bytes();
            client.write_all(&[&[0x16, 3, 1], &length[..], record].concat()).await.unwrap();
        }
        let found = server_name(&mut Buffered::new(server)).await;
        assert!(matches!(found, Err(BadHello::TooLong | BadHello::NotTls(_))), "{found:?}");
    }
}
