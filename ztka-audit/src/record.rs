//! One open record: a guard that closes it when it is dropped, whatever the reason.

use std::{borrow::Cow, thread};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use ztka_core::{
    Access, AuditId, Authenticated, Decision, DecisionSlot, Ending, Farewell, Reason, Reply, RequestAttributes,
    RequestTarget, SentTwice, Status, Upgrade, Via,
};

use crate::{
    Durability, End, Event, Hash, Level, Levels, Opening, Recorder, ResponseStatus, Stage, Unrecorded,
    body::{About, Capture, Content, Rules, Source, Tap, level, recorded},
    event::{MAX_TEXT, argument, clean},
    exit::{Exit, Outcome},
    metered::Metered,
    policy::Said,
    ports::Ports,
    recorder::refuse,
    recording::account::RecordedSession,
};

static AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Most bytes of a command that are recorded.
const MAX_COMMAND: usize = 4096;

/// An open record. Closed when dropped, so that a client that leaves is recorded as well.
#[derive(Debug)]
pub(crate) struct Record {
    recorder: Recorder,
    event: Box<Event>, // a record is moved with its future, its reply and its body
    slot: DecisionSlot,
    durability: Durability,
    long_running: bool,
    head_only: bool,
    port_forward: Option<Upgrade>,
    /// Of an exec or attach.
    session: Option<Upgrade>,
    /// What the audit policy says of it.
    said: Said,
    levels: Option<Levels>,
    /// Its bodies are those of API objects, and have an end.
    has_objects: bool,
    request: Option<Box<Source>>,
    response: Option<Box<Capture>>,
    /// Of a try to stream by WebSocket that has not been granted: who asked for what, where.
    by_web_socket: Option<Hash>,
    received: u64,
    sent: u64,
    expected: Option<u64>,
    end: Option<End>,
    /// Says why somebody of ours has ended it.
    ending: Option<Ending>,
    /// Says how the recording of the session is.
    recording: Option<RecordedSession>,
}

impl Record {
    pub(crate) fn new<B>(recorder: &Recorder, access: &Access<Authenticated, B>, levels: Option<&Levels>) -> Self {
        let now = recorder.now();
        let id = access.recorded_as().unwrap_or_else(AuditId::generate);
        let mut event = Box::new(Event::new(id, Stage::RequestReceived, now));
        event.asked_by(access.principal());
        event.annotations.set("cluster", access.cluster().as_str());
        event.source_ips.extend(access.source());
        if access.recorded_as().is_some() && access.source().is_some() {
            // Only the proxy vouches for it.
            event.annotations.set("source", "asserted");
        }
        if let Some(proxy) = access.handed_on_by() {
            event.annotations.set("from-proxy", proxy.as_str());
        }
        if let Some(agent) = access.headers().get(header::USER_AGENT) {
            event.user_agent = clean(&String::from_utf8_lossy(agent.as_bytes()), MAX_TEXT);
        }
        let (mut durability, mut long_running, mut head_only) = (Durability::Written, false, false);
        let (mut port_forward, mut session, mut by_web_socket) = (None, None, None);
        let (mut said, mut has_objects) = (Said::METADATA, false);
        match access.stage().attributes() {
            Err(malformed) => event.asked_at(malformed.target()),
            Ok(attributes) => {
                describe(&mut event, attributes);
                if attributes.is_mutating() || attributes.is_stream() || attributes.reads_secrets() {
                    durability = Durability::Synced;
                }
                if let Some(levels) = levels {
                    said = levels.say(access.principal(), access.cluster(), attributes);
                    event.level = said.level;
                }
                long_running = attributes.is_long_running();
                has_objects = !long_running && is_about_objects(attributes.target());
                session = attributes.upgrade().filter(|_| is_session(attributes.target()));
                head_only = *attributes.method() == Method::HEAD;
                port_forward = attributes.upgrade().filter(|_| is_port_forward(attributes.target()));
                match attributes.upgrade() {
                    None => {}
                    Some(Upgrade::WebSocket) => by_web_socket = Some(asked(access, attributes)),
                    Some(Upgrade::Spdy31) => {
                        if let Some(before) = recorder.retries().before(asked(access, attributes), now) {
                            event.annotations.set("retry-of", before.to_string());
                        }
                    }
                }
            }
        }
        Self {
            recorder: recorder.clone(),
            event,
            slot: DecisionSlot::default(),
            durability,
            long_running,
            head_only,
            port_forward,
            session,
            said,
            levels: levels.cloned(),
            has_objects,
            request: None,
            response: None,
            by_web_socket,
            received: 0,
            sent: 0,
            expected: None,
            end: None,
            ending: None,
            recording: None,
        }
    }

