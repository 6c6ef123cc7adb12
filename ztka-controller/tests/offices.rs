//! What administrative roles may do by the API: each at each route, and how far what they change goes.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kit::{Kit, certificate_of};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use ztka_controller::{Needs, ROUTES};
use ztka_identity::{AdminRole, Caller};

/// Everybody with a letter: an owner, then each administrative role and its read-only twin, and who has `cluster-admin`.
const PEOPLE: [(char, &str); 12] = [
    ('O', "owner"),
    ('A', "org-admin"),
    ('a', "org-read-only"),
    ('P', "project-admin"),
    ('p', "project-read-only"),
    ('I', "infrastructure-admin"),
    ('i', "infrastructure-read-only"),
    ('N', "namespace-admin"),
    ('n', "namespace-read-only"),
    ('c', "cluster-admin"),
    ('V', "recording-viewer"),
    ('-', "nobody"),
];

/// Whom each route of an organisation lets in. The cluster is one of the project, the binding is of the whole
/// organisation, the project is in use by nothing, the user has nothing.
const TABLE: &str = "
PUT    /orgs/{org}                                                             OA
DELETE /orgs/{org}
GET    /orgs/{org}/data-keys                                                   OAa
POST   /orgs/{org}/data-keys                                                   OA
GET    /orgs/{org}/revocations                                                 OAa
POST   /orgs/{org}/revocations                                                 OA
GET    /orgs/{org}/clusters                                                    OAaPpIiNncV-
POST   /orgs/{org}/clusters                                                    OA
GET    /orgs/{org}/clusters/{cluster}                                          OAaPpIi
DELETE /orgs/{org}/clusters/{cluster}                                          OAPI
GET    /orgs/{org}/clusters/{cluster}/tokens                                   OAaPpIi
POST   /orgs/{org}/clusters/{cluster}/tokens                                   OAPI
DELETE /orgs/{org}/clusters/{cluster}/tokens/{token}                           OAPI
POST   /orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{key}/approve        OAPI
POST   /orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{key}/refuse         OAPI
POST   /orgs/{org}/clusters/{cluster}/manifest                                 OAPI
GET    /orgs/{org}/users                                                       OAa
POST   /orgs/{org}/users                                                       OA
GET    /orgs/{org}/users/{user}                                                OAa
PATCH  /orgs/{org}/users/{user}                                                OA
POST   /orgs/{org}/users/{user}/disable                                        OA
POST   /orgs/{org}/users/{user}/enable                                         OA
GET    /orgs/{org}/users/{user}/access                                         OAa
GET    /orgs/{org}/users/{user}/credentials                                    OAa
POST   /orgs/{org}/users/{user}/credentials                                    OA
DELETE /orgs/{org}/users/{user}/credentials/{credential}                       OA
POST   /orgs/{org}/users/{user}/kubeconfig                                     OA
GET    /orgs/{org}/groups                                                      OAa
POST   /orgs/{org}/groups                                                      OA
PUT    /orgs/{org}/groups/{group}/members/{user}                               OA
DELETE /orgs/{org}/groups/{group}/members/{user}                               OA
GET    /orgs/{org}/roles                                                       OAaPpIiNn
POST   /orgs/{org}/roles                                                       OAPIN
DELETE /orgs/{org}/roles/{role}                                                OAP
GET    /orgs/{org}/bindings                                                    OAaPpIiNn
POST   /orgs/{org}/bindings                                                    OAPIN
DELETE /orgs/{org}/bindings/{binding}                                          OA
GET    /orgs/{org}/policy                                                      OAa
PUT    /orgs/{org}/policy                                                      OA
GET    /orgs/{org}/policy/history                                              OAa
POST   /orgs/{org}/policy/rollback                                             OA
POST   /orgs/{org}/policy/explain                                              OAa
POST   /orgs/{org}/policy/who-can                                              OAa
PUT    /orgs/{org}/policy/{kind}/{object}                                      OAPIN
DELETE /orgs/{org}/policy/{kind}/{object}                                      OA
GET    /orgs/{org}/changes                                                     OAa
GET    /orgs/{org}/events                                                      OAa
GET    /orgs/{org}/findings                                                    OAa
GET    /orgs/{org}/recordings                                                  OAV
GET    /orgs/{org}/recordings/{recording}                                      OAV
GET    /orgs/{org}/recordings/{recording}/cast                                 OAV
GET    /orgs/{org}/recordings/{recording}/watch                                OAV
GET    /orgs/{org}/log/head                                                    OAa
GET    /orgs/{org}/log/proof                                                   OAa
GET    /orgs/{org}/log/consistency                                             OAa
GET    /orgs/{org}/log/export                                                  OAa
";

