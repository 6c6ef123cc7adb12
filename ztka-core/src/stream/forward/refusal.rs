//! How a port-forward ends that opens a port which is refused: with the reason where its user looks for it.
//!
//! kubectl opens two streams for a connection and prints what comes on the first, unless the connection breaks before.
//! So both are answered in the cluster's place, the reason is said on the one for errors, and both end.

use super::{Kind, Open};
use crate::stream::{
    spdy::{DICTIONARY_ID, HEAD},
    websocket::{self, Sender},
};

/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;
/// Most streams that are answered.
const MAX_ANSWERED: usize = 256;
/// Longest reason in a WebSocket's close frame (RFC 6455 §5.5), less the status code.
const MAX_CLOSE: usize = 123;
/// RFC 6455 §7.4.1: the message violates the receiver's policy.
const POLICY: u16 = 1008;
const FIN: u8 = 1;

/// Follows the cluster's side of a port-forward, to know where frames of another could stand. Holds no payload.
#[derive(Debug)]
pub struct Answers {
    messages: Option<websocket::Decoder>,
    frames: Frames,
    /// Nobody knows any more where a frame ends.
    lost: bool,
}

#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes left of a frame behind its head.
    left: usize,
    /// Headers have been sent: their compression has begun.
    compressing: bool,
}

impl Answers {
    /// For SPDY/3.1 as it is, or inside a WebSocket's messages.
    pub fn new(tunnelled: bool) -> Self {
        let messages = tunnelled.then(|| websocket::Decoder::new(Sender::Server));
        Self { messages, frames: Frames::default(), lost: false }
    }

    /// These bytes have come from the cluster and gone on to the client.
    pub fn passed(&mut self, mut bytes: &[u8]) {
        let Some(messages) = &mut self.messages else { return self.frames.pass(bytes) };
        while !bytes.is_empty() && !self.lost {
            match messages.decode(bytes) {
                Ok((consumed, event)) => {
                    bytes = bytes.get(consumed..).unwrap_or_default();
                    if let Some(websocket::Event::Message { bytes, .. }) = event {
                        self.frames.pass(&bytes);
                    }
                }
                Err(_) => self.lost = true,
            }
        }
    }

    /// Nothing more can be said to the client.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// True where a frame of somebody else could stand.
    pub fn is_between(&self) -> bool {
        let between = self.messages.as_ref().is_none_or(websocket::Decoder::is_between_messages);
        !self.lost && between && self.frames.left == 0 && self.frames.head.is_empty()
    }

    /// So many bytes may pass, at least one, without passing a place where [`Self::is_between`].
    pub fn until_between(&self) -> usize {
        let Frames { head, left, .. } = &self.frames;
        let frame = if *left > 0 { *left } else { HEAD.saturating_sub(head.len()).max(1) };
        match &self.messages {
            None => frame,
            Some(messages) => match messages.left() {
                Some(left) => usize::try_from(left).unwrap_or(usize::MAX).min(frame).max(1),
                None => 1,
            },
        }
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let missing = if self.left > 0 { 0 } else { HEAD.saturating_sub(self.head.len()) };
            let part = bytes.get(..missing).unwrap_or(bytes);
            self.head.extend_from_slice(part);
            bytes = bytes.get(part.len()..).unwrap_or_default();
            let Some(&[control, _, _, kind, _, a, b, c]) = self.head.first_chunk() else { return };
            // SYN_STREAM, SYN_REPLY, HEADERS.
            self.compressing |= control & 0x80 != 0 && matches!(kind, 1 | 2 | 8);
            self.left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            self.head.clear();
        }
    }
}

/// What a client is told in the cluster's place, from the refused stream on.
#[derive(Debug)]
pub struct Refusal {
    tunnelled: bool,
    compressing: bool,
    reason: String,
    error: Option<(u32, String)>,
    data: Option<(u32, String)>,
    said: bool,
    answered: usize,
    out: Vec<u8>,
}

impl Refusal {
    /// Refuses for `reason`, at a place where `answers` [is between](Answers::is_between) frames.
    pub fn new(answers: &Answers, reason: &str) -> Self {
        let reason = shortened(reason, MAX_REASON).to_owned();
        let (tunnelled, compressing) = (answers.messages.is_some(), answers.frames.compressing);
        Self { tunnelled, compressing, reason, error: None, data: None, said: false, answered: 0, out: Vec::new() }
    }

    /// Answers a stream: the refused one, or one that its client opened behind it.
    pub fn opened(&mut self, open: &Open) {
        if self.said || self.answered == MAX_ANSWERED {
            return;
        }
        self.answered += 1;
        self.reply(open.stream);
        let place = match open.kind {
            Kind::Error => &mut self.error,
            Kind::Data => &mut self.data,
            Kind::Other => return,
        };
        *place = Some((open.stream, open.request.clone()));
        if let (Some((error, of)), Some((data, same))) = (&self.error, &self.data)
            && of == same
        {
            let (error, data, reason) = (*error, *data, std::mem::take(&mut self.reason));
            self.frame(&error.to_be_bytes(), FIN, reason.as_bytes());
            self.frame(&data.to_be_bytes(), FIN, &[]);
            (self.reason, self.said) = (reason, true);
        }
    }

    /// What is to be sent to the client now, if anything.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// True once the client has been told why.
    pub fn is_said(&self) -> bool {
        self.said
    }

    /// The last bytes before the connection is closed: the reason once more, if there is a place for it.
    pub fn farewell(&mut self) -> Vec<u8> {
        if self.tunnelled {
            let reason = shortened(&self.reason, MAX_CLOSE).as_bytes().to_vec();
            message(&mut self.out, 0x88, &[&POLICY.to_be_bytes(), &reason]);
        }
        self.take()
    }

    /// SYN_REPLY without headers, in stored blocks: those mean the same whatever was compressed before.
    fn reply(&mut self, stream: u32) {
        let mut payload = stream.to_be_bytes().to_vec();
        if !self.compressing {
            // zlib's head, with the name of SPDY's dictionary.
            payload.extend([0x78, 0x20]);
            payload.extend(DICTIONARY_ID.to_be_bytes());
            self.compressing = true;
        }
        payload.extend([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        payload.extend([0, 0, 0, 0xff, 0xff]);
        self.frame(&[0x80, 3, 0, 2], 0, &payload);
    }

    fn frame(&mut self, word: &[u8; 4], flags: u8, payload: &[u8]) {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let parts: [&[u8]; 4] = [word, &[flags], &length, payload];
        match self.tunnelled {
            true => message(&mut self.out, 0x82, &parts),
            false => self.out.extend(parts.concat()),
        }
    }
}

/// One frame of a WebSocket's server.
fn message(out: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    let payload = parts.concat();
    out.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => out.push(length),
        (_, length) => {
            // Nothing here is longer than a reason and its frame.
            out.push(126);
            out.extend(length.unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend(payload);
}

/// The first `most` bytes, less a character that is cut.
fn shortened(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}
