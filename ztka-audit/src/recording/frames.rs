//! What is said in a session of exec or attach, read from the frames of its stream.

use http::{HeaderMap, HeaderName, header::SEC_WEBSOCKET_PROTOCOL};
use serde::Deserialize;
use ztka_core::{
    Upgrade,
    stream::{
        Violation,
        channel::{self, Version},
        spdy,
        websocket::Sender,
    },
};

use super::cast::Size;

/// Longest message of a terminal's size, and of a final status, in bytes.
const MAX_SIZE: usize = 256;
const MAX_STATUS: usize = 8 * 1024;
/// An exec has five streams.
const MAX_STREAMS: usize = 16;
/// The versions of exec over SPDY whose frames are read here differ in what the stream of errors says alone.
static STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// One thing that is said.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Said<'a> {
    Input(&'a [u8]),
    Output(&'a [u8]),
    Errors(&'a [u8]),
    Resized(Size),
    Exited(i32),
    Failed(String),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Channel {
    Input,
    Output,
    Errors,
    Status,
    Size,
}

impl Channel {
    fn of_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Input),
            1 => Some(Self::Output),
            2 => Some(Self::Errors),
            channel::ERROR => Some(Self::Status),
            4 => Some(Self::Size),
            _ => None,
        }
    }

    fn of_stream(name: &str) -> Option<Self> {
        match name {
            "stdin" => Some(Self::Input),
            "stdout" => Some(Self::Output),
            "stderr" => Some(Self::Errors),
            "error" => Some(Self::Status),
            "resize" => Some(Self::Size),
            _ => None,
        }
    }
}

/// Both directions of one stream. Holds at most one frame's head or header block, one message of the size and the status.
#[derive(Debug)]
pub(crate) struct Frames {
    wire: Wire,
    messages: Messages,
}

#[derive(Debug)]
enum Wire {
    Channels { client: channel::Decoder, server: channel::Decoder },
    Spdy { client: spdy::Decoder, server: spdy::Decoder, streams: Vec<(u32, Channel)> },
}

impl Frames {
    /// For a stream that was answered with the headers `answer`; `None` if it agreed on what cannot be read here.
    pub(crate) fn of(upgrade: Upgrade, answer: &HeaderMap) -> Option<Self> {
        let wire = match upgrade {
            Upgrade::WebSocket => {
                let agreed = answer.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
                let version = Version::from_protocol(agreed)?;
                let client = channel::Decoder::new(Sender::Client, version);
                Wire::Channels { client, server: channel::Decoder::new(Sender::Server, version) }
            }
            Upgrade::Spdy31 => {
                let (client, server) = (spdy::Decoder::default(), spdy::Decoder::default());
                Wire::Spdy { client, server, streams: Vec::new() }
            }
        };
        Some(Self { wire, messages: Messages::default() })
    }

