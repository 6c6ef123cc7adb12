//! Posting to an HTTP server.

use std::{io::Write as _, path::PathBuf, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;

use super::{SinkError, TlsFiles, line::Line};

/// What is told of an answer.
const SHOWN: usize = 512;

/// Where batches are posted to, and how.
#[derive(Debug)]
pub struct Endpoint {
    uri: Uri,
    line: Line,
    token: Option<PathBuf>,
    gzip: bool,
}

/// A URL that nothing can be posted to.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not the URL of an audit sink: it takes https://host/path, and http:// of a loopback address alone")]
pub struct NotAnEndpoint(String);

impl Endpoint {
    /// Posts to `url`; `https`, or `http` to a loopback address (a program on the same machine).
    ///
    /// # Errors
    /// It is not such a URL.
    pub fn new(url: &str, tls: TlsFiles) -> Result<Self, NotAnEndpoint> {
        let wrong = || NotAnEndpoint(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let line = Line::to(&uri, tls).ok_or_else(wrong)?;
        Ok(Self { uri, line, token: None, gzip: false })
    }

    /// Shows the bearer token in this file, which is read for each batch.
    #[must_use]
    pub fn token(mut self, file: impl Into<PathBuf>) -> Self {
        self.token = Some(file.into());
        self
    }

    /// Compresses what it posts.
    #[must_use]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.gzip = gzip;
        self
    }

    /// Posts `body`; `Ok` is an answer 2xx, with what it says.
    pub(super) async fn post(&self, body: Vec<u8>, media_type: &'static str) -> Result<Bytes, SinkError> {
        let request = self.request(body, media_type).await?;
        let response = self.line.send(request).await?;
        judged(&response)
    }

    async fn request(&self, body: Vec<u8>, media_type: &'static str) -> Result<Request<Full<Bytes>>, SinkError> {
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(target)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("ztka/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, media_type);
        if let Some(file) = &self.token {
            let file = file.clone();
            let text = tokio::task::spawn_blocking(move || {
                std::fs::read_to_string(&file)
                    .map_err(|error| format!("the token in {} cannot be read: {error}", file.display()))
            });
            let text = text.await?.map_err(SinkError::failed)?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let body = if self.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&body)?;
            encoder.finish()?
        } else {
            body
        };
        Ok(request.body(Full::new(body.into()))?)
    }
}

fn judged(response: &Response<Bytes>) -> Result<Bytes, SinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.body().clone());
    }
    let words = String::from_utf8_lossy(response.body().get(..SHOWN).unwrap_or(response.body())).into_owned();
    let why = format!("the server answered {status}: {}", words.escape_debug());
    Err(match status {
        // Too much at once, or something in it that this server will never take.
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            SinkError::refused(why)
        }
        _ => {
            let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            SinkError::Failed { why: why.into(), after: after.map(Duration::from_secs) }
        }
    })
}
