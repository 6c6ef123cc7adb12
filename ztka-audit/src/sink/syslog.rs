//! Syslog (RFC 5424) over TLS (RFC 5425).

use std::{fmt::Write as _, io, str::FromStr};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Sink, SinkError, TlsFiles};
use crate::{Batch, Event, Record};

/// What a message may be, in bytes: rsyslog loses longer frames without a word, unless its `maxFrameSize` says more.
/// RFC 5425 §4.3.1 wants 8,192 of a receiver, and no more.
const LARGEST: usize = 192 * 1024;

/// Sends events as messages to a syslog server.
///
/// Syslog acknowledges nothing. So that what was sent is known to have arrived, each batch has a connection of its own,
/// which is closed with `close_notify` and waited for until the server has answered with its own (RFC 5425 §4.4): by then it
/// has read everything. What a server loses after that, in its memory or on its way further, no sender can know.
///
/// A message is one event: its JSON, without a BOM, in which no control character is left; `MSGID` is the stage, and the
/// structured data `meta sequenceId` counts the records of the proxy's journal (RFC 5424 §7.3.1), so that a gap shows.
#[derive(Clone, Debug)]
pub struct SyslogSink {
    host: String,
    port: u16,
    tls: TlsFiles,
    facility: Facility,
    hostname: String,
    app_name: String,
    largest: usize,
}

/// What a message is about (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Facility(u8);

/// Names of facilities, by number, as rsyslog and syslog-ng spell them.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

impl Default for Facility {
    /// `audit`, 13.
    fn default() -> Self {
        Self(13)
    }
}

/// A text that is no facility.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is no syslog facility; one is audit, authpriv, daemon or local0 to local7")]
pub struct NotAFacility(String);

impl FromStr for Facility {
    type Err = NotAFacility;

    fn from_str(text: &str) -> Result<Self, NotAFacility> {
        let number = FACILITIES.iter().position(|name| *name == text).and_then(|number| u8::try_from(number).ok());
        number.map(Self).ok_or_else(|| NotAFacility(text.to_owned()))
    }
}

impl SyslogSink {
    /// Sends to `host` at `port` (6514 is syslog's) by TLS, as host `-` and application `ztka-proxy`.
    pub fn new(host: impl Into<String>, port: u16, tls: TlsFiles) -> Self {
        Self {
            host: host.into(),
            port,
            tls,
            facility: Facility::default(),
            hostname: "-".into(),
            app_name: "ztka-proxy".into(),
            largest: LARGEST,
        }
    }

    /// Sends as this facility.
    #[must_use]
    pub fn facility(mut self, facility: Facility) -> Self {
        self.facility = facility;
        self
    }

    /// Sends as this host; what is no printable ASCII is left out.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        self.hostname = field(hostname, 255);
        self
    }

    /// Sends as this application; what is no printable ASCII is left out.
    #[must_use]
    pub fn app_name(mut self, app_name: &str) -> Self {
        self.app_name = field(app_name, 48);
        self
    }

    /// What makes a longer message, in bytes, is refused for good: the server would lose or cut it. 192 KiB by default.
    #[must_use]
    pub fn largest(mut self, bytes: usize) -> Self {
        self.largest = bytes;
        self
    }

    fn message(&self, record: &Record) -> String {
        let event = Event::from_json(record.payload.as_bytes()).ok();
        let (time, stage) = match &event {
            Some(event) => (format!("{:.6}", event.stage_timestamp), event.stage.as_str()),
            None => ("-".to_owned(), "-"),
        };
        let is_denied = event.as_ref().is_some_and(|event| event.fact("decision") == Some("deny"));
        // Warning, or notice: normal, but worth a look.
        let severity = if is_denied { 4 } else { 5 };
        let priority = u16::from(self.facility.0) * 8 + severity;
        // From 1 to 2^31 - 1, then from 1 again.
        let sequence = record.sequence % 0x7fff_ffff + 1;
        let Self { hostname, app_name, .. } = self;
        let mut message = String::with_capacity(record.payload.len() + 160);
        let _ =
            write!(message, "<{priority}>1 {time} {hostname} {app_name} - {stage} [meta sequenceId=\"{sequence}\"] ");
        message.extend(record.payload.chars().map(|char| if char.is_control() { ' ' } else { char }));
        message
    }

    fn frames(&self, records: &[Record]) -> Result<Vec<u8>, SinkError> {
        let mut frames = Vec::new();
        for (at, record) in records.iter().enumerate() {
            let message = self.message(record);
            if self.largest < message.len() {
                let text = format!("the message would have {} bytes, and {} is the most", message.len(), self.largest);
                return Err(SinkError::refused_at(at, text));
            }
            // RFC 5425 §4.3: octet counting.
            frames.extend_from_slice(format!("{} ", message.len()).as_bytes());
            frames.extend_from_slice(message.as_bytes());
        }
        Ok(frames)
    }
}

#[async_trait]
impl Sink for SyslogSink {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let frames = self.frames(&batch.records)?;
        let mut stream = self.tls.connect(&self.host, self.port).await?;
        stream.write_all(&frames).await?;
        stream.shutdown().await?;
        // A server says nothing; one that answers is read to its end.
        let mut answer = [0; 512];
        loop {
            match stream.read(&mut answer).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // As a connection ends that is cut: nobody knows where.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let text =
                        "the server has closed the connection without close_notify, so what it has read is not known";
                    return Err(SinkError::failed(text));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Printable ASCII of at most so many bytes, or the nil value.
fn field(text: &str, longest: usize) -> String {
    let field: String = text.chars().filter(char::is_ascii_graphic).take(longest).collect();
    if field.is_empty() { "-".to_owned() } else { field }
}
