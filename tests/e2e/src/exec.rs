//! An exec session over WebSocket by hand, to see each frame (RFC 6455 §5, channels of `v5.channel.k8s.io`).

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::Raw;

/// Nobody here says nothing for longer.
const BOUND: Duration = Duration::from_secs(180);
const STANDARD_INPUT: u8 = 0;
const STANDARD_OUTPUT: u8 = 1;
const CLOSE: u8 = 8;

/// `cat` in a pod.
#[derive(Debug)]
pub struct Exec {
    io: TlsStream<TcpStream>,
    /// By which it is found in the record.
    pub audit_id: String,
}

impl Exec {
    /// Starts `cat` in the first container of `pod` in the namespace `default`.
    pub async fn start(raw: &Raw, pod: &str) -> Result<Self> {
        let mut io = raw.connect().await?;
        let request = format!(
            "GET /api/v1/namespaces/default/pods/{pod}/exec?command=cat&stdin=true&stdout=true HTTP/1.1\r\n\
             Host: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
            raw.server_name()
        );
        io.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(BOUND, io.read_u8()).await.context("no answer to exec")??);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        ensure!(head.starts_with("http/1.1 101 "), "{head}");
        let id = head.lines().find_map(|line| line.strip_prefix("audit-id: ")).context("no Audit-ID")?;
        Ok(Self { audit_id: id.to_owned(), io })
    }

    /// Says something, and hears it again.
    pub async fn echo(&mut self, word: &str) -> Result<()> {
        let length = u8::try_from(1 + word.len())?;
        // Masked with zeros.
        let frame = [&[0x82, 0x80 | length, 0, 0, 0, 0, STANDARD_INPUT], word.as_bytes()].concat();
        self.io.write_all(&frame).await?;
        let mut heard = String::new();
        while !heard.contains(word) {
            match self.frame().await? {
                (CLOSE, text) => bail!("closed: {}", String::from_utf8_lossy(&text)),
                (_, payload) if payload.first() == Some(&STANDARD_OUTPUT) => {
                    heard.push_str(&String::from_utf8_lossy(&payload[1..]));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for the close frame; its code and reason. Behind it the connection has to end.
    pub async fn closed(mut self) -> Result<(u16, String)> {
        loop {
            let (kind, payload) = self.frame().await.context("the session ended without a close frame")?;
            if kind == CLOSE {
                let mut rest = Vec::new();
                timeout(BOUND, self.io.read_to_end(&mut rest)).await.context("the connection stays open")?.ok();
                ensure!(rest.is_empty(), "something follows the close frame: {rest:?}");
                let (code, reason) = payload.split_at_checked(2).context("a close frame without a code")?;
                return Ok((u16::from_be_bytes([code[0], code[1]]), String::from_utf8_lossy(reason).into_owned()));
            }
        }
    }

    /// One frame that is not masked: opcode and payload.
    async fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let read = async {
            let (kind, length) = (self.io.read_u8().await? & 15, self.io.read_u8().await?);
            let length = match length {
                126 => u64::from(self.io.read_u16().await?),
                127 => self.io.read_u64().await?,
                length => u64::from(length),
            };
            let mut payload = vec![0; usize::try_from(length)?];
            self.io.read_exact(&mut payload).await?;
            anyhow::Ok((kind, payload))
        };
        timeout(BOUND, read).await.context("no frame")?
    }
}
