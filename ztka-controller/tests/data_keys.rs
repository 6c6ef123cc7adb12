//! Data keys are replaced by the API, on record, and only by who may.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use http::StatusCode;
use jiff::SignedDuration;
use kit::{Kit, certificate_of};
use serde_json::Value;
use ztka_audit::EventQuery;
use ztka_identity::AdminRole;

#[tokio::test]
async fn an_organisations_data_key_is_replaced_and_the_one_before_goes() {
    let kit = Kit::starting_at(&jiff::Timestamp::now().to_string()).await;
    let acme = kit.org("acme").await.id;
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    kit.user(&acme, "alice", None).await;
    kit.controller.work_off().await.unwrap();
    let by = || Some(certificate_of(&boss));
    let path = format!("/api/v1/orgs/{acme}/data-keys");
    let count = |keys: &Value| keys["keys"].as_array().unwrap().len();
    let (_, before) = kit.call(by(), "GET", &path, "").await;
    assert_eq!((count(&before), before.get("sealing")), (1, None), "{before}");

    let (status, keys) = kit.call(by(), "POST", &path, "").await;
    assert_eq!((status, count(&keys)), (StatusCode::CREATED, 2), "{keys}");
    assert_eq!(keys["sealing"]["done"], 0, "{keys}");
    assert_eq!(keys["keys"][1], before["keys"][0], "newest first");
    let (status, problem) = kit.call(by(), "POST", &path, "").await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(problem["action"], "wait until that is done");

    assert!(kit.controller.work_off().await.unwrap() > 0);
    let (_, keys) = kit.call(by(), "GET", &path, "").await;
    assert_eq!((count(&keys), keys.get("sealing")), (2, None), "sealed, and kept for who has not heard: {keys}");
    let (_, users) = kit.call(by(), "GET", &format!("/api/v1/orgs/{acme}/users"), "").await;
    assert_eq!(users.as_array().unwrap().len(), 2);
    // Gone through once more, with time in between.
    kit.clock.advance(SignedDuration::from_hours(2));
    kit.controller.work_off().await.unwrap();
    kit.controller.work_off().await.unwrap();
    assert_eq!(kit.stores.jobs.data_keys(Some(&acme)).await.unwrap().len(), 1);

    // Before anything happened it was on record.
    let recorded = kit.stores.events.query(&EventQuery { limit: 1000, ..EventQuery::default() }).await.unwrap();
    let paths = recorded.iter().map(|stored| (stored.event.verb.as_str(), stored.event.request_uri.as_str()));
    assert!(paths.clone().any(|(_, uri)| uri == path), "{:?}", paths.collect::<Vec<_>>());
}

#[tokio::test]
async fn master_keys_are_listed_with_what_they_wrap() {
    let kit = Kit::new().await;
    let root = kit.system_admin().await;
    let by = || Some(certificate_of(&root));
    kit.org("acme").await;
    let (status, keys) = kit.call(by(), "GET", "/api/v1/master-keys", "").await;
    assert_eq!(status, StatusCode::OK, "{keys}");
    let [only] = keys["keys"].as_array().unwrap().as_slice() else { unreachable!("{keys}") };
    assert_eq!((&only["current"], &only["configured"]), (&true.into(), &true.into()));
    assert!(only["data_keys"].as_u64().unwrap() >= 2, "{keys}");
    let (status, keys) = kit.call(by(), "POST", "/api/v1/master-keys/rewrap", "").await;
    assert_eq!((status, &keys["rewrapping"]["done"]), (StatusCode::ACCEPTED, &0.into()), "{keys}");
    kit.controller.work_off().await.unwrap();
    let (_, keys) = kit.call(by(), "GET", "/api/v1/master-keys", "").await;
    assert_eq!(keys.get("rewrapping"), None, "{keys}");
}