struct World {
    kit: Kit,
    people: BTreeMap<char, Caller>,
    names: BTreeMap<&'static str, String>,
    other_cluster: String,
}

impl World {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let org = kit.org("acme").await.id;
        let mut people = BTreeMap::new();
        for (letter, name) in PEOPLE {
            let admin = (letter == 'O').then_some(AdminRole::OrgAdmin);
            people.insert(letter, kit.user(&org, name, admin).await);
        }
        let vera = kit.user(&org, "vera", None).await;
        let names = BTreeMap::from([
            ("org", org.to_string()),
            ("user", vera.user.id.to_string()),
            ("credential", vera.credential.id.to_string()),
            ("group", "dev".into()),
            ("role", "spare".into()),
            ("binding", "everybody".into()),
            ("recording", "0197a1c2-0000-7000-8000-000000000000".into()),
            ("kind", "projects".into()),
            ("object", "spare".into()),
            ("key", kit::key()),
        ]);
        let mut world = Self { kit, people, names, other_cluster: String::new() };
        for (name, place) in [("prod", "cluster"), ("other", "")] {
            let (_, made) = world.call('O', "POST", "clusters", &json!({ "name": name })).await;
            let id = made["id"].as_str().unwrap().to_owned();
            match place {
                "" => world.other_cluster = id,
                place => drop(world.names.insert(place, id)),
            }
        }
        world.call('O', "POST", "groups", &json!({"name": "dev"})).await;
        let tokens = format!("clusters/{}/tokens", world.names["cluster"]);
        let (_, token) = world.call('O', "POST", &tokens, &json!({})).await;
        world.names.insert("token", token["id"].as_str().unwrap().into());
        let bound = |role: &str, clusters: Value, scope: Value| json!({"name": role, "subjects": [{"user": role}], "role": role, "clusters": clusters, "scope": scope});
        let (all, shop) = (|| json!({"all": true}), || json!({"projects": ["shop"]}));
        let (wide, pay) = (|| json!("cluster"), || json!({"namespaces": ["pay"]}));
        let everybody = json!({"name": "everybody", "subjects": [{"group": "dev"}], "role": "view",
                               "clusters": {"all": true}, "scope": "allNamespaces"});
        let labelled = json!({"name": "labelled", "subjects": [{"group": "dev"}], "role": "edit",
                              "clusters": {"matchLabels": {"stage": "test"}}, "scope": "cluster"});
        let policy = json!({
            "clusters": [{"id": world.names["cluster"], "name": "prod", "project": "shop"}],
            "projects": [{"name": "shop"}, {"name": "spare"}],
            "roles": [{"name": "spare", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}],
            "bindings": [
                bound("org-admin", all(), wide()), bound("org-read-only", all(), wide()),
                bound("project-admin", shop(), wide()), bound("project-read-only", shop(), wide()),
                bound("infrastructure-admin", shop(), wide()), bound("infrastructure-read-only", shop(), wide()),
                bound("namespace-admin", shop(), pay()), bound("namespace-read-only", shop(), pay()),
                bound("cluster-admin", all(), wide()), bound("recording-viewer", all(), wide()), everybody, labelled,
            ],
            "denials": [{"name": "about-admins", "subjects": [{"user": "org-admin"}], "clusters": all(), "scope": "cluster",
                         "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"]}]},
                        {"name": "about-others", "subjects": [{"user": "vera"}], "clusters": all(), "scope": "cluster",
                         "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"]}]}],
            "guardrails": {"protectedNamespaces": [{"namespaces": ["kube-system"], "clusters": all()}]}
        });
        let (status, answer) = world.call('O', "PUT", "policy", &policy).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        world
    }

    async fn send(&self, who: char, method: &str, path: &str, body: &str, seen: Option<u64>) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(seen) = seen {
            request = request.header(header::IF_MATCH, format!("\"{seen}\""));
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(certificate_of(&self.people[&who]));
        let response = self.kit.controller.api().oneshot(request).await.unwrap();
        let status = response.status();
        // A stream has no end.
        if status.is_success() && path.contains("follow") {
            return (status, Value::Null);
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn call(&self, who: char, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(who, method, &format!("/api/v1/orgs/{}/{path}", self.names["org"]), &body, None).await
    }
}

#[tokio::test]
async fn each_role_at_each_route() {
    let world = World::new().await;
    let mut table: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let route = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(table.insert(route, words.next().unwrap_or_default()), None, "{line}");
    }
    for route in ROUTES.iter().filter(|route| route.path.starts_with("/orgs/{org}")) {
        let expected = table.remove(&(route.method, route.path));
        let expected = expected.unwrap_or_else(|| panic!("{route:?} is not in the table: say whom it lets in"));
        let mut path = format!("/api/v1{}", route.path);
        for (name, value) in &world.names {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        let mut found = String::new();
        for (letter, _) in PEOPLE {
            // Without a body, and of a version that nothing has: nothing happens.
            let (status, answer) = world.send(letter, route.method, &path, "", Some(0)).await;
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{route:?}: {answer}");
            if status != StatusCode::FORBIDDEN {
                found.push(letter);
            }
        }
        let expected = if route.needs == Needs::SystemAdmin { "" } else { expected };
        assert_eq!(found, expected, "{route:?}");
    }
    assert!(table.is_empty(), "no such routes: {table:?}");
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let world = World::new().await;
    let prod = world.names["cluster"].clone();
    let rule = |verb: &str, resource: &str| json!([{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]);
    let binding = |role: &str, clusters: Value, scope: Value| json!({"subjects": [{"user": "vera"}], "role": role, "clusters": clusters, "scope": scope});
    let shop = || json!({"projects": ["shop"]});
    let pay = || json!({"namespaces": ["pay"]});
    let until = |mut binding: Value| {
        binding["validUntil"] = json!("2026-01-02T00:00:00Z");
        binding
    };
    let of_prod = json!({"project": "shop", "labels": {"stage": "test"}});
    let (yes, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
    for (number, (who, path, body, expected, said)) in [
        // A project's administrator: everything on its clusters, and nothing elsewhere.
        ('P', "bindings/p1", binding("edit", shop(), json!("cluster")), yes, ""),
        ('P', "bindings/p2", binding("project-admin", json!({"ids": [prod]}), json!("allNamespaces")), yes, ""),
        ('P', "bindings/p3", binding("view", json!({"all": true}), pay()), no, "more than what you administer"),
        ('P', "bindings/p4", binding("view", json!({"names": ["prod"]}), pay()), no, "more than what you administer"),
        ('P', "bindings/everybody", binding("view", shop(), pay()), no, "more than what you administer"),
        ('P', "roles/mine", json!({"rules": rule("get", "secrets")}), yes, ""),
        ('P', "settings/default", json!({"viewSecrets": true}), no, "organisation as a whole"),
        (
            'P',
            "denials/mine",
            json!({"rules": rule("get", "pods"), "clusters": shop(), "scope": "cluster"}),
            no,
            "whole",
        ),
        ('P', "groups/mine", json!({"members": [{"user": "vera"}]}), no, "whole"),
        ('P', "clusters/{other}", json!({"labels": {"a": "b"}}), no, "more than what you administer"),
        ('P', "clusters/{prod}", json!({"project": "spare"}), no, "more than what you administer"),
        ('P', "clusters/{prod}", of_prod.clone(), yes, ""),
        // A namespace's: there, and no more than they have.
        ('N', "bindings/n1", binding("edit", shop(), pay()), yes, ""),
        ('N', "bindings/n2", binding("cluster-admin", shop(), pay()), no, "do not have yourself"),
        ('N', "bindings/n3", binding("view", shop(), json!("allNamespaces")), no, "more than what you administer"),
        ('N', "bindings/n4", until(binding("view", shop(), json!({"namespaces": ["pay", "kube-system"]}))), no, "more"),
        ('N', "roles/theirs", json!({"rules": rule("get", "pods")}), no, "more than what you administer"),
        // Who may do everything by a role that is not administrative gives nothing.
        ('c', "bindings/c1", binding("view", shop(), pay()), no, ""),
        ('I', "bindings/i1", binding("view", shop(), pay()), no, ""),
        ('I', "clusters/{prod}", json!({"project": "shop", "labels": {"zone": "a"}}), yes, ""),
        // Labels on which a binding depends that gives more than they have.
        ('I', "clusters/{prod}", of_prod, no, "labelled"),
        ('a', "settings/default", json!({}), no, ""),
        // The organisation's administrator by a role has everything but what denials and guardrails keep from them.
        ('A', "bindings/a1", binding("cluster-admin", json!({"all": true}), json!("cluster")), yes, ""),
        ('A', "settings/default", json!({"viewSecrets": true}), yes, ""),
        ('A', "denials/new", json!({"rules": rule("get", "pods"), "clusters": shop(), "scope": "cluster"}), yes, ""),
        (
            'A',
            "denials/about-admins",
            json!({"subjects": [{"user": "vera"}], "rules": rule("get", "pods"),
            "clusters": shop(), "scope": "cluster"}),
            no,
            "about you",
        ),
        ('A', "guardrails/default", json!({}), no, "protected from you"),
        (
            'A',
            "guardrails/default",
            json!({"protectedNamespaces": [{"namespaces": ["kube-system"],
            "clusters": {"all": true}}], "gates": {"token": "roles"}}),
            no,
            "gate",
        ),
        (
            'A',
            "guardrails/default",
            json!({"protectedNamespaces": [{"namespaces": ["kube-system"],
            "clusters": {"all": true}}], "gates": {"token": "closed"}}),
            yes,
            "",
        ),
        ('O', "guardrails/default", json!({}), yes, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let path = path.replace("{prod}", &prod).replace("{other}", &world.other_cluster);
        let (status, answer) = world.call(who, "PUT", &format!("policy/{path}"), &body).await;
        assert_eq!(status, expected, "{number}: {who} {path} {body}: {answer}");
        assert!(answer["detail"].as_str().unwrap_or_default().contains(said), "{number}: {who} {path}: {answer}");
    }
    for (who, path, expected) in [
        ('A', "denials/about-admins", no),
        ('A', "denials/about-others", StatusCode::NO_CONTENT),
        ('P', "bindings/everybody", no),
        ('P', "bindings/n1", StatusCode::NO_CONTENT),
        ('N', "bindings/p1", no),
        ('O', "denials/about-admins", StatusCode::NO_CONTENT),
    ] {
        let (status, answer) = world.call(who, "DELETE", &format!("policy/{path}"), &Value::Null).await;
        assert_eq!(status, expected, "{who} {path}: {answer}");
    }
    // What they see of bindings is what they could make.
    let (_, seen) = world.call('N', "GET", "bindings", &Value::Null).await;
    let seen: Vec<_> = seen.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(seen, ["namespace-admin", "namespace-read-only"]);
}

#[tokio::test]
async fn nobody_comes_to_be_who_has_more() {
    let world = World::new().await;
    let create = |world: &World, who: char, user: char| {
        let user = world.people[&user].user.id.to_string();
        let path = format!("users/{user}/kubeconfig");
        let org = world.names["org"].clone();
        (who, format!("/api/v1/orgs/{org}/{path}"))
    };
    for (who, user, expected) in [
        ('A', 'N', StatusCode::CREATED),
        ('A', 'O', StatusCode::FORBIDDEN),
        // A denial is about the one, and not about the other.
        ('A', 'c', StatusCode::FORBIDDEN),
        ('O', 'A', StatusCode::CREATED),
        ('N', 'N', StatusCode::CREATED),
        ('P', 'N', StatusCode::FORBIDDEN),
    ] {
        if (who, user) == ('A', 'N') {
            let path = "policy/denials/about-admins";
            let denial = json!({"clusters": {"all": true}, "scope": "cluster",
                                "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"]}]});
            world.call('O', "PUT", path, &denial).await;
        }
        if (who, user) == ('A', 'c') {
            let denial = json!({"clusters": {"all": true}, "scope": "cluster", "except": [{"user": "cluster-admin"}],
                                "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"]}]});
            world.call('O', "PUT", "policy/denials/about-admins", &denial).await;
        }
        let (who, path) = create(&world, who, user);
        let (status, answer) = world.send(who, "POST", &path, "{}", None).await;
        assert_eq!(status, expected, "{who} as {user}: {answer}");
    }
    let owner = world.people[&'O'].user.id.to_string();
    let of_owner = world.people[&'O'].credential.id.clone();
    for (method, path) in [
        ("POST", format!("users/{owner}/disable")),
        ("POST", format!("users/{owner}/enable")),
        ("DELETE", format!("users/{owner}/credentials/{of_owner}")),
    ] {
        assert_eq!(world.call('A', method, &path, &Value::Null).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let another = json!({"name": "second", "admin": "org-admin"});
    assert_eq!(world.call('A', "POST", "users", &another).await.0, StatusCode::FORBIDDEN);
    // A group that gives what they have not, and one that a denial goes by.
    let (dev, vera) = ("groups/dev/members", world.names["user"].clone());
    assert_eq!(world.call('A', "PUT", &format!("{dev}/{vera}"), &Value::Null).await.0, StatusCode::NO_CONTENT);
    let denial = json!({"subjects": [{"group": "dev"}], "clusters": {"all": true}, "scope": "cluster",
                        "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"]}]});
    world.call('O', "PUT", "policy/denials/of-dev", &denial).await;
    let (status, answer) = world.call('A', "DELETE", &format!("{dev}/{vera}"), &Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
}

