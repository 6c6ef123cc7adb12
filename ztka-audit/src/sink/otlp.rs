//! OpenTelemetry logs: OTLP over HTTP, in Protobuf.

mod protobuf;

use async_trait::async_trait;

use self::protobuf::{Message, rejected};
use super::{Endpoint, Sink, SinkError};
use crate::{Batch, Event, Record};

/// Exports events as log records (OTLP 1.x, `/v1/logs`).
///
/// The body of a record is the event's JSON, its time the event's, its event name `ztka.audit`; severity is `WARN` for what was
/// denied and `INFO` otherwise. Attributes are what one looks for: `audit.id`, `audit.stage`, `user.name`, `k8s.cluster.uid`, `ztka.org`,
/// `ztka.decision`. The resource is `service.name = ztka-proxy` with the proxy's id as `service.instance.id`.
#[derive(Debug)]
pub struct OtlpSink {
    endpoint: Endpoint,
    instance: String,
}

impl OtlpSink {
    /// Exports to `endpoint`, whose path usually is `/v1/logs`, as the service instance `instance`.
    pub fn new(endpoint: Endpoint, instance: &str) -> Self {
        Self { endpoint, instance: instance.to_owned() }
    }

    /// `ExportLogsServiceRequest`.
    fn request(&self, records: &[Record]) -> Vec<u8> {
        let mut request = Message::default();
        request.message(1, |resource_logs| {
            resource_logs.message(1, |resource| {
                attribute(resource, 1, "service.name", "ztka-proxy");
                attribute(resource, 1, "service.instance.id", &self.instance);
            });
            resource_logs.message(2, |scope_logs| {
                scope_logs.message(1, |scope| {
                    scope.text(1, "ztka-audit");
                    scope.text(2, env!("CARGO_PKG_VERSION"));
                });
                for record in records {
                    scope_logs.message(2, |log| log_record(log, record));
                }
            });
        });
        request.into_bytes()
    }
}

/// `LogRecord`.
fn log_record(log: &mut Message, record: &Record) {
    let event = Event::from_json(record.payload.as_bytes()).ok();
    let fact = |name| event.as_ref().and_then(|event| event.fact(name)).unwrap_or_default();
    if let Some(event) = &event {
        let nanoseconds = u64::try_from(event.stage_timestamp.as_nanosecond()).unwrap_or_default();
        log.fixed64(1, nanoseconds);
        log.fixed64(11, nanoseconds);
    }
    let (number, text) = if fact("decision") == "deny" { (13, "WARN") } else { (9, "INFO") };
    log.varint(2, number);
    log.text(3, text);
    log.message(5, |body| body.text(1, &record.payload));
    attribute(log, 6, "audit.id", &record.id.to_string());
    if let Some(event) = &event {
        attribute(log, 6, "audit.stage", event.stage.as_str());
        attribute(log, 6, "user.name", &event.user.username);
    }
    for (key, name) in [("k8s.cluster.uid", "cluster"), ("ztka.org", "org"), ("ztka.decision", "decision")] {
        if !fact(name).is_empty() {
            attribute(log, 6, key, fact(name));
        }
    }
    log.text(12, "ztka.audit");
}

/// `KeyValue` with a text.
fn attribute(message: &mut Message, field: u32, key: &str, value: &str) {
    message.message(field, |pair| {
        pair.text(1, key);
        pair.message(2, |any| any.text(1, value));
    });
}

#[async_trait]
impl Sink for OtlpSink {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let answer = self.endpoint.post(self.request(&batch.records), "application/x-protobuf").await?;
        // `partial_success` does not say which.
        match rejected(&answer) {
            0 => Ok(()),
            count => Err(SinkError::refused(format!("the collector has rejected {count} log records"))),
        }
    }
}
