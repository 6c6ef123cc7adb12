//! What followers are told of the newest documents: by heads, behind them, and only if they have asked.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::{collections::BTreeMap, time::Duration};

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use kit::{Kit, peer};
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt as _;
use ztka_controller::Controller;
use ztka_core::{
    Clock as _, ClusterId, DocumentKind, HEADS, Head, InstanceId, OrgId, ProxyId, Revision, SeriesKey, SignedDocument,
    Subject,
};

/// Nothing here takes longer unless it hangs.
const BOUND: Duration = Duration::from_secs(60);

/// What one follower has been told.
struct Following {
    body: Body,
    rest: Vec<u8>,
    held: BTreeMap<SeriesKey, Revision>,
}

impl Following {
    async fn begin(controller: &Controller, subject: Subject) -> Self {
        let router = match &subject {
            Subject::Proxy(_) => controller.proxies(),
            _ => controller.agents(),
        };
        let mut request = Request::get("/v1/documents?from=0").header(&HEADS, "1").body(Body::empty()).unwrap();
        request.extensions_mut().insert(peer(subject));
        let body = router.oneshot(request).await.unwrap().into_body();
        Self { body, rest: Vec::new(), held: BTreeMap::new() }
    }

    async fn agent(controller: &Controller, org: &OrgId, cluster: &ClusterId) -> Self {
        let (cluster, instance) = (cluster.clone(), InstanceId::generate());
        Self::begin(controller, Subject::Agent { org: org.clone(), cluster, instance }).await
    }

    async fn line(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let frame = timeout(BOUND, self.body.frame()).await.unwrap().unwrap().unwrap();
            self.rest.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// The next head; whatever comes before it is noted, and there is a bookmark behind it.
    async fn head(&mut self) -> SignedDocument {
        loop {
            let line = self.line().await;
            if line["document"].is_null() {
                continue;
            }
            let document = SignedDocument::from_wire(line["document"].to_string().as_bytes()).unwrap();
            let header = document.header().clone();
            if header.series.kind != DocumentKind::Head {
                self.held.insert(header.series, header.revision);
                continue;
            }
            while self.line().await["bookmark"] != true {}
            return document;
        }
    }

    /// What is held of what an organisation's agents are told.
    fn held_of(&self, org: &OrgId) -> BTreeMap<SeriesKey, Revision> {
        let concerns =
            |series: &SeriesKey| series.kind != DocumentKind::Session && series.org.as_ref().is_none_or(|of| of == org);
        let held = self.held.iter().filter(|(series, _)| concerns(series));
        held.map(|(series, revision)| (series.clone(), *revision)).collect()
    }
}

fn named(head: &SignedDocument, kit: &Kit) -> BTreeMap<SeriesKey, Revision> {
    let head = head.clone().accept(&kit.controller.hierarchy().trust_bundle(), None, kit.clock.now()).unwrap();
    head.body::<Head>().unwrap().newest.iter().map(|newest| (newest.series(), newest.revision)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_that_what_it_has_is_all_there_is() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    kit.org("other").await;
    kit.user(&acme, "alice", None).await;
    let cluster = kit.cluster(&acme, "one").await;
    kit.cluster(&acme, "two").await;
    kit.controller.publish_due().await.unwrap();
    let running = kit.controller.clone();
    tokio::spawn(async move { running.run(std::future::pending()).await });
    let mut agent = Following::agent(&kit.controller, &acme, &cluster).await;
    let head = agent.head().await;
    assert_eq!(head.header().series.org.as_ref(), Some(&acme));
    assert_eq!(head.header().issued, kit.clock.now());
    let kinds: Vec<_> = agent.held.keys().map(|series| series.kind).collect();
    assert_eq!(
        kinds,
        [DocumentKind::Trust, DocumentKind::Policy, DocumentKind::Revocations, DocumentKind::Revocations],
        "its own organisation's and the installation's, and no sessions"
    );
    // The policy is named, and the agent has its part of it at the same version.
    let projection = agent.held.remove(&SeriesKey::projection(acme.clone(), &cluster)).unwrap();
    agent.held.insert(SeriesKey::policy(acme.clone()), projection);
    assert_eq!(named(&head, &kit), agent.held_of(&acme));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_of_every_organisation_and_of_a_new_one_with_its_documents() {
    let kit = Kit::new().await;
    let running = kit.controller.clone();
    tokio::spawn(async move { running.run(std::future::pending()).await });
    let mut proxy = Following::begin(&kit.controller, Subject::Proxy(ProxyId::generate())).await;
    let head = proxy.head().await;
    assert_eq!(head.header().series.org, Some(OrgId::installation()));
    assert_eq!(named(&head, &kit), proxy.held_of(&OrgId::installation()));
    let first = head.header().revision;
    let acme = kit.org("acme").await.id;
    loop {
        let head = proxy.head().await;
        assert!(head.header().revision >= first, "it never goes back");
        let (named, held) = (named(&head, &kit), proxy.held_of(&acme));
        let is_held = |(series, revision): (&SeriesKey, &Revision)| proxy.held.get(series) >= Some(revision);
        assert!(named.iter().all(is_held), "{named:?} is behind what it names");
        // Of the first one after the organisation was made, or of one that comes when all its documents are there.
        if head.header().series.org.as_ref() == Some(&acme) && named == held {
            assert!(head.header().revision > first);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_two_controllers_are_of_one_order() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    kit.controller.publish_due().await.unwrap();
    let mut heads = Vec::new();
    for controller in [kit.controller.clone(), kit.another().await] {
        let running = controller.clone();
        tokio::spawn(async move { running.run(std::future::pending()).await });
        heads.push(Following::agent(&controller, &acme, &ClusterId::generate()).await.head().await);
    }
    let place = |head: &SignedDocument| (head.header().revision, head.header().issued);
    assert!(heads.first().map(place) <= heads.last().map(place), "the place in the feed, which is one for all");
}
