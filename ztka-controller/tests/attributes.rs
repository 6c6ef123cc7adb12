//! Attributes of users: who may set them, how many, what is on record, and what the sessions say.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kit::{Kit, certificate_of};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use ztka_audit::EventQuery;
use ztka_controller::store::{DocumentStore as _, FeedScope};
use ztka_core::{Attributes, DocumentKind, OrgId, Session, SignedDocument};
use ztka_identity::{AdminRole, Caller, IdentityStore as _};

struct World {
    kit: Kit,
    org: OrgId,
    /// An owner, an administrator by a role, a user, another one.
    owner: Caller,
    admin: Caller,
    alice: Caller,
    bob: Caller,
}

impl World {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let org = kit.org("acme").await.id;
        let owner = kit.user(&org, "owner", Some(AdminRole::OrgAdmin)).await;
        let (admin, alice) = (kit.user(&org, "admin", None).await, kit.user(&org, "alice", None).await);
        let bob = kit.user(&org, "bob", None).await;
        Self { kit, org, owner, admin, alice, bob }
    }

    async fn send(
        &self,
        by: &Caller,
        method: &str,
        path: &str,
        body: &Value,
        seen: Option<u64>,
    ) -> (StatusCode, Value) {
        let path = format!("/api/v1/orgs/{}/{path}", self.org);
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(seen) = seen {
            request = request.header(header::IF_MATCH, format!("\"{seen}\""));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(certificate_of(by));
        let response = self.kit.controller.api().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// What becomes of attributes of a user when `by` sets these.
    async fn set(&self, by: &Caller, of: &Caller, attributes: Value) -> (StatusCode, Value) {
        let path = format!("users/{}", of.user.id);
        self.send(by, "PATCH", &path, &json!({ "attributes": attributes }), None).await
    }

    async fn policy(&self, policy: Value) {
        let (status, answer) = self.send(&self.owner, "PUT", "policy", &policy, None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// What the newest session document of a credential says.
    async fn session(&self, of: &Caller) -> Session {
        self.kit.controller.publish_due().await.unwrap();
        let keys = self.kit.controller.hierarchy().trust_bundle();
        let now = self.kit.controller_now();
        let mut found = None;
        for entry in self.kit.store.feed(&FeedScope::Installation, 0, 1000).await.unwrap() {
            let document = SignedDocument::from_wire(&entry.wire).unwrap().accept(&keys, None, now).unwrap();
            let series = &document.header().series;
            if series.kind == DocumentKind::Session && series.subject == of.credential.id.as_str() {
                found = Some(document.body().unwrap());
            }
        }
        found.unwrap()
    }
}

#[tokio::test]
async fn an_owner_sets_and_removes_them_and_each_session_says_so() {
    let world = World::new().await;
    assert_eq!(world.session(&world.alice).await.attributes, Attributes::new());
    let (status, user) = world.set(&world.owner, &world.alice, json!({"team": "shop", "site": "a b/c"})).await;
    assert_eq!((status, &user["attributes"]), (StatusCode::OK, &json!({"team": "shop", "site": "a b/c"})));
    let said = world.session(&world.alice).await.attributes;
    assert_eq!(said, Attributes::from([("site".into(), "a b/c".into()), ("team".into(), "shop".into())]));
    assert_eq!(world.session(&world.bob).await.attributes, Attributes::new(), "another's");

    // What is not named stays.
    let (_, user) = world.set(&world.owner, &world.alice, json!({"site": null, "none": null})).await;
    assert_eq!(user["attributes"], json!({"team": "shop"}));
    assert_eq!(world.session(&world.alice).await.attributes, Attributes::from([("team".into(), "shop".into())]));
    // They see what is said of them.
    let (status, user) =
        world.send(&world.alice, "GET", &format!("users/{}", world.alice.user.id), &json!(null), None).await;
    assert_eq!((status, &user["attributes"]), (StatusCode::OK, &json!({"team": "shop"})));
    // And so for an owner's own.
    let (status, user) = world.set(&world.owner, &world.owner, json!({"team": "ops"})).await;
    assert_eq!((status, &user["attributes"]), (StatusCode::OK, &json!({"team": "ops"})));

    // The record says what, of a refusal only that it was one.
    assert_eq!(world.set(&world.bob, &world.alice, json!({"team": "pay"})).await.0, StatusCode::FORBIDDEN);
    let events = world.kit.stores.events.query(&EventQuery { limit: 1000, ..EventQuery::default() }).await.unwrap();
    let patches: Vec<_> = events.iter().filter(|stored| stored.event.verb == "patch").collect();
    let said: Vec<_> = patches.iter().filter_map(|stored| stored.event.fact("attributes")).collect();
    assert!(said.contains(&"site=a b/c team=shop") && said.contains(&"-none -site"), "{said:?}");
    let refused = patches.iter().find(|stored| stored.event.fact("decision") == Some("deny")).unwrap();
    assert_eq!((refused.event.user.username.as_str(), refused.event.fact("attributes")), ("bob", None));
}

#[tokio::test]
async fn nobody_sets_their_own_who_is_no_administrator() {
    let world = World::new().await;
    for by in [&world.alice, &world.bob] {
        let (status, answer) = world.set(by, &world.alice, json!({"team": "shop"})).await;
        assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")), "{answer}");
    }
    assert_eq!(world.session(&world.alice).await.attributes, Attributes::new());
}

#[tokio::test]
async fn an_older_version_is_not_changed_and_changes_of_others_are_not_lost() {
    let world = World::new().await;
    let path = format!("users/{}", world.alice.user.id);
    let version = |listing: Value| {
        let resources = listing["resources"].as_array().unwrap().clone();
        let is = |one: &Value| one["kind"] == "user" && one["name"] == world.alice.user.id.as_str();
        resources.iter().find(|one| is(one)).unwrap()["version"].as_u64().unwrap()
    };
    let seen = version(world.send(&world.owner, "GET", "changes", &json!(null), None).await.1);
    let team = json!({"attributes": {"team": "shop"}});
    assert_eq!(world.send(&world.owner, "PATCH", &path, &team, Some(seen)).await.0, StatusCode::OK);
    let (status, answer) = world.send(&world.owner, "PATCH", &path, &team, Some(seen)).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{answer}");
    let now = version(world.send(&world.owner, "GET", "changes", &json!(null), None).await.1);
    assert!(now > seen);
    let site = json!({"attributes": {"site": "a"}});
    assert_eq!(world.send(&world.owner, "PATCH", &path, &site, Some(now)).await.0, StatusCode::OK);

    // Many at once, of whom each changes another one.
    let one = |number: usize| {
        let world = &world;
        async move { world.set(&world.owner, &world.alice, json!({format!("k{number}"): "v"})).await.0 }
    };
    let (a, b, c, d) = tokio::join!(one(0), one(1), one(2), one(3));
    assert_eq!([a, b, c, d], [StatusCode::OK; 4]);
    assert_eq!(world.session(&world.alice).await.attributes.len(), 6);
}

#[tokio::test]
async fn bad_ones_are_refused_as_a_whole() {
    let world = World::new().await;
    let many: serde_json::Map<_, _> = (0..33).map(|number| (format!("k{number}"), json!("v"))).collect();
    let large: serde_json::Map<_, _> = (0..20).map(|number| (format!("k{number}"), json!("v".repeat(250)))).collect();
    for (attributes, expected) in [
        (json!({"team": "shop", "te am": "x"}), StatusCode::BAD_REQUEST),
        (json!({"team": "shop", "site": "caf\u{e9}"}), StatusCode::BAD_REQUEST),
        (json!({"team": 5}), StatusCode::BAD_REQUEST),
        (json!({"team": ["shop"]}), StatusCode::BAD_REQUEST),
        (json!(["team"]), StatusCode::BAD_REQUEST),
        (many.into(), StatusCode::CONFLICT),
        (large.into(), StatusCode::CONFLICT),
    ] {
        let (status, answer) = world.set(&world.owner, &world.alice, attributes.clone()).await;
        assert_eq!(status, expected, "{attributes}: {answer}");
        assert!(!answer["action"].as_str().unwrap().is_empty(), "{answer}");
    }
    let path = format!("users/{}", world.alice.user.id);
    let (status, _) = world.send(&world.owner, "PATCH", &path, &json!({"name": "eve"}), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "nothing else is changed this way");
    assert_eq!(world.session(&world.alice).await.attributes, Attributes::new());
    let stored = world.kit.store.user(&world.alice.user.id).await.unwrap().unwrap();
    assert_eq!(stored.attributes, Attributes::new());
}

/// An administrator by a role, two who are no users of theirs, and a denial by attribute.
fn with_denial() -> Value {
    json!({
        "bindings": [
            {"name": "admins", "subjects": [{"user": "admin"}], "role": "org-admin", "clusters": {"all": true}, "scope": "cluster"},
            {"name": "of-shop", "subjects": [{"user": "alice"}], "role": "edit", "clusters": {"all": true}, "scope": "cluster",
             "when": {"user": {"team": ["shop"]}}},
        ],
        "denials": [
            {"name": "contractors", "clusters": {"all": true}, "scope": "cluster", "when": {"user": {"kind": ["contractor"]}},
             "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"]}]},
        ],
    })
}