    /// Returns when the start of the request is durable.
    pub(crate) fn open(&self) -> Opening {
        let event = shown(&self.event);
        self.recorder.journal().open(&event, self.durability)
    }

    /// What keeps the beginning of the request's body, if it may be wanted.
    pub(crate) fn tap(&mut self, headers: &HeaderMap) -> Option<Tap> {
        let limit =
            self.levels.as_ref().filter(|_| self.has_objects && self.durability == Durability::Synced)?.body_limit();
        let (tap, source) = Tap::new(headers, limit, self.said.level, self.slot.clone());
        self.request = Some(Box::new(source));
        Some(tap)
    }

    /// The answer to a request whose record could not be opened.
    pub(crate) fn refuse(mut self, why: &Unrecorded) -> Reply {
        let reason = Reason::Unrecorded(why.to_string());
        refuse(&mut self.event, &reason);
        self.follow(Status::from(&reason).into())
    }

    pub(crate) fn id(&self) -> AuditId {
        self.event.audit_id
    }

    pub(crate) fn slot(&self) -> DecisionSlot {
        self.slot.clone()
    }

    /// A piece of the answer's body on its way to the client.
    pub(crate) fn see_sent(&mut self, data: &[u8]) {
        if let Some(response) = &mut self.response {
            response.take(data);
        }
    }

