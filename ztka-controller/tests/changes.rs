//! Watching changes: by many, and over HTTP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kit::{Kit, certificate_of};
use tokio::sync::watch;
use tower::ServiceExt as _;
use ztka_authz::Role;
use ztka_controller::store::{ChangeStore, Changes, Conditional, Listing, ResourceStore as _, StoreError, Stores};
use ztka_core::{OrgId, Revision};
use ztka_identity::AdminRole;

/// Counts the questions.
#[derive(Debug)]
struct Counting {
    store: Arc<dyn ChangeStore>,
    questions: Arc<AtomicUsize>,
}

#[async_trait]
impl ChangeStore for Counting {
    async fn list(&self, org: Option<&OrgId>) -> Result<Listing, StoreError> {
        self.store.list(org).await
    }

    async fn changes(&self, org: Option<&OrgId>, after: Revision, limit: u32) -> Result<Changes, StoreError> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.store.changes(org, after, limit).await
    }

    fn at_version(&self, version: u64) -> Conditional {
        self.store.at_version(version)
    }

    fn hint(&self) -> watch::Receiver<u64> {
        self.store.hint()
    }
}

async fn create_role(kit: &Kit, org: &OrgId, name: &str) {
    let role = Role { name: name.into(), ..Role::default() };
    kit.store.create_role(org, &name.parse().unwrap(), &role).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_watchers_see_everything_and_ask_the_store_once() {
    const WATCHERS: usize = 2000;
    const CHANGES: usize = 30;
    let mut kit = Kit::new().await;
    let org = kit.org("acme").await.id;
    let questions = Arc::new(AtomicUsize::new(0));
    let counting = Counting { store: kit.stores.changes.clone(), questions: questions.clone() };
    kit.stores = Stores { changes: Arc::new(counting), ..kit.stores.clone() };
    let controller = kit.another().await;

    let listing = kit.stores.changes.list(Some(&org)).await.unwrap();
    let (ready, mut started) = tokio::sync::mpsc::channel(WATCHERS);
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let mut watch = controller.watch_changes(org.clone(), listing.revision);
            let ready = ready.clone();
            tokio::spawn(async move {
                let mut version = watch.revision().version;
                ready.send(()).await.unwrap();
                let mut seen = 0;
                while seen < CHANGES {
                    for change in watch.next().await.unwrap() {
                        assert_eq!(change.version, version + 1, "no version is skipped or seen twice");
                        (version, seen) = (change.version, seen + 1);
                    }
                }
                seen
            })
        })
        .collect();
    for _ in 0..WATCHERS {
        started.recv().await.unwrap();
    }
    for number in 0..CHANGES {
        create_role(&kit, &org, &format!("role-{number}")).await;
    }
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), CHANGES);
    }
    // Each at its beginning, once more if it fell behind; and the one reader.
    let asked = questions.load(Ordering::Relaxed);
    assert!(asked < 3 * WATCHERS, "{asked} questions to the store for {WATCHERS} watchers of {CHANGES} changes");
}

#[tokio::test]
async fn over_http_one_lists_and_watches_and_is_told_to_begin_again() {
    let kit = Kit::new().await;
    let org = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&org, "boss", Some(AdminRole::OrgAdmin)).await);
    let path = format!("/api/v1/orgs/{org}/changes");
    let (status, listing) = kit.call(Some(admin.clone()), "GET", &path, "").await;
    assert_eq!(status, StatusCode::OK);
    let revision = listing["revision"].as_str().unwrap().to_owned();
    let kinds: Vec<_> = listing["resources"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["org", "user", "credential"]);

    let mut request = Request::get(format!("{path}?from={revision}")).body(Body::empty()).unwrap();
    request.extensions_mut().insert(admin.clone());
    let mut watch = kit.controller.api().oneshot(request).await.unwrap().into_body();
    let mut line = async || watch.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(line().await, format!("{{\"revision\":\"{revision}\",\"bookmark\":true}}\n"));
    create_role(&kit, &org, "reader").await;
    let line: ztka_api::ChangeLine = serde_json::from_slice(&line().await).unwrap();
    assert_eq!((line.kind.as_deref(), line.name.as_deref()), (Some("role"), Some("reader")));
    let (before, after): (Revision, Revision) = (revision.parse().unwrap(), line.revision.parse().unwrap());
    assert_eq!((after.epoch, after.version), (before.epoch, before.version + 1));

    for gone in [format!("{}.1000", before.epoch), format!("{}.1", before.epoch + 1)] {
        let (status, problem) = kit.call(Some(admin.clone()), "GET", &format!("{path}?from={gone}"), "").await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::GONE, Some("gone")), "{problem}");
    }
    let (status, _) = kit.call(Some(admin), "GET", &format!("{path}?from=yesterday"), "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_controller_changes_another_shows_over_postgresql() {
    let Some(server) = ztka_test_postgres::Server::shared_or_skip().unwrap() else { return };
    let location = ztka_store::Location::Postgres(server.database().unwrap());
    let (one, two) = (Kit::over(&location).await, Kit::over(&location).await);
    let org = one.org("acme").await.id;
    let revision = two.stores.changes.list(Some(&org)).await.unwrap().revision;
    let mut watch = two.controller.watch_changes(org.clone(), revision);
    create_role(&one, &org, "reader").await;
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].version, revision.version + 1);

    // Both sign what is due; each goes by what was signed first.
    let signed = one.controller.publish_due().await.unwrap() + two.controller.publish_due().await.unwrap();
    assert!(signed > 0);
    assert_eq!(one.controller.publish_due().await.unwrap() + two.controller.publish_due().await.unwrap(), 0);
    let feed = |kit: &Kit| kit.stores.documents.clone();
    assert_eq!(feed(&one).feed_head().await.unwrap(), feed(&two).feed_head().await.unwrap());
}

#[tokio::test]
async fn what_somebody_else_has_changed_is_not_changed_blindly() {
    let kit = Kit::new().await;
    let org = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&org, "boss", Some(AdminRole::OrgAdmin)).await);
    create_role(&kit, &org, "reader").await;
    let listing = kit.stores.changes.list(Some(&org)).await.unwrap();
    let version = listing.resources.iter().find(|listed| listed.name == "reader").unwrap().version;
    let delete = async |expected: &str| {
        let mut request = Request::delete(format!("/api/v1/orgs/{org}/roles/reader"));
        request = request.header("if-match", expected);
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(admin.clone());
        kit.controller.api().oneshot(request).await.unwrap().status()
    };
    assert_eq!(delete("reader").await, StatusCode::BAD_REQUEST);
    assert_eq!(delete(&format!("\"{}\"", version + 1)).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(delete(&format!("\"{version}\"")).await, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn who_may_no_longer_watch_sees_nothing_of_what_comes_then() {
    let kit = Kit::new().await;
    let org = kit.org("acme").await.id;
    let boss = kit.user(&org, "boss", Some(AdminRole::OrgAdmin)).await;
    let revision = kit.stores.changes.list(Some(&org)).await.unwrap().revision;
    let mut request = Request::get(format!("/api/v1/orgs/{org}/changes?from={revision}")).body(Body::empty()).unwrap();
    request.extensions_mut().insert(certificate_of(&boss));
    let mut watch = kit.controller.api().oneshot(request).await.unwrap().into_body();
    assert!(watch.frame().await.is_some(), "a bookmark");
    kit.controller.directory().disable(&boss.user.id).await.unwrap();
    // However busy the organisation is: nothing waits for a moment without news.
    create_role(&kit, &org, "secret-project").await;
    let next = watch.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
    assert_eq!(next, None);
}
