//! Passes signed documents on to agents, so that they hear of a change as soon as the proxy does.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast::error::RecvError;
use ztka_core::{DocumentKind, Revision, SeriesKey, SignedDocument};
use ztka_follow::Documents;
use ztka_tunnel::Audience;

/// Of the heads of an organisation so many are passed on: agents hear all of them of the controller itself, and each one costs
/// a request into each tunnel.
const HEADS: SignedDuration = SignedDuration::from_mins(5);

/// Whose agents a document of this series is for, and what it is called. Nobody is given a session, which travels with evidence,
/// nor a policy as a whole: the agents of each cluster have their part of it.
fn audience(series: &SeriesKey) -> Option<(Audience, String)> {
    let name = format!("{}/{}", series.kind, series.subject);
    match (series.kind, &series.org) {
        (DocumentKind::Session, _) => None,
        (DocumentKind::Policy, Some(org)) => {
            let cluster = series.subject.parse().ok()?;
            Some((Audience::Cluster(org.clone(), cluster), name))
        }
        (_, org) => Some((org.clone().into(), name)),
    }
}

/// Tells `publish` of each document that agents are to have, now and whenever there is a newer one: whom it concerns, the name
/// of its series, and its wire form; none when there is no such series any more. Of heads comes one in five minutes, behind what
/// it names. Runs until dropped.
pub async fn publish(documents: Documents, mut publish: impl FnMut(Audience, String, Option<Bytes>)) {
    let mut told: HashMap<SeriesKey, (Revision, Timestamp)> = HashMap::new();
    let (mut changes, mut heads) = (documents.changes(), documents.heads());
    changes.mark_changed();
    let mut passed: HashMap<SeriesKey, Timestamp> = HashMap::new();
    let mut tell = |series: &SeriesKey, document: Option<&SignedDocument>| {
        if let Some((audience, name)) = audience(series) {
            publish(audience, name, document.map(|document| document.to_wire().into()));
        }
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
            for document in &all {
                let header = document.header();
                let (series, place) = (&header.series, (header.revision, header.issued));
                if told.get(series) != Some(&place) {
                    told.insert(series.clone(), place);
                    tell(series, Some(&**document));
                }
            }
            if told.len() > all.len() {
                let gone = |series: &SeriesKey| !all.iter().any(|document| document.header().series == *series);
                let gone: Vec<_> = told.keys().filter(|series| gone(series)).cloned().collect();
                for series in gone {
                    told.remove(&series);
                    tell(&series, None);
                }
            }
        }
        let is_due = |head: &SignedDocument| {
            let last = passed.get(&head.header().series);
            last.is_none_or(|last| head.header().issued.duration_since(*last) >= HEADS)
        };
        if let Some(head) = head.filter(|head| is_due(head)) {
            passed.insert(head.header().series.clone(), head.header().issued);
            tell(&head.header().series, Some(&*head));
        }
    }
}
