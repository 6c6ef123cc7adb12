//! A policy as a whole by the API: written, looked at before, as it was, and what nobody may write.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::fmt::Write as _;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kit::{Kit, certificate_of};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use ztka_authz::PolicyDocument;
use ztka_controller::store::{Content, DocumentStore as _};
use ztka_core::{DocumentKind, SeriesKey};
use ztka_identity::{AdminRole, Caller};

struct World {
    kit: Kit,
    boss: Caller,
    org: String,
    cluster: String,
}

impl World {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let org = kit.org("acme").await.id;
        let boss = kit.user(&org, "boss", Some(AdminRole::OrgAdmin)).await;
        let mut world = Self { kit, boss, org: org.to_string(), cluster: String::new() };
        let (status, made) = world.call("POST", "clusters", &json!({"name": "prod"})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        world.cluster = made["id"].as_str().unwrap().into();
        world
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("/api/v1/orgs/{}/{path}", self.org);
        self.kit.call(Some(certificate_of(&self.boss)), method, &path, &body).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, found) = self.call("GET", path, &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        found
    }

    /// With `If-Match`.
    async fn call_at(&self, version: u64, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/orgs/{}/{path}", self.org))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::IF_MATCH, format!("\"{version}\""))
            .body(Body::from(body.to_string()))
            .unwrap();
        request.extensions_mut().insert(certificate_of(&self.boss));
        let response = self.kit.controller.api().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// What proxies and agents are told.
    async fn document(&self) -> PolicyDocument {
        let org = Some(self.org.parse().unwrap());
        let series = SeriesKey { kind: DocumentKind::Policy, org, subject: String::new() };
        let snapshot = self.kit.store.snapshot(&series, self.kit.controller_now()).await.unwrap().unwrap();
        match snapshot.content {
            Content::Policy(policy) => policy,
            other => unreachable!("{other:?}"),
        }
    }

    fn whole(&self) -> Value {
        json!({
            "clusters": [{"id": self.cluster, "name": "prod", "labels": {"stage": "prod"}, "project": "shop",
                          "namespaces": {"pay": {"team": "pay"}}}],
            "projects": [{"name": "shop"}],
            "groups": [{"name": "platform", "members": [{"user": "paula"}, {"group": "ops"}]}],
            "roles": [{"name": "reader", "readOnly": true,
                       "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}],
            "bindings": [
                {"name": "team", "subjects": [{"group": "dev"}], "role": "reader", "clusters": {"projects": ["shop"]},
                 "scope": {"namespaceLabels": {"team": "pay"}}, "validUntil": "2026-02-01T00:00:00Z",
                 "when": {"networks": ["192.0.2.0/24"]}, "obligations": {"maxDuration": "PT1H"}},
                {"name": "all", "subjects": [{"group": "platform"}], "role": "view", "clusters": {"all": true},
                 "scope": "allNamespaces"}],
            "denials": [{"name": "freeze", "rules": [{"verbs": ["delete"], "apiGroups": ["*"], "resources": ["*"]}],
                         "clusters": {"matchLabels": {"stage": "prod"}}, "scope": "cluster", "reason": "a freeze"}],
            "guardrails": {"protectedNamespaces": [{"namespaces": ["kube-system"], "clusters": {"all": true}}],
                           "gates": {"token": "closed"}},
            "settings": {"viewSecrets": true, "viewExec": false}
        })
    }
}

#[tokio::test]
async fn a_whole_policy_is_written_and_reaches_the_document() {
    let world = World::new().await;
    let first = world.get("policy").await;
    let (status, looked) = world.call("PUT", "policy?dry_run=true", &world.whole()).await;
    assert_eq!(status, StatusCode::OK, "{looked}");
    assert_eq!((&looked["dry_run"], &looked["version"]), (&json!(true), &first["version"]));
    let gained = looked["permissions"].as_array().unwrap().iter().find(|one| one["who"] == "group platform").unwrap();
    assert!(gained["gained"].to_string().contains("list pods in all namespaces of prod"), "{gained}");
    assert_eq!(world.get("policy").await, first, "it was only looked at");

    let (status, changed) = world.call("PUT", "policy", &world.whole()).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["objects"].as_array().unwrap().len(), 9, "{changed}");
    let expected: PolicyDocument = serde_json::from_value(world.whole()).unwrap();
    let document = world.document().await;
    assert_eq!((&document.clusters, &document.bindings.len()), (&expected.clusters, &2));
    assert_eq!((&document.groups, &document.denials), (&expected.groups, &expected.denials));
    assert_eq!((&document.guardrails, &document.settings), (&expected.guardrails, &expected.settings));
    document.validate().unwrap();
    // What is read can be written as it is, and changes nothing.
    let read = world.get("policy").await;
    let (_, same) = world.call("PUT", "policy", &read["policy"]).await;
    assert_eq!((&same["objects"], &same["version"]), (&json!([]), &read["version"]));
    // The ways for one kind say the same.
    let bindings = world.get("bindings").await;
    let team = bindings.as_array().unwrap().iter().find(|one| one["name"] == "team").unwrap();
    assert_eq!(
        (&team["validUntil"], &team["when"]["networks"][0]),
        (&json!("2026-02-01T00:00:00Z"), &json!("192.0.2.0/24"))
    );
    let roles = world.get("roles").await;
    let reader = roles.as_array().unwrap().iter().find(|one| one["name"] == "reader").unwrap();
    assert_eq!(reader["readOnly"], true);

    // Nothing of it is published that proxies would refuse.
    world.kit.controller.publish_due().await.unwrap();
}

