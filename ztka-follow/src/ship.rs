//! Brings audit records to the controller.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use ztka_audit::{Batch, Chunk, RecordingSink, Sink, SinkError};
use ztka_core::BoxError;

use crate::Channel;

/// An answer has nothing but an error message.
const LARGEST: usize = 64 * 1024;

/// Posts each batch to the controller; 2xx is its acknowledgement.
#[derive(Clone, Debug)]
pub struct ToController {
    channel: Channel,
    path: &'static str,
}

impl ToController {
    /// A proxy's events.
    pub fn events(channel: Channel) -> Self {
        Self { channel, path: "/v1/events" }
    }

    /// An agent's receipts.
    pub fn receipts(channel: Channel) -> Self {
        Self { channel, path: "/v1/receipts" }
    }

    /// A proxy's recordings.
    pub fn recordings(channel: Channel) -> Self {
        Self { channel, path: "/v1/recordings" }
    }

    /// Status and body of the answer.
    async fn post(&self, media_type: &'static str, body: Bytes) -> Result<(StatusCode, Bytes), BoxError> {
        let request = Request::post(self.path).header(header::CONTENT_TYPE, media_type).body(Full::new(body))?;
        let response = self.channel.send(request).await?;
        let status = response.status();
        Ok((status, Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes()))
    }
}

#[async_trait]
impl Sink for ToController {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let posted = self.post(Batch::MEDIA_TYPE, batch.encode().into()).await;
        let (status, answer) = posted.map_err(SinkError::failed)?;
        if status.is_success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&answer);
        let words = format!("the controller answered {status}: {words}");
        Err(match status {
            // Too much at once, or something in it that the controller will never take.
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                SinkError::refused(words)
            }
            _ => SinkError::failed(words),
        })
    }
}

/// What the controller wants after a chunk.
#[derive(Deserialize)]
struct Wanted {
    next: u64,
}

#[async_trait]
impl RecordingSink for ToController {
    async fn take(&self, chunk: &Chunk) -> Result<u64, BoxError> {
        let (status, answer) = self.post(Chunk::MEDIA_TYPE, chunk.encoded().clone()).await?;
        if !status.is_success() {
            return Err(format!("the controller answered {status}: {}", String::from_utf8_lossy(&answer)).into());
        }
        Ok(serde_json::from_slice::<Wanted>(&answer)?.next)
    }
}
