//! Passes signed documents on to agents, so that they hear of a change as soon as the proxy does.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use ztka_core::{OrgId, Revision, SeriesKey};
use ztka_follow::Documents;

/// Tells `publish` of each document but sessions (which travel with evidence), now and whenever there is a newer one:
/// the organisation whose agents it concerns (`None` for all), the name of its series, and its wire form. Runs until
/// dropped.
pub async fn publish(documents: Documents, mut publish: impl FnMut(Option<OrgId>, String, Bytes)) {
    let mut told: HashMap<SeriesKey, (Revision, Timestamp)> = HashMap::new();
    let mut changes = documents.changes();
    loop {
        let mut all = documents.all_but_sessions();
        // Trust first: it says who may have signed the others.
        all.sort_by_key(|document| document.header().series.kind);
        for document in all {
            let header = document.header();
            let (series, place) = (&header.series, (header.revision, header.issued));
            if told.get(series) != Some(&place) {
                told.insert(series.clone(), place);
                publish(series.org.clone(), format!("{}/{}", series.kind, series.subject), document.to_wire().into());
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
