//! How the command of an exec ended, read from what the far side sends as it goes by.

use http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};
use serde_json::Value;
use ztka_core::{
    Upgrade,
    stream::{
        channel::{self, ERROR, Version},
        spdy,
        websocket::Sender,
    },
};

use crate::event::{MAX_TEXT, clean};

/// Longest final status; Kubernetes' own is a few hundred bytes.
const LONGEST: usize = 16 * 1024;

/// Looks on at one exec or attach. What it cannot read it says nothing about: it holds nothing up and ends nothing.
#[derive(Debug)]
pub(crate) struct Exit {
    way: Way,
    status: Vec<u8>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each exec, in a box of its own")]
enum Way {
    /// The final status has a channel of its own.
    Channels(channel::Decoder),
    /// It has a stream of its own, which the client opens.
    Streams { client: Option<spdy::Decoder>, server: spdy::Decoder, error: Option<u32> },
    /// It cannot be read any more, or need not be.
    Done,
}

impl Exit {
    /// For an exec or attach over `upgrade` that was answered with `answer`; none of protocols without a final status that can
    /// be read.
    pub(crate) fn of(upgrade: Upgrade, answer: &HeaderMap) -> Option<Self> {
        let way = match upgrade {
            Upgrade::WebSocket => {
                let protocol = answer.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
                Way::Channels(channel::Decoder::new(Sender::Server, Version::from_protocol(protocol)?))
            }
            Upgrade::Spdy31 => {
                Way::Streams { client: Some(spdy::Decoder::default()), server: spdy::Decoder::default(), error: None }
            }
        };
        Some(Self { way, status: Vec::new() })
    }

    /// Bytes from the client.
    pub(crate) fn received(&mut self, mut bytes: &[u8]) {
        let Way::Streams { client, error, .. } = &mut self.way else { return };
        while let Some(decoder) = client.as_mut().filter(|_| !bytes.is_empty()) {
            let Ok((taken, event)) = decoder.decode(bytes) else {
                self.way = Way::Done;
                return;
            };
            if let Some(spdy::Event::Open { stream, headers, .. }) = event
                && headers.one("streamtype") == Some("error")
            {
                *error = Some(stream);
                // Nothing else that the client says is needed.
                *client = None;
                return;
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Bytes from the far side.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, piece) = match &mut self.way {
                Way::Done => return,
                Way::Channels(decoder) => match decoder.decode(bytes) {
                    Ok((taken, Some(channel::Event::Data { channel: ERROR, bytes }))) => {
                        (Some(taken), bytes.into_owned())
                    }
                    Ok((taken, _)) => (Some(taken), Vec::new()),
                    Err(_) => (None, Vec::new()),
                },
                Way::Streams { server, error, .. } => match server.decode(bytes) {
                    Ok((taken, Some(spdy::Event::Data { stream, bytes, .. }))) if *error == Some(stream) => {
                        (Some(taken), bytes.to_vec())
                    }
                    Ok((taken, _)) => (Some(taken), Vec::new()),
                    Err(_) => (None, Vec::new()),
                },
            };
            let Some(taken) = taken else {
                self.way = Way::Done;
                return;
            };
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.status.len() + piece.len() > LONGEST {
                self.status.clear();
                self.way = Way::Done;
                return;
            }
            self.status.extend_from_slice(&piece);
        }
    }

    /// What the final status says, if there was one.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if self.status.is_empty() {
            return None;
        }
        let status: Value = serde_json::from_slice(&self.status).ok()?;
        if status.get("status")? == "Success" {
            return Some(Outcome::Code(0));
        }
        let causes = status.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
        let code = causes.filter(|cause| cause.get("reason").is_some_and(|reason| reason == "ExitCode"));
        let code = code.filter_map(|cause| cause.get("message")?.as_str()?.parse().ok()).next();
        let message = || clean(status.get("message").and_then(Value::as_str).unwrap_or_default(), MAX_TEXT);
        Some(code.map_or_else(|| Outcome::Failed(message()), Outcome::Code))
    }
}

/// How a command ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// With this exit code.
    Code(i32),
    /// It could not be run, or nobody knows how it ended; Kubernetes says why.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: &str = r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 42","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;

    fn message(channel: u8, text: &str) -> Vec<u8> {
        let length = text.len() + 1;
        let mut frame = vec![0x82];
        match u8::try_from(length).ok().filter(|length| *length < 126) {
            Some(length) => frame.push(length),
            None => {
                frame.push(126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.push(channel);
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    fn channels(protocol: &str) -> Option<Exit> {
        let mut answer = HeaderMap::new();
        answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
        Exit::of(Upgrade::WebSocket, &answer)
    }

    #[test]
    fn the_exit_code_is_read_in_whatever_pieces_it_comes() {
        let all = [message(1, "output \u{3}"), message(3, LEFT), message(2, "more")].concat();
        for size in [1, 7, all.len()] {
            for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
                let mut exit = channels(protocol).unwrap();
                all.chunks(size).for_each(|piece| exit.sent(piece));
                assert_eq!(exit.outcome(), Some(Outcome::Code(42)), "{protocol} by {size}");
            }
        }
        let mut exit = channels("v5.channel.k8s.io").unwrap();
        exit.sent(&message(3, r#"{"status":"Success"}"#));
        assert_eq!(exit.outcome(), Some(Outcome::Code(0)));
        let mut exit = channels("v5.channel.k8s.io").unwrap();
        exit.sent(&message(3, r#"{"status":"Failure","message":"no such container"}"#));
        assert_eq!(exit.outcome(), Some(Outcome::Failed("no such container".into())));
    }

    #[test]
    fn what_cannot_be_read_has_no_outcome_and_no_end_of_memory() {
        assert!(channels("base64.channel.k8s.io").is_none());
        let mut exit = channels("v5.channel.k8s.io").unwrap();
        (0..10).for_each(|_| exit.sent(&message(3, &"x".repeat(4000))));
        assert!(exit.outcome().is_none() && exit.status.is_empty());
        let mut exit = channels("v5.channel.k8s.io").unwrap();
        exit.sent(&[0xff; 64]);
        exit.sent(&message(3, LEFT));
        assert_eq!(exit.outcome(), None);
    }

    #[test]
    fn over_spdy_it_is_on_the_stream_that_the_client_opened_for_it() {
        use crate::ports::tests::opens;
        let mut exit = Exit::of(Upgrade::Spdy31, &HeaderMap::new()).unwrap();
        exit.received(&opens(&[&[("streamtype", "error")], &[("streamtype", "stdout")]]));
        let data = |stream: u32, text: &str| {
            let mut frame = stream.to_be_bytes().to_vec();
            frame.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            frame.extend(text.as_bytes());
            frame
        };
        exit.sent(&data(3, "output"));
        exit.sent(&data(1, LEFT));
        assert_eq!(exit.outcome(), Some(Outcome::Code(42)));
    }
}