#[tokio::test]
async fn what_was_changed_is_known_and_can_be_undone() {
    let world = World::new().await;
    world.call("PUT", "policy", &world.whole()).await;
    let before = world.get("policy").await;
    let (status, _) = world.call("DELETE", "policy/denials/freeze", &Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, put) = world.call("PUT", "policy/settings/default", &json!({"viewExec": true})).await;
    assert_eq!(status, StatusCode::OK, "{put}");
    let (status, made) = world
        .call(
            "POST",
            "bindings",
            &json!({"name": "new", "role": "edit", "subjects": [{"user": "alice"}], "clusters": {"names": ["prod"]},
                    "scope": {"namespaces": ["pay"]}, "validUntil": "2026-01-02T00:00:00Z"}),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    world.call("POST", "clusters", &json!({"name": "later"})).await;

    let history = world.get("policy/history").await;
    let acts: Vec<_> = history.as_array().unwrap().iter().map(|one| one["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["create binding new", "put settings default", "delete denial freeze", "apply", "before"]);
    assert_eq!(history[0]["author_name"], "boss");
    assert_eq!(history[2]["objects"], json!([{"kind": "denial", "name": "freeze", "action": "deleted"}]));
    let version = before["version"].as_u64().unwrap();
    let then = world.get(&format!("policy?version={version}")).await;
    assert_eq!(then["policy"]["denials"], before["policy"]["denials"]);
    let (status, problem) = world.call("GET", "policy?version=99999", &Value::Null).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    let (status, problem) = world.call("GET", "policy?version=0", &Value::Null).await;
    assert_eq!((status, &problem["code"]), (StatusCode::GONE, &json!("gone")), "{problem}");

    let (status, back) = world.call("POST", "policy/rollback", &json!({"version": version})).await;
    assert_eq!(status, StatusCode::OK, "{back}");
    let now = world.get("policy").await;
    for part in ["denials", "settings", "bindings", "roles", "guardrails"] {
        assert_eq!(now["policy"][part], before["policy"][part], "{part}");
    }
    assert_eq!(now["policy"]["clusters"].as_array().unwrap().len(), 2, "what was made since stays");
    assert_eq!(world.get("policy/history?limit=1").await[0]["act"], format!("rollback {version}"));
}

#[tokio::test]
async fn two_who_write_at_once_do_not_undo_each_other() {
    let world = World::new().await;
    let seen = world.get("policy").await["version"].as_u64().unwrap();
    let (status, _) = world.call_at(seen, "PUT", "policy", &world.whole()).await;
    assert_eq!(status, StatusCode::OK);
    let (status, problem) = world.call_at(seen, "PUT", "policy", &json!({})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::PRECONDITION_FAILED, &json!("changed")));
    let listing = world.get("changes").await;
    let of = |kind: &str| {
        let mut all = listing["resources"].as_array().unwrap().iter();
        all.find(|one| one["kind"] == kind).unwrap()["version"].as_u64().unwrap()
    };
    let denial = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}], "clusters": {"all": true},
                        "scope": "cluster"});
    let (status, _) = world.call_at(of("denial") + 1, "PUT", "policy/denials/freeze", &denial).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    let (status, answer) = world.call_at(of("denial"), "PUT", "policy/denials/freeze", &denial).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // Without one they are made one after the other.
    let many = (0..8).map(|number| {
        let project = format!("policy/projects/p{number}");
        let world = &world;
        async move { world.call("PUT", &project, &json!({})).await.0 }
    });
    assert_eq!(futures_util::future::join_all(many).await, [StatusCode::OK; 8]);
    assert_eq!(world.document().await.projects.len(), 9);
}

