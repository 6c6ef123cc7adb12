//! Exec of a command that gives back its standard input, over WebSocket.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use tokio::io::{AsyncWriteExt as _, BufReader};

use super::{Payload, status};
use crate::websocket::{BINARY, CLOSE, CLOSE_CHANNEL, ERROR, PING, PONG, PROTOCOL, STDIN, STDOUT, read, write};

/// Of RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;

/// 101 and an echo; 400 if it is not a WebSocket that is asked for.
pub(crate) fn accept(mut request: Request<Incoming>) -> Response<Payload> {
    let Some(accept) = accepted(request.headers()) else {
        return status(StatusCode::BAD_REQUEST, "only WebSocket with v5.channel.k8s.io is served");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(io) = upgrade.await {
            // An end without a close is the client's matter, which counts it as an error.
            let _ = echo(io).await;
        }
    });
    let mut response = Response::new(Payload::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    response
}

fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    let names = |name, word: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    let asked = names(header::CONNECTION, "upgrade")
        && names(header::UPGRADE, "websocket")
        && names(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    HeaderValue::try_from(STANDARD.encode(digest.finish())).ok()
}

async fn echo(io: Upgraded) -> io::Result<()> {
    let mut io = BufReader::new(TokioIo::new(io));
    let mut out = Vec::new();
    loop {
        out.clear();
        let frame = read(&mut io).await?;
        let mut over = false;
        match (frame.opcode, frame.payload.split_first()) {
            (BINARY, Some((&STDIN, data))) => write(&mut out, BINARY, &[&[STDOUT], data], None),
            (BINARY, Some((&CLOSE_CHANNEL, [STDIN]))) => {
                write(&mut out, BINARY, &[&[ERROR], SUCCESS], None);
                write(&mut out, CLOSE, &[&1000_u16.to_be_bytes()], None);
            }
            (PING, _) => write(&mut out, PONG, &[&frame.payload], None),
            (CLOSE, _) => over = true,
            _ => {}
        }
        io.write_all(&out).await?;
        io.flush().await?;
        if over {
            return io.shutdown().await;
        }
    }
}
