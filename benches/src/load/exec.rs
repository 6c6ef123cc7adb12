//! One exec session as kubectl has it: its own connection, upgrade, standard input echoed, status, close.

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, BufReader};

use super::refused;
use crate::{
    connect::Client,
    websocket::{BINARY, CLOSE, CLOSE_CHANNEL, ERROR, PROTOCOL, STDIN, STDOUT, read, write},
};

const PIECE: usize = 1024;
/// What clients mask with ought to be unpredictable to pages in a browser, of which there are none here.
const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// Bytes that came back.
pub(crate) async fn session(client: &Client, path: &str, echoes: u32) -> Result<u64> {
    let mut request = client.request(path)?;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(STANDARD.encode([7_u8; 16]))?);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));

    let mut sender = client.connect().await?;
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(response).await);
    }
    let mut io = BufReader::new(TokioIo::new(hyper::upgrade::on(&mut response).await?));
    let (piece, mut out, mut bytes) = ([b'.'; PIECE], Vec::new(), 0);
    for _ in 0..echoes {
        out.clear();
        write(&mut out, BINARY, &[&[STDIN], &piece], MASK);
        io.write_all(&out).await?;
        io.flush().await?;
        let mut back = 0;
        while back < PIECE {
            let frame = read(&mut io).await.context("the echo")?;
            match frame.payload.split_first() {
                Some((&STDOUT, data)) if frame.opcode == BINARY => back += data.len(),
                _ => bail!("a frame other than standard output: {frame:?}"),
            }
        }
        bytes += back as u64;
    }
    out.clear();
    write(&mut out, BINARY, &[&[CLOSE_CHANNEL, STDIN]], MASK);
    io.write_all(&out).await?;
    io.flush().await?;
    let mut status = Vec::new();
    loop {
        let frame = read(&mut io).await.context("the end of the session")?;
        match (frame.opcode, frame.payload.split_first()) {
            (CLOSE, _) => break,
            (BINARY, Some((&ERROR, json))) => status = json.to_vec(),
            _ => {}
        }
    }
    let status: serde_json::Value = serde_json::from_slice(&status).context("the session's status")?;
    ensure!(status.get("status").is_some_and(|status| status == "Success"), "the command failed: {status}");
    out.clear();
    write(&mut out, CLOSE, &[&1000_u16.to_be_bytes()], MASK);
    // The session is over; a kubelet's end has often closed before it is told good-bye.
    if io.write_all(&out).await.is_ok() {
        let _ = io.shutdown().await;
    }
    Ok(bytes)
}
