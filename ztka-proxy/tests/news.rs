//! In which order agents hear of what the proxy hears.
#![allow(clippy::unwrap_used, reason = "a failed test is to panic")]

mod support;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use ztka_core::{Clock as _, DocumentHeader, DocumentKind, Revision, SeriesKey};

#[tokio::test]
async fn a_head_is_handed_on_behind_what_it_names() {
    let made = support::installation().await;
    let (sender, mut told) = mpsc::unbounded_channel();
    tokio::spawn(ztka_proxy::publish(made.documents.clone(), move |org, name, wire| {
        let _ = sender.send((org.unwrap().to_string(), name, wire));
    }));
    let mut next = async || {
        let (org, name, wire) = timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
        (format!("{org} {name}"), wire)
    };
    let mut first = [next().await.0, next().await.0];
    first.sort();
    assert_eq!(first, ["acme policy/", "globex policy/"]);

    let mut version = 100;
    let mut head = async |issued: Timestamp| {
        version += 1;
        let header = DocumentHeader {
            series: SeriesKey { kind: DocumentKind::Head, org: Some("acme".parse().unwrap()), subject: String::new() },
            revision: Revision { epoch: 0, version },
            issued,
            expires: issued + SignedDuration::from_hours(24),
        };
        let head = made.hierarchy.sign_document(header, &json!({"newest": []})).await.unwrap();
        assert_eq!(made.documents.accept(head.clone()), Ok(true));
        head
    };
    let begun = made.clock.now() - SignedDuration::from_mins(30);
    for minutes in [0, 5, 10] {
        made.policy("acme", &["c1"], "view").await;
        let issued = begun + SignedDuration::from_mins(minutes);
        let due = head(issued).await;
        assert_eq!(next().await.0, "acme policy/");
        let (name, wire) = next().await;
        assert_eq!((&*name, &*wire), ("acme head/", &*due.to_wire()));
        // Those in between cost a request into each tunnel, and say next to nothing.
        head(issued + SignedDuration::from_secs(10)).await;
    }
    made.policy("acme", &["c1"], "view").await;
    assert_eq!(next().await.0, "acme policy/");
}
