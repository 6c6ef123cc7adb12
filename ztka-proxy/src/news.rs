//! Passes signed documents on to agents, so that they hear of a change as soon as the proxy does.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast::error::RecvError;
use ztka_core::{OrgId, Revision, SeriesKey, SignedDocument};
use ztka_follow::Documents;

/// Of the heads of an organisation so many are passed on: agents hear all of them of the controller itself, and each one costs
/// a request into each tunnel.
const HEADS: SignedDuration = SignedDuration::from_mins(5);

/// Tells `publish` of each document but sessions (which travel with evidence), now and whenever there is a newer one:
/// the organisation whose agents it concerns (`None` for all), the name of its series, and its wire form. Of heads
/// comes one in five minutes, behind what it names. Runs until dropped.
pub async fn publish(documents: Documents, mut publish: impl FnMut(Option<OrgId>, String, Bytes)) {
    let mut told: HashMap<SeriesKey, (Revision, Timestamp)> = HashMap::new();
    let (mut changes, mut heads) = (documents.changes(), documents.heads());
    changes.mark_changed();
    let mut passed: HashMap<SeriesKey, Timestamp> = HashMap::new();
    let mut tell = |document: &SignedDocument| {
        let series = &document.header().series;
        publish(series.org.clone(), format!("{}/{}", series.kind, series.subject), document.to_wire().into());
    };
    loop {
        let head = tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            head = heads.recv() => match head {
                Ok(head) => Some(head),
                // There are more of them than anybody could pass on; the next ones do as well.
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
        };
        // What a head names was believed before it came, and goes before it.
        if head.is_none() || changes.has_changed().unwrap_or(true) {
            changes.mark_unchanged();
            let mut all = documents.all_but_sessions();
            // Trust first: it says who may have signed the others.
            all.sort_by_key(|document| document.header().series.kind);
            for document in all {
                let header = document.header();
                let (series, place) = (&header.series, (header.revision, header.issued));
                if told.get(series) != Some(&place) {
                    told.insert(series.clone(), place);
                    tell(&document);
                }
            }
        }
        let is_due = |head: &SignedDocument| {
            let last = passed.get(&head.header().series);
            last.is_none_or(|last| head.header().issued.duration_since(*last) >= HEADS)
        };
        if let Some(head) = head.filter(|head| is_due(head)) {
            passed.insert(head.header().series.clone(), head.header().issued);
            tell(&head);
        }
    }
}