    /// The command of an exec has ended so.
    pub(crate) fn exited(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Code(code) => self.event.annotations.set("exit-code", code.to_string()),
            Outcome::Failed(message) => self.event.annotations.set("exit-error", message),
        }
    }

    /// Bytes from the far side on their way to the client.
    pub(crate) fn count_sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
        if self.expected.is_some_and(|expected| expected <= self.sent) {
            // A server does not ask for more of a body whose announced length it has.
            self.end(End::Complete);
        }
    }

    /// Bytes from the client on their way to the far side.
    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
    }

    /// These ports of a port-forward have been opened so far. On record before the first byte goes to the newest.
    pub(crate) fn forwards(&mut self, ports: String) {
        self.event.annotations.set("ports", ports);
        self.event.stage_timestamp = self.recorder.now();
        self.note();
    }

    fn note(&self) {
        self.recorder.journal().note(&shown(&self.event));
    }

    /// The client sends what cannot be recorded, and must not go on.
    pub(crate) fn cannot_go_on(&mut self, reason: &str) {
        self.event.annotations.set("reason", clean(reason, MAX_TEXT));
        self.end(End::Unrecorded);
    }

    /// There is no answer.
    pub(crate) fn fail(&mut self) {
        self.not_granted();
        self.end(End::Failed);
    }

    fn not_granted(&mut self) {
        if let Some(asked) = self.by_web_socket.take() {
            self.recorder.retries().not_granted(asked, self.event.audit_id, self.recorder.now());
        }
    }

    /// The far side, or whoever watches over the stream, ended it by an error.
    pub(crate) fn broke(&mut self, error: &(dyn std::error::Error + 'static)) {
        if self.end.is_none() {
            self.event.annotations.set("reason", clean(&error.to_string(), MAX_TEXT));
            self.end(if Farewell::is(error) { End::Stopped } else { End::Failed });
        }
    }

    /// Only the first end counts; none at all is [`End::Cancelled`].
    pub(crate) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Leaves the record open until `reply` has been sent, or the upgraded connection is gone.
    pub(crate) fn follow(mut self, reply: Reply) -> Reply {
        let extensions = match &reply {
            Reply::Response(response) => response.extensions(),
            Reply::Upgraded { head, .. } => head.extensions(),
        };
        self.ending = extensions.get::<Ending>().cloned();
        self.recording = extensions.get::<RecordedSession>().cloned();
        if extensions.get::<SentTwice>().is_some() {
            self.event.annotations.set("sent-twice", "true");
        }
        if let Some(Via(proxy)) = extensions.get() {
            self.event.annotations.set("via", proxy.as_str());
        }
        match reply {
            Reply::Response(mut response) => {
                let status = response.status();
                self.answered(status, response.headers_mut());
                let empty = self.head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                if empty || response.body().is_end_stream() {
                    self.end(End::Complete);
                }
                if let Some(levels) = &self.levels
                    && self.has_objects
                    && level(self.said.level, &self.slot) >= Level::RequestResponse
                {
                    self.response = Some(Box::new(Capture::new(response.headers(), levels.body_limit())));
                }
                self.expected = response.body().size_hint().exact().or_else(|| content_length(response.headers()));
                Reply::Response(response.map(|body| Metered::body(body, self).boxed_unsync()))
            }
            Reply::Upgraded { mut head, io } => {
                let status = head.status();
                let ports = self.port_forward.and_then(|upgrade| Ports::of(upgrade, head.headers()));
                if ports.is_some() {
                    // Whatever the request says, only what is opened counts.
                    self.event.annotations.remove("ports");
                }
                let exit = self.session.and_then(|upgrade| Exit::of(upgrade, head.headers()));
                self.answered(status, head.headers_mut());
                let io = Box::pin(Metered::io(io, self, ports, exit));
                Reply::Upgraded { head, io }
            }
        }
    }

    fn answered(&mut self, status: StatusCode, headers: &mut HeaderMap) {
        if status != StatusCode::SWITCHING_PROTOCOLS {
            self.not_granted();
        }
        let id = self.event.audit_id.to_string();
        // An apiserver answers with the id it was given, and so does an agent: whoever sees it has been reached.
        if headers.get(&AUDIT_ID).is_some_and(|answered| answered.as_bytes() == id.as_bytes()) {
            self.event.annotations.set("reached", "true");
        } else if self.event.fact("from-proxy").is_some() {
            // The proxy that has handed it on would take ours for the agent's; it tells the user itself.
            headers.remove(&AUDIT_ID);
        } else if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(AUDIT_ID.clone(), id);
        }
        self.event.response_status.get_or_insert_with(|| ResponseStatus::from(status));
        if self.long_running {
            self.event.stage = Stage::ResponseStarted;
            self.event.stage_timestamp = self.recorder.now();
            self.decided();
            self.recorded();
            // Of reads alone: a stream's beginning is part of what is certain to be on record.
            if !self.said.omit_started || self.durability == Durability::Synced {
                self.note();
            }
        }
    }

    fn recorded(&mut self) {
        let Some(account) = self.recording.as_ref().map(RecordedSession::account) else { return };
        let annotations = &mut self.event.annotations;
        annotations.set("recording", account.state);
        if let Some((chunks, last)) = account.chunks {
            annotations.set("recording-chunks", chunks.to_string());
            annotations.set("recording-hash", last.to_string());
        }
        if let Some(reason) = account.reason {
            annotations.set("recording-reason", clean(&reason, MAX_TEXT));
        }
        if account.cut {
            self.end = Some(End::Unrecorded);
        }
    }

    fn decided(&mut self) {
        self.event.level = level(self.event.level, &self.slot);
        if matches!(self.slot.get(), Some(Decision::Deny(_))) {
            self.event.level = self.event.level.max(Level::Metadata);
        }
        let annotations = &mut self.event.annotations;
        match self.slot.get() {
            None => {}
            Some(Decision::Allow(grant)) => {
                annotations.set("decision", "allow");
                annotations.set("binding", clean(&grant.binding, MAX_TEXT));
                annotations.set("role", clean(&grant.role, MAX_TEXT));
                annotations.set("policy", grant.policy.to_string());
            }
            Some(Decision::Deny(reason)) => refuse(&mut self.event, reason),
        }
    }
}

impl Record {
    /// Puts the bodies into the event, less what is never recorded.
    fn add_bodies(&mut self) {
        let (Some(levels), Some(object)) = (&self.levels, &self.event.object_ref) else { return };
        let about = About { object, fields: levels.fields(), omit_managed_fields: self.said.omit_managed_fields };
        let (mut rules, mut cut) = (Rules::default(), Vec::new());
        let mut read = |name: &str, content: &Content<'_>| {
            let body = recorded(content, &about, &mut rules);
            cut.extend(body.cut.map(|bytes| format!("{name} by {bytes} bytes")));
            body.value
        };
        let request = self.request.take().filter(|_| self.event.level >= Level::Request);
        let request = request.and_then(|source| source.content(|content| read("requestObject", &content)).flatten());
        let response = self.response.take();
        let response = response.and_then(|capture| read("responseObject", &capture.content()));
        let event = &mut self.event;
        (event.request_object, event.response_object) = (request, response);
        if let Some(rules) = rules.list() {
            event.annotations.set("redacted", rules);
        }
        if !cut.is_empty() {
            let before = event.fact("truncated").map(str::to_owned);
            event.annotations.set("truncated", before.into_iter().chain(cut).collect::<Vec<_>>().join("; "));
        }
    }
}

