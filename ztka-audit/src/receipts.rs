//! The agent's own record of what it did: less than an event, chained by hash, signed when it is sent.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, sync::Arc};
use ztka_core::{AuditId, BoxError, Clock};

use crate::{
    Batch, Durability, End, Event, Journal, Kind, Opening, Recovery, Sink, SinkError, Spool, SpoolError, SpoolOptions,
    Stage, event::micro, spool::Wording,
};

/// That an agent took a request on, or how it ended.
///
/// Sequence, hash of the receipt before and Audit-ID are the [`Record`](crate::Record)'s that carries it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The request.
    #[serde(rename = "auditID")]
    pub audit_id: AuditId,
    /// Received, or complete.
    pub stage: Stage,
    /// When, to the microsecond.
    #[serde(serialize_with = "micro")]
    pub time: Timestamp,
    /// The organisation; empty where it is not known who asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub org: String,
    /// The user's credential.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub credential: String,
    /// The cluster; empty of a request that was refused before it had a record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// RBAC's verb.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verb: String,
    /// Canonical path and query, as in an event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// SHA-256 of verb, method and canonical target, uncut; an event has the same as annotation `ztka.dev/request`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// `allow` or `deny`, when it was decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decision: String,
    /// Why it was denied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// How it ended, as annotation `ztka.dev/end`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub end: String,
    /// Where a request came from that was refused before it had a record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<IpAddr>,
}

impl Receipt {
    /// The receipt for what `event` says.
    pub fn of(event: &Event) -> Self {
        let fact = |name| event.fact(name).unwrap_or_default().to_owned();
        Self {
            audit_id: event.audit_id,
            stage: event.stage,
            time: event.stage_timestamp,
            org: fact("org"),
            credential: fact("credential"),
            cluster: fact("cluster"),
            verb: event.verb.clone(),
            path: event.request_uri.clone(),
            request: fact("request"),
            decision: fact("decision"),
            reason: fact("reason"),
            code: event.response_status.as_ref().map(|status| status.code),
            end: fact("end"),
            source: event.source_ips.clone(),
        }
    }

    /// Reads a receipt from the payload of a record.
    ///
    /// # Errors
    /// What is wrong with the JSON; fields that are not known are passed over.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    fn to_json(&self) -> Vec<u8> {
        crate::event::line(self)
    }
}

/// The journal of an agent: receipts in a [`Spool`] of its own.
#[derive(Clone, Debug)]
pub struct Receipts {
    spool: Spool,
}

impl Receipts {
    /// Opens or makes the receipts of an agent, as [`Spool::open`] does. Blocks.
    ///
    /// # Errors
    /// The directory cannot be used, or another process uses it.
    pub fn open(options: SpoolOptions, clock: &dyn Clock) -> Result<(Self, Recovery), SpoolError> {
        let (spool, recovery) = Spool::open_receipts(options, clock, RECEIPTS)?;
        Ok((Self { spool }, recovery))
    }

    /// Where they are kept, for a [`Follower`](crate::Follower) to send them from.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }
}

impl Journal for Receipts {
    fn open(&self, event: &Event, durability: Durability) -> Opening {
        self.spool.begin(event.audit_id, Receipt::of(event).to_json(), durability)
    }

    fn note(&self, event: &Event) {
        // That an answer has begun is in the event; the receipt of its end says all that is compared.
        if event.stage.is_last() {
            let receipt = Receipt::of(event).to_json();
            self.spool.append(Kind::Close, event.audit_id, receipt);
        }
    }
}

/// What a spool of receipts says by itself.
const RECEIPTS: Wording = Wording {
    interrupted,
    gap: |gap, now| {
        let event = gap.event(now);
        let receipt = Receipt { end: "gap".into(), ..Receipt::of(&event) };
        (receipt.audit_id, receipt.to_json())
    },
};

fn interrupted(id: AuditId, opened: Option<&str>, now: Timestamp) -> Vec<u8> {
    let opened = opened.and_then(|json| Receipt::from_json(json.as_bytes()).ok());
    let mut receipt = opened.unwrap_or_else(|| Receipt::of(&Event::new(id, Stage::ResponseComplete, now)));
    receipt.stage = Stage::ResponseComplete;
    receipt.time = now;
    receipt.end = End::Interrupted.as_str().into();
    receipt.to_json()
}

/// Signs with the sender's key; a closure, so that keys stay where they are.
pub type Sign = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, BoxError> + Send + Sync>;

/// Signs every batch and passes it on.
#[derive(Clone)]
pub struct Signed<S> {
    inner: S,
    sign: Sign,
}

impl<S> Signed<S> {
    /// Signs with `sign` what `inner` delivers.
    pub fn new(inner: S, sign: Sign) -> Self {
        Self { inner, sign }
    }
}

impl<S: fmt::Debug> fmt::Debug for Signed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.inner).finish()
    }
}

#[async_trait]
impl<S: Sink> Sink for Signed<S> {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let sign = self.sign.as_ref();
        let signed = batch.clone().signed(sign).map_err(SinkError::failed)?;
        self.inner.deliver(&signed).await
    }
}