#[tokio::test]
async fn what_has_run_out_or_has_conditions_is_no_office() {
    let world = World::new().await;
    for (change, expected) in [
        (json!({}), StatusCode::OK),
        (json!({"validUntil": "2026-01-01T00:00:00Z"}), StatusCode::FORBIDDEN),
        (json!({"validFrom": "2026-06-01T00:00:00Z"}), StatusCode::FORBIDDEN),
        (json!({"when": {"networks": ["10.0.0.0/8"]}}), StatusCode::FORBIDDEN),
        (json!({"scope": "allNamespaces"}), StatusCode::FORBIDDEN),
        (json!({"clusters": {"projects": ["shop"]}}), StatusCode::FORBIDDEN),
    ] {
        let mut binding = json!({"subjects": [{"user": "org-read-only"}], "role": "org-read-only",
                                 "clusters": {"all": true}, "scope": "cluster"});
        binding.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (status, answer) = world.call('O', "PUT", "policy/bindings/org-read-only", &binding).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(world.call('a', "GET", "users", &Value::Null).await.0, expected, "{change}");
    }
}

#[tokio::test]
async fn nobody_hands_on_an_office_that_they_do_not_have() {
    let world = World::new().await;
    let prod = world.names["cluster"].clone();
    let all = || json!({"all": true});
    let binding = |who: &str, role: &str, clusters: Value, scope: Value| json!({"subjects": [{"user": who}], "role": role, "clusters": clusters, "scope": scope});
    let until = |at: &str, mut binding: Value| {
        binding["validUntil"] = json!(at);
        binding
    };
    // Who may do everything on every cluster by a role, and administers less than that.
    for (name, body) in [
        ("all-projects", binding("nobody", "project-admin", all(), json!("cluster"))),
        ("all-namespaces", binding("cluster-admin", "namespace-admin", all(), json!("cluster"))),
        ("all-clusters", binding("infrastructure-admin", "cluster-admin", all(), json!("cluster"))),
        (
            "by-label",
            binding("infrastructure-admin", "project-admin", json!({"matchLabels": {"own": "yes"}}), json!("cluster")),
        ),
        ("for-a-while", until("2026-02-01T00:00:00Z", binding("vera", "org-admin", all(), json!("cluster")))),
        ("for-ever", binding("vera", "cluster-admin", all(), json!("cluster"))),
    ] {
        let (status, answer) = world.call('O', "PUT", &format!("policy/bindings/{name}"), &body).await;
        assert_eq!(status, StatusCode::OK, "{name}: {answer}");
    }
    let (yes, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
    let (wide, shop) = (|| json!("cluster"), || json!({"projects": ["shop"]}));
    for (number, (who, role, clusters, scope, expected)) in [
        ('-', "org-admin", all(), wide(), no),
        ('-', "org-read-only", all(), wide(), no),
        // It is for making clusters as well.
        ('-', "infrastructure-admin", all(), wide(), no),
        ('-', "infrastructure-admin", shop(), wide(), yes),
        ('-', "project-admin", all(), wide(), yes),
        ('-', "project-read-only", json!({"ids": [prod]}), wide(), yes),
        ('-', "namespace-admin", all(), wide(), yes),
        // In some namespaces it is no office.
        ('-', "org-admin", all(), json!("allNamespaces"), yes),
        ('c', "org-admin", all(), wide(), no),
        ('c', "project-admin", shop(), wide(), no),
        ('c', "infrastructure-read-only", shop(), wide(), no),
        ('c', "namespace-admin", shop(), wide(), yes),
        ('c', "namespace-read-only", shop(), json!({"namespaces": ["pay"]}), yes),
        ('c', "edit", all(), wide(), yes),
        ('A', "org-admin", all(), wide(), yes),
    ]
    .into_iter()
    .enumerate()
    {
        let body = binding("nobody", role, clusters, scope);
        let (status, answer) = world.call(who, "PUT", &format!("policy/bindings/new-{number}"), &body).await;
        assert_eq!(status, expected, "{number}: {who} {body}: {answer}");
        let said = answer["detail"].as_str().unwrap_or_default();
        assert!(status == yes || said.contains("for administering"), "{number}: {answer}");
        if status == yes {
            let (status, _) = world.call('O', "DELETE", &format!("policy/bindings/new-{number}"), &Value::Null).await;
            assert_eq!(status, StatusCode::NO_CONTENT);
        }
    }
    // A label by which a binding counts that makes more of them than they are.
    let labelled = json!({"project": "shop", "labels": {"own": "yes"}});
    let (status, answer) = world.call('I', "PUT", &format!("policy/clusters/{prod}"), &labelled).await;
    assert_eq!(status, no, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("for administering"), "{answer}");
    // An office goes on for no longer than it was given.
    let vera = world.kit.controller.directory().store();
    let vera = vera.user_named(&world.names["org"].parse().unwrap(), &"vera".parse().unwrap()).await.unwrap().unwrap();
    let credential = world.kit.controller.directory().issue_credential(&vera.id, jiff::SignedDuration::from_hours(1));
    let vera = world.kit.controller.directory().whoami(&vera.id, &credential.await.unwrap().id).await.unwrap();
    let mut world = world;
    world.people.insert('v', vera);
    let given = |end: Option<&str>| {
        let binding = binding("nobody", "org-admin", all(), wide());
        end.map_or(binding.clone(), |end| until(end, binding))
    };
    for (end, expected) in [(None, no), (Some("2026-02-02T00:00:00Z"), no), (Some("2026-02-01T00:00:00Z"), yes)] {
        let (status, answer) = world.call('v', "PUT", "policy/bindings/new", &given(end)).await;
        assert_eq!(status, expected, "{end:?}: {answer}");
    }
}

#[tokio::test]
async fn nobody_comes_to_be_who_is_excepted_from_what_is_protected_from_them() {
    let world = World::new().await;
    let rails = |except: Value| json!({"protectedNamespaces": [{"namespaces": ["kube-system"], "clusters": {"all": true}, "except": except}]});
    let org = world.names["org"].clone();
    let namespace_admin = world.people[&'N'].user.id.to_string();
    let path = format!("/api/v1/orgs/{org}/users/{namespace_admin}/kubeconfig");
    world.call('O', "DELETE", "policy/denials/about-admins", &Value::Null).await;
    for (except, expected) in [
        (json!([{"user": "namespace-admin"}]), StatusCode::FORBIDDEN),
        (json!([{"user": "namespace-admin"}, {"user": "org-admin"}]), StatusCode::CREATED),
        (json!([{"user": "org-admin"}]), StatusCode::CREATED),
    ] {
        let (status, answer) = world.call('O', "PUT", "policy/guardrails/default", &rails(except.clone())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let (status, answer) = world.send('A', "POST", &path, "{}", None).await;
        assert_eq!(status, expected, "{except}: {answer}");
        let said = answer["detail"].as_str().unwrap_or_default();
        assert!(expected != StatusCode::FORBIDDEN || said.contains("protected from you"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_compared() {
    let world = World::new().await;
    let words = |count: usize| (0..count).map(|n| format!("word-{n}")).collect::<Vec<_>>();
    let role = |count: usize| json!({"rules": [{"verbs": ["get"], "apiGroups": words(count), "resources": words(count), "resourceNames": words(count)}]});
    let (status, answer) = world.call('P', "PUT", "policy/roles/huge", &role(1_001)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    // A thousand million things, which somebody has who has everything, and nobody else is compared with for long.
    assert_eq!(world.call('P', "PUT", "policy/roles/huge", &role(1_000)).await.0, StatusCode::OK);
    let bound = |namespaces: Value| json!({"subjects": [{"user": "vera"}], "role": "huge", "clusters": {"projects": ["shop"]}, "scope": namespaces});
    for (who, name, expected) in [('P', "one", StatusCode::OK), ('N', "two", StatusCode::FORBIDDEN)] {
        let body = bound(json!({"namespaces": ["pay"]}));
        let (status, answer) = world.call(who, "PUT", &format!("policy/bindings/{name}"), &body).await;
        assert_eq!(status, expected, "{who}: {answer}");
    }
}

#[tokio::test]
async fn lists_say_nothing_of_what_is_not_shown() {
    let world = World::new().await;
    let org = world.names["org"].clone();
    for n in 0..4 {
        world.call('O', "POST", "clusters", &json!({"name": format!("hidden-{n}")})).await;
        let hidden =
            json!({"subjects": [{"user": "vera"}], "role": "view", "clusters": {"all": true}, "scope": "cluster"});
        world.call('O', "PUT", &format!("policy/bindings/a-hidden-{n}"), &hidden).await;
        let shown = json!({"subjects": [{"user": "vera"}], "role": "view", "clusters": {"projects": ["shop"]}, "scope": {"namespaces": ["pay"]}});
        world.call('O', "PUT", &format!("policy/bindings/shown-{n}"), &shown).await;
    }
    let bindings = ["namespace-admin", "namespace-read-only", "shown-0", "shown-1", "shown-2", "shown-3"];
    for (list, expected) in [("clusters", &["prod"][..]), ("bindings", &bindings)] {
        for limit in [1, 2, 3, 100] {
            let (mut seen, mut next) = (Vec::new(), Some(format!("/api/v1/orgs/{org}/{list}?limit={limit}")));
            while let Some(path) = next {
                let mut request = Request::get(&path).body(Body::empty()).unwrap();
                request.extensions_mut().insert(certificate_of(&world.people[&'N']));
                let (head, body) = world.kit.controller.api().oneshot(request).await.unwrap().into_parts();
                let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                assert_eq!(head.status, StatusCode::OK, "{path}: {body}");
                let page: Vec<_> =
                    body.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
                let link = head.headers.get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
                assert!(link.is_none() || page.len() == limit, "{path}: a page that is not full, and not the last");
                let hex: String = "hidden".bytes().map(|byte| format!("{byte:02x}")).collect();
                assert!(link.as_ref().is_none_or(|link| !link.contains(&hex)), "{path}: {link:?}");
                seen.extend(page);
                next = link.map(|link| link.split(['<', '>']).nth(1).unwrap().to_owned());
            }
            assert_eq!(seen, expected, "{list}, {limit} at a time");
        }
    }
}

#[tokio::test]
async fn certificates_of_owners_are_revoked_by_owners_alone() {
    let world = World::new().await;
    let org: ztka_core::OrgId = world.names["org"].parse().unwrap();
    let vera = world.names["user"].parse().unwrap();
    let users = [('O', world.people[&'O'].user.id.clone()), ('A', world.people[&'A'].user.id.clone()), ('v', vera)];
    let mut serials = BTreeMap::new();
    for (letter, user) in users {
        let (_, csr) = kit::csr();
        let path = format!("/api/v1/orgs/{org}/users/{user}/credentials");
        let (status, issued) = world.send('O', "POST", &path, &format!(r#"{{"csr": {csr}}}"#), None).await;
        assert_eq!(status, StatusCode::CREATED, "{issued}");
        use rustls_pki_types::{CertificateDer, pem::PemObject as _};
        let chain = issued["chain"].as_str().unwrap().as_bytes();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().unwrap();
        let peer = world.kit.controller.trust().identify(ztka_pki::Purpose::Users, &chain).unwrap();
        serials.insert(letter, peer.serial.clone());
    }
    for (who, whose, expected) in [
        ('A', 'O', StatusCode::FORBIDDEN),
        ('A', 'A', StatusCode::CREATED),
        ('A', 'v', StatusCode::CREATED),
        ('O', 'O', StatusCode::CREATED),
    ] {
        let body = json!({"kind": "serial", "name": serials[&whose]});
        let (status, answer) = world.call(who, "POST", "revocations", &body).await;
        assert_eq!(status, expected, "{who} of {whose}: {answer}");
    }
}