#[tokio::test]
async fn an_administrator_by_a_role_takes_nobody_out_of_a_denial() {
    let world = World::new().await;
    world.policy(with_denial()).await;
    let (yes, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
    for (of, attributes, expected, said) in [
        (&world.alice, json!({"site": "a"}), yes, ""),
        (&world.alice, json!({"team": "shop"}), yes, ""),
        (&world.admin, json!({"team": "shop"}), yes, ""),
        // A denial is about whom it names: into it, not out of it.
        (&world.alice, json!({"kind": "contractor"}), yes, ""),
        (&world.alice, json!({"team": "pay"}), yes, ""),
        (&world.alice, json!({"kind": null}), no, "contractors"),
        (&world.alice, json!({"kind": "employee"}), no, "contractors"),
        (&world.admin, json!({"kind": "contractor"}), yes, ""),
        (&world.admin, json!({"kind": null}), no, "contractors"),
    ] {
        let (status, answer) = world.set(&world.admin, of, attributes.clone()).await;
        assert_eq!(status, expected, "{} {attributes}: {answer}", of.user.name);
        assert!(answer["detail"].as_str().unwrap_or_default().contains(said), "{answer}");
    }
    let (status, answer) = world.set(&world.owner, &world.alice, json!({"kind": null})).await;
    assert_eq!(status, yes, "{answer}");
}

#[tokio::test]
async fn nobody_escapes_a_denial_by_attribute_through_a_credential_of_somebody_else() {
    let world = World::new().await;
    world.policy(with_denial()).await;
    let path = format!("users/{}/kubeconfig", world.bob.user.id);
    let ask = async || world.send(&world.admin, "POST", &path, &json!({}), None).await;
    assert_eq!(ask().await.0, StatusCode::CREATED, "it is about neither");
    world.set(&world.owner, &world.admin, json!({"kind": "contractor"})).await;
    let (status, answer) = ask().await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    world.set(&world.owner, &world.bob, json!({"kind": "contractor"})).await;
    assert_eq!(ask().await.0, StatusCode::CREATED, "it is about both");
}

#[tokio::test]
async fn questions_about_policy_are_answered_as_sessions_would_be() {
    let world = World::new().await;
    let (status, made) = world.send(&world.owner, "POST", "clusters", &json!({"name": "prod"}), None).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    world
        .policy(json!({"bindings": [
            {"name": "shop", "subjects": [{"user": "alice"}, {"user": "bob"}], "role": "view", "clusters": {"all": true},
             "scope": "allNamespaces", "when": {"user": {"team": ["shop"]}}},
        ]}))
        .await;
    let question = "list pods -n shop";
    let ask = json!({"user": "alice", "cluster": "prod", "question": question});
    let explain = async || world.send(&world.owner, "POST", "policy/explain", &ask, None).await.1;
    let who_can = json!({"cluster": "prod", "question": question});
    let who = async || world.send(&world.owner, "POST", "policy/who-can", &who_can, None).await.1;
    assert_eq!(explain().await["allowed"], false);
    assert!(explain().await["explanation"].as_str().unwrap().contains("users with another team"));
    assert_eq!(who().await, json!([]));
    world.set(&world.owner, &world.alice, json!({"team": "shop"})).await;
    assert_eq!(explain().await["allowed"], true);
    let found = who().await;
    assert_eq!((found.as_array().unwrap().len(), found[0]["binding"].as_str()), (1, Some("shop")), "{found}");
}
