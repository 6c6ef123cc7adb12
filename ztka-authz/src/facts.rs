//! What is known around a question: time, address, how the user has proved who they are. Nothing of it is looked up here.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::{AuditLevel, MfaStrength};

/// What is known of a request beside who asks what. Whatever is left out fulfils no condition. Attributes of the user are
/// no fact of a request: they come with the session, as groups do ([`Principal::attributes`](ztka_core::Principal::attributes)).
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub(crate) now: Timestamp,
    pub(crate) source: Option<IpAddr>,
    pub(crate) mfa: Option<Mfa>,
    pub(crate) command: Option<&'a [&'a str]>,
    pub(crate) supported: Supported,
}

/// When and how a user has given a second factor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mfa {
    /// When.
    pub at: Timestamp,
    /// How.
    pub strength: MfaStrength,
}

/// The obligations that whoever asks can see to; by default none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Supported {
    /// Audit events up to this level.
    pub audit: Option<AuditLevel>,
    /// Recordings of sessions.
    pub record: bool,
    /// Ends of streams.
    pub max_duration: bool,
    /// Second factors asked for in the middle of a session.
    pub step_up: bool,
}

impl Supported {
    /// What every server does by itself: each request leaves an event, which says as much.
    pub const ALWAYS: Self =
        Self { audit: Some(AuditLevel::Metadata), record: false, max_duration: false, step_up: false };

    /// What our own servers do together: proxies record bodies where a binding asks for it, and what is open is watched
    /// ([`CutLayer`](crate::CutLayer)), and ended.
    pub const WATCHED: Self = Self { audit: Some(AuditLevel::RequestResponse), max_duration: true, ..Self::ALWAYS };

    /// The same where sessions are recorded, here or by whom they come from.
    pub const RECORDED: Self = Self { record: true, ..Self::WATCHED };

    /// Every obligation there is; for tools that ask what policy says, not whether a server can do it.
    pub const ALL: Self =
        Self { audit: Some(AuditLevel::RequestResponse), record: true, max_duration: true, step_up: true };
}

impl<'a> Facts<'a> {
    /// Only the time is known.
    pub fn at(now: Timestamp) -> Self {
        Self { now, source: None, mfa: None, command: None, supported: Supported::default() }
    }

    /// The user's address. What only a proxy vouches for may be put in: it fulfils conditions, it never lifts one.
    #[must_use]
    pub fn from_source(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }

    /// The second factor that was given last.
    #[must_use]
    pub fn with_mfa(mut self, mfa: Option<Mfa>) -> Self {
        self.mfa = mfa;
        self
    }

    /// The command of an exec, program first.
    #[must_use]
    pub fn running(mut self, command: &'a [&'a str]) -> Self {
        self.command = Some(command);
        self
    }

    /// The obligations that whoever asks can see to.
    #[must_use]
    pub fn supporting(mut self, supported: Supported) -> Self {
        self.supported = supported;
        self
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }
}
