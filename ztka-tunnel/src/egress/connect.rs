//! CONNECT to an HTTP proxy (RFC 9110 §9.3.6), by HTTP/1.1.

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::{EgressError, EgressStream, ProxyUrl};

/// Head of the answer; a proxy's own page of an error is its body and not read.
const HEAD: usize = 16 << 10;
const LINES: usize = 64;
/// Of a reason that is shown.
const REASON: usize = 80;

/// `host:port` as in a URL.
pub(super) fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Asks `proxy`, to which `stream` leads, for a tunnel to `host`; from then on the stream is that tunnel.
pub(super) async fn connect(
    stream: &mut EgressStream,
    proxy: &ProxyUrl,
    host: &str,
    port: u16,
) -> Result<(), EgressError> {
    let target = authority(host, port);
    let mut request = Zeroizing::new(format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: ztka-tunnel/{}\r\n",
        env!("CARGO_PKG_VERSION")
    ));
    if let Some(authorization) = proxy.authorization() {
        request.push_str("Proxy-Authorization: ");
        request.push_str(&authorization);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let not_a_proxy = |what: String| EgressError::NotAProxy { proxy: proxy.to_string(), what };
    stream.write_all(request.as_bytes()).await.map_err(|error| not_a_proxy(error.to_string()))?;
    stream.flush().await.map_err(|error| not_a_proxy(error.to_string()))?;

    let mut head = BytesMut::with_capacity(1024);
    loop {
        match stream.read_buf(&mut head).await {
            Ok(0) if head.is_empty() => return Err(not_a_proxy("it closed the connection without an answer".into())),
            Ok(0) => return Err(not_a_proxy("it broke off in the middle of its answer".into())),
            Ok(_) => {}
            Err(error) => return Err(not_a_proxy(error.to_string())),
        }
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut answer = httparse::Response::new(&mut lines);
        match answer.parse(&head) {
            Ok(httparse::Status::Complete(length)) => {
                judge(&answer, proxy, &target)?;
                // A proxy may pass on what the target says before we have said anything.
                stream.unread(head.split_off(length).freeze());
                return Ok(());
            }
            Ok(httparse::Status::Partial) if head.len() < HEAD => {}
            Ok(httparse::Status::Partial) => return Err(not_a_proxy("its answer has no end".into())),
            Err(error) => return Err(not_a_proxy(format!("bad answer, {error}"))),
        }
    }
}

fn judge(answer: &httparse::Response<'_, '_>, proxy: &ProxyUrl, target: &str) -> Result<(), EgressError> {
    let code = answer.code.unwrap_or_default();
    if (200..300).contains(&code) {
        return Ok(());
    }
    let name = proxy.to_string();
    if code == StatusCode::PROXY_AUTHENTICATION_REQUIRED.as_u16() {
        let is_basic = |value: &[u8]| value.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"));
        let basic = answer.headers.iter().any(|line| {
            line.name.eq_ignore_ascii_case("proxy-authenticate")
                && line.value.split(|byte| *byte == b',').any(|scheme| is_basic(scheme.trim_ascii()))
        });
        let hint = match (basic, proxy.has_credentials()) {
            (false, _) => "it does not offer Basic, the only scheme that is supported; have it offer Basic",
            (true, false) => "it wants credentials; give it a user and a password",
            (true, true) => "it does not accept the credentials; check user and password",
        };
        return Err(EgressError::Credentials { proxy: name, hint });
    }
    let hint = match code {
        500.. => "it cannot reach that: check the address, and DNS and egress rules of the proxy",
        400..=499 => "have its rules allow that host and port for CONNECT, or reach the host without the proxy",
        _ => "a proxy answers CONNECT with 200: check its URL",
    };
    let printable = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let reason: String = answer.reason.unwrap_or_default().chars().filter(printable).take(REASON).collect();
    let status = format!("{code} {reason}").trim_end().to_owned();
    Err(EgressError::Refused { proxy: name, target: target.to_owned(), status, hint })
}
