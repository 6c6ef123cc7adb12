//! Records that requests went on by and that are not there any more: what is known of them, and the record that says so.

use jiff::Timestamp;
use serde::Deserialize;
use ztka_core::{AuditId, OrgId};

use crate::{Event, Level, Stage};

/// Records that are missing, or may be. A spool notes each as an event of its own, with annotation `ztka.dev/gap`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Gap {
    /// The machine stopped while the spool was open: what was written and had not been synced, which are starts of reads
    /// and ends of requests, may be gone. Their sequence numbers are used again.
    PowerLoss {
        /// Sequence of the first record that may be missing.
        from: u64,
        /// Time of the last record before it, if it can be read.
        since: Option<Timestamp>,
    },
    /// The quota was reached, and records were dropped as [`WhenFull::DropMetadata`](crate::WhenFull) asks.
    Dropped {
        /// Sequence of the first one.
        from: u64,
        /// Sequence of the last one.
        to: u64,
        /// How many.
        records: u64,
        /// Time of the first one, if it can be read.
        since: Option<Timestamp>,
        /// Time of the last one, if it can be read.
        until: Option<Timestamp>,
    },
}

impl Gap {
    /// Adds a dropped record to what has been `dropped` so far.
    pub(super) fn add(dropped: &mut Option<Self>, sequence: u64, at: Option<Timestamp>) {
        match dropped {
            Some(Self::Dropped { to, records, until, .. }) => {
                *to = sequence;
                *records += 1;
                *until = at.or(*until);
            }
            _ => *dropped = Some(Self::Dropped { from: sequence, to: sequence, records: 1, since: at, until: at }),
        }
    }

    /// The event that stands in the place of what is missing.
    ///
    /// Its two times are those of the last record before and of the note for a loss of power, and of the first and the
    /// last record for what was dropped. `now` is used for times that are not known.
    pub(crate) fn event(&self, now: Timestamp) -> Event {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now);
        event.user.username = "system:ztka".into();
        let annotations = &mut event.annotations;
        // Of whichever organisations the records were.
        annotations.set("org", OrgId::installation().as_str());
        match self {
            Self::PowerLoss { from, since } => {
                annotations.set("gap", "power-loss");
                annotations.set("gap-from", from.to_string());
                annotations.set(
                    "reason",
                    "the machine stopped while the spool was open; records that were not synced may be missing",
                );
                event.request_received_timestamp = since.unwrap_or(now);
            }
            Self::Dropped { from, to, records, since, until } => {
                annotations.set("gap", "dropped");
                annotations.set("gap-from", from.to_string());
                annotations.set("gap-to", to.to_string());
                annotations.set("gap-records", records.to_string());
                annotations.set("reason", "the spool was full, and its oldest records of level Metadata were dropped");
                event.request_received_timestamp = since.unwrap_or(now);
                event.stage_timestamp = until.unwrap_or(now);
            }
        }
        event
    }
}

/// What has to be known of a payload without reading all of it; both of events and of receipts.
#[derive(Deserialize)]
pub(super) struct Glance {
    level: Option<Level>,
    #[serde(rename = "stageTimestamp", alias = "time")]
    pub(super) at: Option<Timestamp>,
    #[serde(default)]
    annotations: Marks,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Marks {
    #[serde(rename = "ztka.dev/gap")]
    gap: Option<String>,
}

impl Glance {
    /// At a payload; what cannot be read has no level and no time.
    pub(super) fn at(payload: &str) -> Self {
        serde_json::from_str(payload).unwrap_or(Self { level: None, at: None, annotations: Marks::default() })
    }

    /// True for events that may be dropped: of level Metadata or less, and not about a gap.
    pub(super) fn is_droppable(&self) -> bool {
        self.level.is_some_and(|level| level <= Level::Metadata) && self.annotations.gap.is_none()
    }
}
