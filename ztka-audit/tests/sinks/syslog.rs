//! Syslog: against rsyslog, which writes what it takes to a file.

use std::{fs, sync::Arc};

use async_trait::async_trait;
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use ztka_audit::{
    Batch, Event, Facility, Hash, Kind, Position, Record, Sink, SinkError, Stage, SyslogSink,
    conformance::{self, Place, Trouble, Wire},
};
use ztka_core::AuditId;

use crate::places::{Program, Stage as Folder, free_address, is_missing};

const RSYSLOG: &str = "/usr/sbin/rsyslogd";

struct Rsyslog {
    stage: Folder,
    wire: Wire,
    server: Program,
}

impl Rsyslog {
    async fn start() -> Option<Self> {
        // The package with its driver needs the one with the server.
        if is_missing("/usr/share/doc/rsyslog-openssl", "rsyslog-openssl") {
            return None;
        }
        let stage = Folder::new();
        let identity = stage.authority.server("server", &["localhost".into()]).unwrap();
        let address = free_address();
        let path = |name: &str| stage.path(name).display().to_string();
        let config = format!(
            "global(workDirectory=\"{work}\" maxMessageSize=\"512k\" parser.escapeControlCharactersOnReceive=\"off\"\n\
             defaultNetstreamDriver=\"ossl\" defaultNetstreamDriverCAFile=\"{ca}\"\n\
             defaultNetstreamDriverCertFile=\"{certificate}\" defaultNetstreamDriverKeyFile=\"{key}\")\n\
             module(load=\"imtcp\" streamDriver.name=\"ossl\" streamDriver.mode=\"1\" streamDriver.authMode=\"x509/certvalid\")\n\
             template(name=\"all\" type=\"string\" string=\"%syslogfacility-text%|%syslogseverity-text%|%timereported:::date-rfc3339%|\
             %hostname%|%app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"write\")\n\
             ruleset(name=\"write\" queue.type=\"Direct\") {{ action(type=\"omfile\" file=\"{out}\" template=\"all\") }}\n",
            work = stage.folder.path().display(),
            ca = stage.authority.path().display(),
            certificate = identity.certificate_path.display(),
            key = identity.key_path.display(),
            port = address.port(),
            out = path("out"),
        );
        fs::write(stage.path("rsyslog.conf"), config).unwrap();
        let server =
            Program::start(stage.folder.path(), RSYSLOG, &["-n", "-f", &path("rsyslog.conf"), "-i", &path("pid")]);
        server.listens(address);
        Some(Self { wire: Wire::to(address).await.unwrap(), stage, server })
    }

    fn client(&self) -> SyslogSink {
        let client = self.stage.authority.client("proxy", &[]).unwrap();
        let tls = self.stage.tls().identity(&client.certificate_path, &client.key_path);
        SyslogSink::new("localhost", self.wire.port(), tls).hostname("proxy-1")
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read(self.stage.path("out")).unwrap_or_default();
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }
}

#[async_trait]
impl Place for Rsyslog {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.client())
    }

    async fn arrived(&self) -> Vec<Event> {
        let lines = self.lines();
        assert!(lines.iter().all(|line| line.matches('|').count() >= 8), "{}", self.server.log());
        let messages = lines.iter().filter_map(|line| line.splitn(9, '|').nth(8));
        messages.filter_map(|json| Event::from_json(json.trim().as_bytes()).ok()).collect()
    }

    async fn trouble(&self, trouble: Option<Trouble>) -> bool {
        self.wire.spoil(trouble);
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_passes() {
    let Some(rsyslog) = Rsyslog::start().await else { return };
    conformance::sink(&rsyslog, &rsyslog.stage.spool()).await;
}

fn record(sequence: u64, change: impl FnOnce(&mut Event)) -> Record {
    let mut event =
        Event::new(AuditId::generate(), Stage::ResponseComplete, "2026-11-22T07:00:00.000123Z".parse().unwrap());
    change(&mut event);
    let payload = String::from_utf8(event.to_json()).unwrap();
    Record {
        position: Position::default(),
        sequence,
        previous: Hash::default(),
        kind: Kind::Close,
        id: event.audit_id,
        payload,
    }
}

fn batch(records: Vec<Record>) -> Batch {
    Batch { journal: AuditId::generate(), records, signature: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_a_message_is_where_it_belongs() {
    let Some(rsyslog) = Rsyslog::start().await else { return };
    let sink = rsyslog.client().facility("local3".parse().unwrap()).app_name("my proxy");
    let denied = record(6, |event| event.annotations.set("decision", "deny"));
    let hostile = record(0x7fff_fffe, |event| event.user_agent = "x\n999 <13>1 - forged - - - -\u{1b}]".into());
    sink.deliver(&batch(vec![denied, hostile])).await.unwrap();
    // Acknowledged means read; it is written a moment later.
    while rsyslog.lines().len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let lines = rsyslog.lines();
    assert_eq!(lines.len(), 2, "one event, one message");
    let head = "2026-11-22T07:00:00.000123Z|proxy-1|myproxy|-|ResponseComplete";
    assert!(lines[0].starts_with(&format!("local3|warning|{head}|[meta sequenceId=\"7\"]|")), "{}", lines[0]);
    assert!(lines[1].starts_with(&format!("local3|notice|{head}|[meta sequenceId=\"2147483647\"]|")), "{}", lines[1]);
    assert!(!lines[1].contains(char::is_control));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_server_gets_nothing() {
    let Some(rsyslog) = Rsyslog::start().await else { return };
    let stranger = Folder::new();
    let sink = SyslogSink::new("localhost", rsyslog.wire.port(), stranger.tls());
    let error = sink.deliver(&batch(vec![record(0, |_| {})])).await.unwrap_err();
    assert!(matches!(error, SinkError::Failed { .. }) && error.to_string().contains("certificate"), "{error}");
    // The right authority, another name.
    let sink = SyslogSink::new("127.0.0.1", rsyslog.wire.port(), rsyslog.stage.tls());
    assert!(sink.deliver(&batch(vec![record(0, |_| {})])).await.is_err());
    assert_eq!(rsyslog.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_said_before_the_server_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut first = [0; 1];
        tcp.read_exact(&mut first).await.unwrap();
        first[0]
    });
    let stage = Folder::new();
    let sink = SyslogSink::new("localhost", port, stage.tls());
    assert!(sink.deliver(&batch(vec![record(0, |_| {})])).await.is_err());
    assert_eq!(said.await.unwrap(), 22, "a TLS handshake");
}

#[tokio::test]
async fn what_a_server_would_cut_is_refused_by_number() {
    let sink = SyslogSink::new("localhost", 1, Folder::new().tls()).largest(2048);
    let long = record(1, |event| event.user_agent = "x".repeat(3000));
    let refused = sink.deliver(&batch(vec![record(0, |_| {}), long])).await;
    assert!(matches!(refused, Err(SinkError::Refused { at: Some(1), .. })), "{refused:?}");
    assert!("kernel".parse::<Facility>().is_err());
}