    /// Why a stream that is asked for with these headers could never be read, whatever is answered.
    pub(crate) fn cannot_be_read(upgrade: Upgrade, asked: &HeaderMap) -> Option<&'static str> {
        if upgrade == Upgrade::Spdy31 {
            return None;
        }
        let offered = asked.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let mut offered = offered.flat_map(|value| value.split(','));
        let readable = offered.any(|name| Version::from_protocol(name.trim()).is_some());
        (!readable).then_some("the client speaks neither v5.channel.k8s.io nor v4.channel.k8s.io; use a newer client")
    }

    /// Of SPDY: what was agreed on, for whoever looks at it.
    pub(crate) fn agreed(answer: &HeaderMap) -> Option<&str> {
        answer.get(&STREAM_PROTOCOL).or_else(|| answer.get(SEC_WEBSOCKET_PROTOCOL))?.to_str().ok()
    }

    /// Reads what the client sends.
    ///
    /// # Errors
    /// From then on nobody knows what is said.
    pub(crate) fn client(&mut self, mut bytes: &[u8], mut said: impl FnMut(Said<'_>)) -> Result<(), Violation> {
        let Self { wire, messages } = self;
        while !bytes.is_empty() {
            let taken = match wire {
                Wire::Channels { client, .. } => {
                    let (taken, event) = client.decode(bytes)?;
                    if let Some(channel::Event::Data { channel, bytes }) = event {
                        messages.said_by_client(Channel::of_number(channel), &bytes, &mut said);
                    }
                    taken
                }
                Wire::Spdy { client, streams, .. } => {
                    let (taken, event) = client.decode(bytes)?;
                    match event {
                        Some(spdy::Event::Open { stream, headers, .. }) => {
                            if let Some(kind) = headers.one("streamtype").and_then(Channel::of_stream)
                                && streams.len() < MAX_STREAMS
                            {
                                streams.push((stream, kind));
                            }
                        }
                        Some(spdy::Event::Data { stream, bytes, .. }) => {
                            messages.said_by_client(kind_of(streams, stream), bytes, &mut said);
                        }
                        _ => {}
                    }
                    taken
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads what the cluster sends.
    ///
    /// # Errors
    /// From then on nobody knows what is said.
    pub(crate) fn server(&mut self, mut bytes: &[u8], mut said: impl FnMut(Said<'_>)) -> Result<(), Violation> {
        let Self { wire, messages } = self;
        while !bytes.is_empty() {
            let taken = match wire {
                Wire::Channels { server, .. } => {
                    let (taken, event) = server.decode(bytes)?;
                    if let Some(channel::Event::Data { channel, bytes }) = event {
                        messages.said_by_server(Channel::of_number(channel), &bytes, &mut said);
                    }
                    taken
                }
                Wire::Spdy { server, streams, .. } => {
                    let (taken, event) = server.decode(bytes)?;
                    if let Some(spdy::Event::Data { stream, bytes, .. }) = event {
                        messages.said_by_server(kind_of(streams, stream), bytes, &mut said);
                    }
                    taken
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }
}

fn kind_of(streams: &[(u32, Channel)], stream: u32) -> Option<Channel> {
    streams.iter().find(|(number, _)| *number == stream).map(|(_, kind)| *kind)
}

/// Messages that may come in pieces.
#[derive(Debug, Default)]
struct Messages {
    size: Vec<u8>,
    status: Vec<u8>,
    /// The status has been told; there is one.
    told: bool,
}

/// As kubectl writes it, `k8s.io/client-go/tools/remotecommand`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Messages {
    fn said_by_client(&mut self, channel: Option<Channel>, bytes: &[u8], said: &mut impl FnMut(Said<'_>)) {
        match channel {
            Some(Channel::Input) if !bytes.is_empty() => said(Said::Input(bytes)),
            Some(Channel::Size) => self.size(bytes, said),
            _ => {}
        }
    }

    fn said_by_server(&mut self, channel: Option<Channel>, bytes: &[u8], said: &mut impl FnMut(Said<'_>)) {
        match channel {
            Some(Channel::Output) if !bytes.is_empty() => said(Said::Output(bytes)),
            Some(Channel::Errors) if !bytes.is_empty() => said(Said::Errors(bytes)),
            Some(Channel::Status) => self.status(bytes, said),
            _ => {}
        }
    }

    /// One JSON object behind the other. One that means nothing is passed over, as the kubelet does.
    fn size(&mut self, bytes: &[u8], said: &mut impl FnMut(Said<'_>)) {
        self.size.extend_from_slice(bytes);
        loop {
            let mut objects = serde_json::Deserializer::from_slice(&self.size).into_iter::<TerminalSize>();
            match objects.next() {
                Some(Ok(TerminalSize { width, height })) => {
                    let read = objects.byte_offset();
                    self.size.drain(..read.min(self.size.len()));
                    said(Said::Resized(Size { columns: width, rows: height }));
                }
                Some(Err(error)) if error.is_eof() && self.size.len() <= MAX_SIZE => return,
                Some(Err(_)) | None => return self.size.clear(),
            }
        }
    }

    fn status(&mut self, bytes: &[u8], said: &mut impl FnMut(Said<'_>)) {
        if self.told {
            return;
        }
        self.status.extend_from_slice(bytes);
        let done = match serde_json::from_slice::<Status>(&self.status) {
            Ok(status) => Some(ended(status)),
            Err(error) if error.is_eof() && self.status.len() <= MAX_STATUS => None,
            // Before version 4 it is a plain text.
            Err(_) => Some(Said::Failed(String::from_utf8_lossy(&self.status).chars().take(1024).collect())),
        };
        if let Some(done) = done {
            (self.told, self.status) = (true, Vec::new());
            said(done);
        }
    }
}

fn ended(status: Status) -> Said<'static> {
    if status.status == "Success" {
        return Said::Exited(0);
    }
    let code = status.details.unwrap_or_default().causes.into_iter().find(|cause| cause.reason == "ExitCode");
    match code.filter(|_| status.reason == "NonZeroExitCode").and_then(|cause| cause.message.parse().ok()) {
        Some(code) => Said::Exited(code),
        None => Said::Failed(status.message.chars().take(1024).collect()),
    }
}