#[tokio::test]
async fn bad_input_is_refused_with_where_it_is() {
    let world = World::new().await;
    world.call("PUT", "policy", &world.whole()).await;
    let before = world.document().await;
    let names: Vec<String> = (0..10_000).map(|number| format!("n{number}")).collect();
    let rule = |verb: &str| json!([{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]);
    let binding = |role: &str, clusters: Value| json!({"subjects": [{"user": "alice"}], "role": role, "clusters": clusters, "scope": "cluster"});
    let all = || json!({"all": true});
    for (path, body, pointer, said) in [
        ("roles/new", json!({"rules": rule("gett")}), "/rules/0/verbs/0", "no verb"),
        ("roles/new", json!({"rules": []}), "/rules", "without rules"),
        ("roles/view", json!({"rules": rule("get")}), "/name", "exists already"),
        (
            "roles/new",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": names}]}),
            "/rules/0/resourceNames",
            "may have 1000",
        ),
        ("roles/new", json!({"name": "other", "rules": rule("get")}), "/name", "the path"),
        ("bindings/new", binding("absent", all()), "/role", "there is no role"),
        ("bindings/new", binding("view", json!({})), "/clusters", "selects no cluster"),
        ("bindings/new", binding("view", json!({"projects": ["absent"]})), "/clusters/projects/0", "no project"),
        ("bindings/new", binding("view", json!({"colours": ["red"]})), "", "colours"),
        ("bindings/new", json!({"subjects": [{"user": "system:admin"}]}), "", "system:"),
        ("bindings/new", json!({"subjects": [{"robot": "r2"}]}), "", "robot"),
        ("groups/platform", json!({"members": [{"group": "platform"}]}), "/members/0", "in itself"),
        ("clusters/absent", json!({}), "", "absent"),
        ("guardrails/default", json!({"gates": {"token": "ajar"}}), "", "ajar"),
        ("settings/default", json!({"viewAll": true}), "", "viewAll"),
    ] {
        let (status, problem) = world.call("PUT", &format!("policy/{path}"), &body).await;
        let mut text = String::new();
        write!(text, "{} {}", problem["detail"], problem["action"]).unwrap();
        assert!(status.is_client_error() && text.contains(said), "{path} {body}: {status} {problem}");
        assert_eq!(problem["pointer"].as_str().unwrap_or_default(), pointer, "{path}: {problem}");
        assert!(!problem["action"].as_str().unwrap().is_empty());
    }
    // Names that are none are not even found.
    for name in ["Shop", "sh%C3%A9p", "%EF%BD%93hop", "system:shop", ".", "a%2Fb"] {
        let (status, problem) = world.call("PUT", &format!("policy/projects/{name}"), &json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{name}: {problem}");
    }
    for path in ["settings/other", "wishes/default", "guardrails/shop"] {
        assert_eq!(world.call("PUT", &format!("policy/{path}"), &json!({})).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    // A project that something refers to, a role that something gives.
    let (status, problem) = world.call("DELETE", "policy/projects/shop", &Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    let (status, _) = world.call("DELETE", "policy/roles/reader", &Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // As a whole: duplicates, circles, somebody else's cluster.
    for (part, value, pointer) in [
        ("projects", json!([{"name": "shop"}, {"name": "shop"}]), "/projects/1"),
        ("clusters", json!([{"id": "c-of-others", "name": "prod"}]), "/clusters/0/id"),
        (
            "groups",
            json!([{"name": "a", "members": [{"group": "b"}]}, {"name": "b", "members": [{"group": "a"}]}]),
            "/groups",
        ),
    ] {
        let mut whole = world.whole();
        whole[part] = value;
        let (status, problem) = world.call("PUT", "policy", &whole).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert!(problem["pointer"].as_str().unwrap().starts_with(pointer), "{part}: {problem}");
    }
    assert_eq!(world.document().await, before, "nothing has changed");
}

#[tokio::test]
async fn more_than_proxies_can_take_is_refused_at_once() {
    let world = World::new().await;
    let binding = |number: usize| {
        json!({"name": format!("binding-number-{number}"), "subjects": [{"user": format!("user-number-{number}")}],
               "role": "view", "clusters": {"all": true}, "scope": "cluster"})
    };
    let many = json!({ "bindings": (0..100_000).map(binding).collect::<Vec<_>>() });
    let (status, problem) = world.call("PUT", "policy", &many).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("refused")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("11 MiB"));
    assert_eq!(world.document().await.bindings.len(), 0);
}

#[tokio::test]
async fn it_answers_why_and_who() {
    let world = World::new().await;
    let whole = json!({"bindings": [{"name": "look", "subjects": [{"user": "alice"}], "role": "view",
                                     "clusters": {"all": true}, "scope": {"namespaces": ["shop"]}}]});
    world.call("PUT", "policy", &whole).await;
    world.call("POST", "users", &json!({"name": "alice"})).await;
    let ask = |question: &str| json!({"user": "alice", "cluster": "prod", "question": question});
    let (_, why) = world.call("POST", "policy/explain", &ask("list pods -n shop")).await;
    assert_eq!(why["allowed"], true);
    assert!(why["explanation"].as_str().unwrap().contains("binding \"look\""), "{why}");
    let (_, why) = world.call("POST", "policy/explain", &ask("list pods -n other")).await;
    assert_eq!(why["allowed"], false);
    let (_, who) =
        world.call("POST", "policy/who-can", &json!({"cluster": "prod", "question": "get pods -n shop"})).await;
    assert_eq!(who, json!([{"subject": {"user": "alice"}, "binding": "look", "role": "view"}]));
    for (body, status) in [
        (json!({"user": "nobody", "cluster": "prod", "question": "list pods"}), StatusCode::NOT_FOUND),
        (json!({"user": "alice", "cluster": "gone", "question": "list pods"}), StatusCode::NOT_FOUND),
        (json!({"user": "alice", "cluster": "prod", "question": "pods"}), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(world.call("POST", "policy/explain", &body).await.0, status);
    }
}

#[tokio::test]
async fn what_was_deleted_meanwhile_does_not_come_back() {
    let world = World::new().await;
    world.call("PUT", "policy", &world.whole()).await;
    let rule = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let everywhere = json!({"all": true});
    for (path, body) in [
        ("projects/mine", json!({})),
        ("groups/mine", json!({"members": [{"user": "alice"}]})),
        ("roles/mine", json!({"rules": rule})),
        (
            "bindings/mine",
            json!({"subjects": [{"user": "a"}], "role": "view", "clusters": everywhere, "scope": "cluster"}),
        ),
        ("denials/mine", json!({"rules": rule, "clusters": everywhere, "scope": "cluster"})),
        ("guardrails/default", json!({"gates": {"token": "closed"}})),
        ("settings/default", json!({"viewExec": true})),
    ] {
        let path = format!("policy/{path}");
        let (status, made) = world.call("PUT", &path, &body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {made}");
        let seen = made["version"].as_u64().unwrap();
        let (status, again) = world.call_at(seen, "PUT", &path, &body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {again}");
        assert_eq!(world.call("DELETE", &path, &Value::Null).await.0, StatusCode::NO_CONTENT, "{path}");
        let before = world.document().await;
        let (status, problem) = world.call_at(seen, "PUT", &path, &body).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::PRECONDITION_FAILED, &json!("changed")),
            "{path}: {problem}"
        );
        assert_eq!(world.document().await, before, "{path}");
        assert_eq!(world.call("PUT", &path, &body).await.0, StatusCode::OK, "{path}: whoever means a new one makes it");
    }
}
