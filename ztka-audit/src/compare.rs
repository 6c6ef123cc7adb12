//! Proxies' events against agents' receipts: whoever keeps something back is found.

use std::{collections::HashMap, fmt, ops::Range};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::AuditId;

use crate::{Event, Receipt};

/// Something that does not fit together.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Finding {
    /// An agent served a request that no proxy has reported.
    ReceiptWithoutEvent {
        /// The request.
        id: AuditId,
    },
    /// A proxy says that a request reached its cluster, and the agent has no receipt for it.
    EventWithoutReceipt {
        /// The request.
        id: AuditId,
    },
    /// Both know the request, but not as the same.
    Differs {
        /// The request.
        id: AuditId,
        /// What differs: `request`, `credential` or `cluster`.
        what: String,
    },
    /// Records are missing from a journal.
    Hole {
        /// Sequence of the first one missing.
        from: u64,
        /// Sequence of the first one after them.
        to: u64,
    },
    /// A record does not follow from the one before it: one of them was changed or exchanged.
    BrokenChain {
        /// Sequence of the record.
        sequence: u64,
    },
}

impl Finding {
    /// A stable word for it, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ReceiptWithoutEvent { .. } => "receipt-without-event",
            Self::EventWithoutReceipt { .. } => "event-without-receipt",
            Self::Differs { .. } => "differs",
            Self::Hole { .. } => "hole",
            Self::BrokenChain { .. } => "broken-chain",
        }
    }

    /// The request, where it is about one.
    pub fn audit_id(&self) -> Option<AuditId> {
        match self {
            Self::ReceiptWithoutEvent { id } | Self::EventWithoutReceipt { id } | Self::Differs { id, .. } => Some(*id),
            Self::Hole { .. } | Self::BrokenChain { .. } => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReceiptWithoutEvent { .. } => {
                f.write_str("the agent served a request that no proxy reported; see which proxy it came through")
            }
            Self::EventWithoutReceipt { .. } => {
                f.write_str("a proxy reported a request as served that the agent has no receipt for")
            }
            Self::Differs { what, .. } => write!(f, "proxy and agent disagree about the {what} of a request"),
            Self::Hole { from, to } => {
                write!(f, "records {from} to {} of the journal are missing", to.saturating_sub(1))
            }
            Self::BrokenChain { sequence } => write!(f, "the journal was changed at or before record {sequence}"),
        }
    }
}

/// Compares the events and the receipts of one cluster, and reports by Audit-ID what does not fit.
///
/// Judged are requests whose time, as the side that knows of them says, lies in `window`. Both sides have to be given
/// whole for longer than that at either end: clocks differ, streams last, and what is not there yet is not missing.
/// Receipts for requests refused before they had a record need no event.
pub fn compare<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    receipts: impl IntoIterator<Item = &'a Receipt>,
    window: &Range<Timestamp>,
) -> Vec<Finding> {
    let mut reported: HashMap<AuditId, Vec<&Event>> = HashMap::new();
    let mut received: HashMap<AuditId, Vec<&Receipt>> = HashMap::new();
    for event in events {
        reported.entry(event.audit_id).or_default().push(event);
    }
    // One that says what is missing is about no request.
    let about_requests = |receipt: &&Receipt| !receipt.cluster.is_empty() && receipt.end != "gap";
    for receipt in receipts.into_iter().filter(about_requests) {
        received.entry(receipt.audit_id).or_default().push(receipt);
    }
    let mut findings = Vec::new();
    for (id, receipts) in &received {
        let Some(receipt) = receipts.first().filter(|receipt| window.contains(&receipt.time)) else { continue };
        let Some(event) = reported.get(id).and_then(|events| events.first()) else {
            findings.push(Finding::ReceiptWithoutEvent { id: *id });
            continue;
        };
        let sides = [
            ("request", receipt.request.as_str(), event.fact("request")),
            ("credential", receipt.credential.as_str(), event.fact("credential")),
            ("cluster", receipt.cluster.as_str(), event.fact("cluster")),
        ];
        let differs = sides.into_iter().find(|(_, receipt, event)| *receipt != event.unwrap_or_default());
        findings.extend(differs.map(|(what, ..)| Finding::Differs { id: *id, what: what.into() }));
    }
    for (id, events) in &reported {
        let reached = events.iter().any(|event| event.fact("reached").is_some());
        let judged = events.first().is_some_and(|event| window.contains(&event.request_received_timestamp));
        if reached && judged && !received.contains_key(id) {
            findings.push(Finding::EventWithoutReceipt { id: *id });
        }
    }
    findings.sort_by_key(Finding::audit_id);
    findings
}

#[cfg(test)]
mod tests;
