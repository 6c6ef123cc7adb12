//! Further agents of a cluster by its credential, over the controller's store and on its record.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use http::StatusCode;
use jiff::SignedDuration;
use kit::{Kit, call, certificate_of, csr, peer};
use serde_json::Value;
use ztka_core::{SpiffeId, Verified};
use ztka_identity::AdminRole;
use ztka_pki::Peer;

struct World {
    kit: Kit,
    admin: Verified<Peer>,
    cluster: String,
}

impl World {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let acme = kit.org("acme").await.id;
        let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
        let clusters = format!("/api/v1/orgs/{acme}/clusters");
        let (_, made) = kit.call(Some(admin.clone()), "POST", &clusters, r#"{"name": "dev"}"#).await;
        let cluster = format!("{clusters}/{}", made["id"].as_str().unwrap());
        Self { kit, admin, cluster }
    }

    async fn api(&self, method: &str, path: &str) -> Value {
        let (status, answer) = self.kit.call(Some(self.admin.clone()), method, path, "").await;
        assert!(status.is_success(), "{method} {path}: {answer}");
        answer
    }

    /// Whom a token lets in.
    async fn first(&self) -> Verified<Peer> {
        let path = format!("{}/tokens", self.cluster);
        let (_, token) = self.kit.call(Some(self.admin.clone()), "POST", &path, "{}").await;
        let body = format!(r#"{{"token": {}, "csr": {}}}"#, token["token"], csr().1);
        let (status, answer) = call(self.kit.controller.enrol(), None, "POST", "/v1/enrol", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        named(&answer)
    }

    async fn ask(&self, by: &Verified<Peer>, csr: &str) -> (StatusCode, Value) {
        let body = format!(r#"{{"csr": {csr}}}"#);
        call(self.kit.controller.agents(), Some(by.clone()), "POST", "/v1/instances", &body).await
    }

    async fn instances(&self) -> usize {
        self.api("GET", &self.cluster).await["instances"].as_array().unwrap().len()
    }
}

fn named(answer: &Value) -> Verified<Peer> {
    let id: SpiffeId = answer["id"].as_str().unwrap().parse().unwrap();
    peer(id.subject)
}

#[tokio::test]
async fn each_is_listed_on_record_and_gone_with_its_cluster() {
    let world = World::new().await;
    let first = world.first().await;
    let mine = csr().1;
    let (status, answer) = world.ask(&first, &mine).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, again) = world.ask(&first, &mine).await;
    assert_eq!(answer["id"], again["id"]);
    let second = named(&answer);
    assert_ne!(first.id, second.id);
    let (status, refused) = world.ask(&second, &csr().1).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{refused}");
    assert_eq!(world.instances().await, 2, "known before it can connect, so that it can be revoked");

    let org = world.cluster.split("/clusters").next().unwrap();
    let events = world.api("GET", &format!("{org}/events?limit=200")).await;
    let asked: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["event"])
        .filter(|event| event["requestURI"] == "/v1/instances")
        .collect();
    assert_eq!(asked.len(), 3, "{events}");
    let allowed = asked.iter().filter(|event| event["annotations"]["ztka.dev/decision"] == "allow");
    for event in allowed.clone() {
        assert_eq!(event["user"]["username"], first.id.subject.to_string(), "whose word it was: {event}");
        let instance = event["annotations"]["ztka.dev/instance"].as_str().unwrap();
        assert!(second.id.to_string().ends_with(instance), "{event}");
    }
    assert_eq!(allowed.count(), 2);

    // Both end with the cluster, and nobody comes after them.
    world.api("DELETE", &world.cluster.clone()).await;
    world.kit.controller.publish_due().await.unwrap();
    world.kit.clock.advance(SignedDuration::from_secs(1));
    for by in [&first, &second] {
        let (status, refused) = world.ask(by, &csr().1).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("revoked"), "{refused}");
    }
}

#[tokio::test]
async fn only_agents_ask() {
    let world = World::new().await;
    let first = world.first().await;
    let body = format!(r#"{{"csr": {}}}"#, csr().1);
    let agents = || world.kit.controller.agents();
    let (status, _) = call(agents(), None, "POST", "/v1/instances", &body).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = call(agents(), Some(world.admin.clone()), "POST", "/v1/instances", &body).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = call(agents(), Some(first.clone()), "GET", "/v1/instances", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    // Proxies and newcomers have no such route.
    for router in [world.kit.controller.proxies(), world.kit.controller.enrol()] {
        let (status, _) = call(router, Some(first.clone()), "POST", "/v1/instances", &body).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    assert_eq!(world.instances().await, 1);
}
