//! Brings audit records to the controller.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use ztka_audit::{Batch, Shipper};
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
}

#[async_trait]
impl Shipper for ToController {
    async fn ship(&self, batch: Batch) -> Result<(), BoxError> {
        let body = Full::new(Bytes::from(batch.encode()));
        let request = Request::post(self.path).header(header::CONTENT_TYPE, Batch::MEDIA_TYPE).body(body)?;
        let response = self.channel.send(request).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
        if status.is_success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&answer);
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            // It will never be taken; the controller has reported it.
            tracing::error!(%status, %words, "the controller refuses audit records for good");
            return Ok(());
        }
        Err(format!("the controller answered {status}: {words}").into())
    }
}
