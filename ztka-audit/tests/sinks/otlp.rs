//! OTLP logs: against a receiver with OpenTelemetry's own types (Go), which writes what it has read.

use std::{collections::BTreeMap, fs, process::Command, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use ztka_audit::{
    Batch, Endpoint, Event, Hash, Kind, OtlpSink, Position, Record, Sink, SinkError, Stage,
    conformance::{self, Place, Trouble, Wire},
};
use ztka_core::AuditId;

use crate::places::{Program, Stage as Folder, free_address};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/collector");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    resource: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
    scope: String,
    severity: String,
    body: String,
    event_name: String,
    time: u64,
}

struct Collector {
    stage: Folder,
    wire: Wire,
    _server: Program,
}

impl Collector {
    async fn start() -> Self {
        let (stage, address) = (Folder::new(), free_address());
        let mut go = Command::new("go");
        go.args(["build", "-mod=readonly", "-o"]).arg(stage.path("collector")).arg(".").current_dir(SOURCE);
        let built = go.env("GOFLAGS", "-buildvcs=false").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let out = stage.path("out").display().to_string();
        let server = Program::start(stage.folder.path(), stage.path("collector"), &[&address.to_string(), &out]);
        server.listens(address);
        Self { wire: Wire::to(address).await.unwrap(), stage, _server: server }
    }

    fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.stage.path("out")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[async_trait]
impl Place for Collector {
    async fn sink(&self) -> Arc<dyn Sink> {
        let url = format!("http://127.0.0.1:{}/v1/logs", self.wire.port());
        Arc::new(OtlpSink::new(Endpoint::new(&url, self.stage.tls()).unwrap(), "proxy-1"))
    }

    async fn arrived(&self) -> Vec<Event> {
        self.lines().iter().filter_map(|line| Event::from_json(line.body.as_bytes()).ok()).collect()
    }

    async fn trouble(&self, trouble: Option<Trouble>) -> bool {
        self.wire.spoil(trouble);
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_passes() {
    let collector = Collector::start().await;
    conformance::sink(&collector, &collector.stage.spool()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_what_one_looks_for_and_a_rejected_one_is_refused() {
    let collector = Collector::start().await;
    let record = |user: &str| {
        let time = "2026-11-22T07:00:00.000123Z".parse().unwrap();
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, time);
        event.user.username = user.to_owned();
        for (name, value) in [("org", "acme"), ("cluster", "c1"), ("decision", "deny")] {
            event.annotations.set(name, value);
        }
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, previous) = (Position::default(), Hash::default());
        Record { position, sequence: 0, previous, kind: Kind::Close, id: event.audit_id, payload }
    };
    let batch = |record: Record| Batch { journal: AuditId::generate(), records: vec![record], signature: None };
    let sink = collector.sink().await;
    let alice = batch(record("alice \u{1F9EA}"));
    sink.deliver(&alice).await.unwrap();
    let refused = sink.deliver(&batch(record("nobody takes this"))).await;
    assert!(matches!(refused, Err(SinkError::Refused { at: None, .. })), "{refused:?}");
    let lines = collector.lines();
    assert_eq!(lines.len(), 1);
    let (line, id) = (&lines[0], alice.records[0].id.to_string());
    assert_eq!(
        (line.severity.as_str(), line.event_name.as_str(), line.scope.as_str()),
        ("WARN", "ztka.audit", "ztka-audit")
    );
    assert_eq!((line.time, &line.body), (1_795_330_800_000_123_000, &alice.records[0].payload));
    let resource = [("service.instance.id", "proxy-1"), ("service.name", "ztka-proxy")];
    assert!(resource.iter().all(|(key, value)| line.resource[*key] == *value), "{line:?}");
    let attributes: Vec<_> = line.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        attributes,
        [
            ("audit.id", id.as_str()),
            ("audit.stage", "ResponseComplete"),
            ("k8s.cluster.uid", "c1"),
            ("user.name", "alice \u{1F9EA}"),
            ("ztka.decision", "deny"),
            ("ztka.org", "acme"),
        ]
    );
}
