//! A webhook in the format of Kubernetes' own (`k8s.io/apiserver/plugin/pkg/audit/webhook`).

use async_trait::async_trait;

use super::{Endpoint, Sink, SinkError};
use crate::{Batch, Event};

/// Posts events as an `EventList` of `audit.k8s.io/v1`, which is what a kube-apiserver sends to its audit webhook.
///
/// Any answer 2xx acknowledges the list. 400, 413 and 422 say that something in it will never be taken; it comes again in
/// halves, down to the one event that is refused. Everything else, redirections too, is tried again later, after
/// `Retry-After` if the answer has one.
#[derive(Debug)]
pub struct WebhookSink {
    endpoint: Endpoint,
}

impl WebhookSink {
    /// Posts to `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }
}

#[async_trait]
impl Sink for WebhookSink {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let length: usize = batch.records.iter().map(|record| record.payload.len() + 1).sum();
        let mut body = Vec::with_capacity(length + 96);
        body.extend_from_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
        for (at, record) in batch.records.iter().enumerate() {
            // Within a list, one that is no JSON would spoil all others.
            Event::from_json(record.payload.as_bytes()).map_err(|error| SinkError::refused_at(at, error))?;
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(record.payload.as_bytes());
        }
        body.extend_from_slice(b"]}");
        self.endpoint.post(body, "application/json").await.map(drop)
    }
}
