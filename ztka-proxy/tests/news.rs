//! In which order agents hear of what the proxy hears.
#![allow(clippy::unwrap_used, reason = "a failed test is to panic")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use ztka_core::{Clock as _, DocumentHeader, DocumentKind, Revision, SeriesKey};
use ztka_tunnel::Audience;

#[tokio::test]
async fn a_head_is_handed_on_behind_what_it_names() {
    let made = support::installation().await;
    made.projection("acme", "c1").await;
    let mut told = told(&made);
    let mut next = async || {
        let (audience, name, wire) = timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
        (format!("{audience} {name}"), wire.unwrap())
    };
    assert_eq!(next().await.0, "acme c1 policy/c1");

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
        made.projection("acme", "c1").await;
        let issued = begun + SignedDuration::from_mins(minutes);
        let due = head(issued).await;
        assert_eq!(next().await.0, "acme c1 policy/c1");
        let (name, wire) = next().await;
        assert_eq!((&*name, &*wire), ("acme head/", &*due.to_wire()));
        // Those in between cost a request into each tunnel, and say next to nothing.
        head(issued + SignedDuration::from_secs(10)).await;
    }
    made.projection("acme", "c1").await;
    assert_eq!(next().await.0, "acme c1 policy/c1");
}

#[tokio::test]
async fn each_cluster_is_told_its_part_of_policy_and_nobody_the_whole() {
    let made = support::installation().await;
    let mut told = told(&made);
    let mut next = async || {
        let (audience, name, wire) = timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
        format!("{audience} {name}{}", if wire.is_some() { "" } else { " is gone" })
    };
    for cluster in ["c1", "c2"] {
        made.projection("acme", cluster).await;
        assert_eq!(next().await, format!("acme {cluster} policy/{cluster}"));
    }
    // The policy has one cluster less, and its projection goes.
    made.policy("acme", &["c1"], "view").await;
    assert_eq!(next().await, "acme c2 policy/c2 is gone");
    made.revoke("k9").await;
    assert_eq!(next().await, "acme revocations/");
    assert!(made.documents.all().iter().all(|document| document.header().series.subject != "c2"));
}

/// What is handed on, and to whom.
fn told(made: &support::Installation) -> mpsc::UnboundedReceiver<(String, String, Option<Bytes>)> {
    let (sender, told) = mpsc::unbounded_channel();
    tokio::spawn(ztka_proxy::publish(made.documents.clone(), move |audience, name, wire| {
        let audience = match audience {
            Audience::All => "all".to_owned(),
            Audience::Org(org) => org.to_string(),
            Audience::Cluster(org, cluster) => format!("{org} {cluster}"),
        };
        let _ = sender.send((audience, name, wire));
    }));
    told
}