/// The event as it is written: of level `None` little is left.
fn shown(event: &Event) -> Cow<'_, Event> {
    if event.level == Level::None { Cow::Owned(event.least()) } else { Cow::Borrowed(event) }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = self.recorder.now();
        self.decided();
        self.recorded();
        if self.end != Some(End::Complete)
            && let Some(reason) = self.ending.take().and_then(|ending| ending.reason())
        {
            self.event.annotations.set("reason", clean(&reason.to_string(), MAX_TEXT));
            self.end = Some(End::Denied);
        }
        let end = self.end.unwrap_or(if thread::panicking() { End::Panicked } else { End::Cancelled });
        if self.request.is_some() || self.response.is_some() {
            self.add_bodies();
        }
        let event = &mut self.event;
        event.stage = if end == End::Panicked { Stage::Panic } else { Stage::ResponseComplete };
        event.stage_timestamp = now;
        let micros = now.as_microsecond().saturating_sub(event.request_received_timestamp.as_microsecond()).max(0);
        event.annotations.set("duration", format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
        event.annotations.set("bytes-sent", self.sent.to_string());
        event.annotations.set("bytes-received", self.received.to_string());
        event.annotations.set("end", end.as_str());
        self.note();
    }
}

fn is_port_forward(target: &RequestTarget) -> bool {
    matches!(target, RequestTarget::Resource { subresource: Some(subresource), .. } if subresource == "portforward")
}

/// True for exec and attach.
fn is_session(target: &RequestTarget) -> bool {
    matches!(target, RequestTarget::Resource { subresource: Some(subresource), .. }
        if subresource == "exec" || subresource == "attach")
}

/// True if bodies are API objects; a log is none, nor is what a path of no resource answers.
fn is_about_objects(target: &RequestTarget) -> bool {
    matches!(target, RequestTarget::Resource { subresource, .. } if subresource.as_deref() != Some("log"))
}

fn describe(event: &mut Event, attributes: &RequestAttributes) {
    let target = attributes.path_and_query().as_str();
    event.asked_at(target);
    event.verb = attributes.verb().as_str().into();
    event.asked_for(attributes.target());
    if let Some(Ok(whom)) = attributes.impersonation() {
        event.asked_as(whom);
    }
    event.annotations.set("request", request_digest(attributes).to_string());
    if !attributes.is_stream() {
        return;
    }
    if let Some(upgrade) = attributes.upgrade() {
        event.annotations.set("protocol", upgrade.token());
    }
    for (parameter, name) in [("container", "container"), ("ports", "ports")] {
        let values = attributes.query(parameter);
        if !values.is_empty() {
            event.annotations.set(name, clean(&values.join(","), MAX_TEXT));
        }
    }
    let words = attributes.query("command");
    if let Some(direction) = copies(&words) {
        event.annotations.set("copy", direction);
    }
    let command = command(&words);
    if !command.is_empty() {
        event.annotations.set("command", command);
    }
}

/// Which way `kubectl cp` copies, which runs tar with the archive on standard output or input.
fn copies(words: &[String]) -> Option<&'static str> {
    let [program, options, archive, ..] = words else { return None };
    let options = options.trim_start_matches('-');
    if program.rsplit('/').next() != Some("tar") || archive != "-" || !options.contains('f') {
        return None;
    }
    match (options.contains('c'), options.contains('x')) {
        (true, false) => Some("from-container"),
        (false, true) => Some("to-container"),
        _ => None,
    }
}

/// The words of a command as a JSON list, the last ones left out where it is too long.
fn command(words: &[impl AsRef<str>]) -> String {
    let mut left = MAX_COMMAND;
    let mut kept = Vec::new();
    for word in words {
        let word = argument(word.as_ref(), MAX_TEXT);
        let Some(rest) = left.checked_sub(word.len() + 3) else {
            kept.push("…".to_owned());
            break;
        };
        left = rest;
        kept.push(word);
    }
    // A list of texts always serialises.
    if kept.is_empty() { String::new() } else { serde_json::to_string(&kept).unwrap_or_default() }
}

/// SHA-256 over what is asked, the same on both sides of a tunnel: verb, method and canonical target.
fn request_digest(attributes: &RequestAttributes) -> Hash {
    let mut digest = Sha256::new();
    for part in [attributes.verb().as_str(), attributes.method().as_str(), attributes.path_and_query().as_str()] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    Hash::from(digest)
}

/// Names who asks for what, where, whatever the protocol.
fn asked<B>(access: &Access<Authenticated, B>, attributes: &RequestAttributes) -> Hash {
    let who = access.principal().credential().as_str();
    Hash::of([who, access.cluster().as_str(), attributes.path_and_query().as_str()].join("\n").as_bytes())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
