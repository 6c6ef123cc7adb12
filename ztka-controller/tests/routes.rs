//! Every route of the API, held against callers who may not use it, and against one who may.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use kit::{Kit, certificate_of, csr, peer};
use ztka_controller::{Needs, ROUTES, Route};
use ztka_core::{CredentialId, InstanceId, ProxyId, Subject, Verified};
use ztka_identity::{AdminRole, Caller};
use ztka_pki::Peer;

/// The body with which each route does something. A route that is missing here fails the test.
const BODIES: &[(&str, &str, &str)] = &[
    ("GET", "/whoami", ""),
    ("GET", "/orgs", ""),
    ("GET", "/status", ""),
    ("POST", "/renew", r#"{"csr": {csr}}"#),
    ("POST", "/orgs", r#"{"name": "new"}"#),
    ("PUT", "/orgs/{org}", r#"{"longest_credential_seconds": 86400}"#),
    ("DELETE", "/orgs/{org}", ""),
    ("GET", "/deletions", ""),
    ("GET", "/master-keys", ""),
    ("POST", "/master-keys/rewrap", ""),
    ("GET", "/orgs/{org}/data-keys", ""),
    ("POST", "/orgs/{org}/data-keys", ""),
    ("GET", "/proxies", ""),
    ("POST", "/proxies", "{}"),
    ("GET", "/pki", ""),
    ("POST", "/pki/authorities/{authority}/{step}", r#"{"automatic": true}"#),
    ("GET", "/revocations", ""),
    ("POST", "/revocations", r#"{"kind": "serial", "name": "1f"}"#),
    ("DELETE", "/revocations/orgs/{org}", ""),
    ("GET", "/orgs/{org}/revocations", ""),
    ("POST", "/orgs/{org}/revocations", r#"{"kind": "serial", "name": "{serial}"}"#),
    ("GET", "/orgs/{org}/clusters", ""),
    ("POST", "/orgs/{org}/clusters", r#"{"name": "new", "labels": {"stage": "test"}}"#),
    ("GET", "/orgs/{org}/clusters/{cluster}", ""),
    ("DELETE", "/orgs/{org}/clusters/{cluster}", ""),
    ("GET", "/orgs/{org}/clusters/{cluster}/tokens", ""),
    (
        "POST",
        "/orgs/{org}/clusters/{cluster}/tokens",
        r#"{"ttl_seconds": 60, "sources": ["10.0.0.0/8"], "approval": true}"#,
    ),
    ("DELETE", "/orgs/{org}/clusters/{cluster}/tokens/{token}", ""),
    ("POST", "/orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{key}/approve", ""),
    ("POST", "/orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{key}/refuse", ""),
    ("POST", "/orgs/{org}/clusters/{cluster}/manifest", r#"{"image": "ztka-agent:test"}"#),
    ("GET", "/orgs/{org}/users", ""),
    ("POST", "/orgs/{org}/users", r#"{"name": "new"}"#),
    ("GET", "/orgs/{org}/users/{user}", ""),
    ("PATCH", "/orgs/{org}/users/{user}", r#"{"attributes": {"team": "shop", "site": null}}"#),
    ("POST", "/orgs/{org}/users/{user}/disable", ""),
    ("POST", "/orgs/{org}/users/{user}/enable", ""),
    ("GET", "/orgs/{org}/users/{user}/access", ""),
    ("GET", "/orgs/{org}/users/{user}/credentials", ""),
    ("POST", "/orgs/{org}/users/{user}/credentials", r#"{"csr": {csr}}"#),
    ("DELETE", "/orgs/{org}/users/{user}/credentials/{credential}", ""),
    ("POST", "/orgs/{org}/users/{user}/kubeconfig", "{}"),
    ("GET", "/orgs/{org}/groups", ""),
    ("POST", "/orgs/{org}/groups", r#"{"name": "new"}"#),
    ("PUT", "/orgs/{org}/groups/{group}/members/{user}", ""),
    ("DELETE", "/orgs/{org}/groups/{group}/members/{user}", ""),
    ("GET", "/orgs/{org}/roles", ""),
    (
        "POST",
        "/orgs/{org}/roles",
        r#"{"name": "new", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}"#,
    ),
    ("DELETE", "/orgs/{org}/roles/{role}", ""),
    ("GET", "/orgs/{org}/bindings", ""),
    (
        "POST",
        "/orgs/{org}/bindings",
        r#"{"name": "new", "role": "view", "subjects": [{"user": "alice"}], "clusters": {"all": true}, "scope": "cluster"}"#,
    ),
    ("DELETE", "/orgs/{org}/bindings/{binding}", ""),
    ("GET", "/orgs/{org}/policy", ""),
    ("PUT", "/orgs/{org}/policy", "{}"),
    ("GET", "/orgs/{org}/policy/history", ""),
    ("POST", "/orgs/{org}/policy/rollback", r#"{"version": 9}"#),
    ("POST", "/orgs/{org}/policy/explain", r#"{"user": "alice", "cluster": "test", "question": "list pods"}"#),
    ("POST", "/orgs/{org}/policy/who-can", r#"{"cluster": "test", "question": "list pods"}"#),
    ("PUT", "/orgs/{org}/policy/{kind}/{object}", "{}"),
    ("DELETE", "/orgs/{org}/policy/{kind}/{object}", ""),
    ("GET", "/orgs/{org}/changes", ""),
    ("GET", "/orgs/{org}/events", ""),
    ("GET", "/orgs/{org}/findings", ""),
    ("GET", "/orgs/{org}/recordings", ""),
    ("GET", "/orgs/{org}/recordings/{recording}", ""),
    ("GET", "/orgs/{org}/recordings/{recording}/cast", ""),
    ("GET", "/orgs/{org}/recordings/{recording}/watch", ""),
    ("GET", "/orgs/{org}/log/head", ""),
    ("GET", "/orgs/{org}/log/proof", ""),
    ("GET", "/orgs/{org}/log/consistency", ""),
    ("GET", "/orgs/{org}/log/export", ""),
];

/// Two organisations, with somebody of every kind.
struct World {
    kit: Kit,
    system: Caller,
    admin: Caller,
    alice: Caller,
    bob: Caller,
    foreign_admin: Caller,
    foreigner: Caller,
    names: BTreeMap<&'static str, String>,
}

impl World {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let (acme, other) = (kit.org("acme").await.id, kit.org("other").await.id);
        let system = kit.system_admin().await;
        let admin = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
        let (alice, bob) = (kit.user(&acme, "alice", None).await, kit.user(&acme, "bob", None).await);
        let foreign_admin = kit.user(&other, "boss", Some(AdminRole::OrgAdmin)).await;
        let foreigner = kit.user(&other, "alice", None).await;
        let mut names = BTreeMap::from([
            ("org", acme.to_string()),
            ("user", alice.user.id.to_string()),
            ("credential", alice.credential.id.to_string()),
            ("serial", "a1".into()),
            ("group", "dev".into()),
            ("role", "reader".into()),
            ("binding", "team".into()),
            ("authority", "agents".into()),
            ("step", "publish".into()),
            ("kind", "projects".into()),
            ("object", "shop".into()),
        ]);
        let mut world = Self { kit, system, admin, alice, bob, foreign_admin, foreigner, names: BTreeMap::new() };
        let admin = certificate_of(&world.admin);
        for (path, body) in [
            ("clusters", r#"{"name": "test"}"#),
            ("groups", r#"{"name": "dev"}"#),
            ("roles", r#"{"name": "reader", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}"#),
            (
                "bindings",
                r#"{"name": "team", "role": "edit", "subjects": [{"group": "dev"}], "clusters": {"all": true}, "scope": "cluster"}"#,
            ),
        ] {
            let path = format!("/api/v1/orgs/{acme}/{path}");
            let (status, made) = world.kit.call(Some(admin.clone()), "POST", &path, body).await;
            assert_eq!(status, StatusCode::CREATED, "{path}: {made}");
            if let Some(id) = made.get("id") {
                names.insert("cluster", id.as_str().unwrap().into());
            }
        }
        let path = format!("/api/v1/orgs/{acme}/policy/projects/shop");
        let (status, made) = world.kit.call(Some(admin.clone()), "PUT", &path, "{}").await;
        assert_eq!(status, StatusCode::OK, "{made}");
        // A token with which a key waits.
        let path = format!("/api/v1/orgs/{acme}/clusters/{}/tokens", names["cluster"]);
        let (_, token) = world.kit.call(Some(admin.clone()), "POST", &path, r#"{"approval": true}"#).await;
        let (key, csr) = csr();
        let body = format!(r#"{{"token": {}, "csr": {csr}}}"#, token["token"]);
        let (status, waiting) = kit::call(world.kit.controller.enrol(), None, "POST", "/v1/enrol", &body).await;
        assert_eq!((status, waiting["key"].as_str()), (StatusCode::ACCEPTED, Some(key.public().id().0.as_str())));
        names.insert("token", token["id"].as_str().unwrap().into());
        names.insert("key", key.public().id().0.clone());
        world.names = names;
        // A certificate that is out.
        let of_acme = Subject::User {
            org: acme.clone(),
            user: world.alice.user.id.clone(),
            credential: world.alice.credential.id.clone(),
        };
        let record = ztka_pki::IssuedRecord {
            issuer: ztka_core::KeyId("00".into()),
            serial: "a1".into(),
            subject: Some(of_acme),
            issued: world.kit.controller_now(),
            not_after: world.alice.credential.not_after,
        };
        world.kit.stores.revocations.record_certificate(&record).await.unwrap();
        let recording = recorded(&acme);
        world.names.insert("recording", recording.recording.to_string());
        world.kit.stores.recordings.take_chunk("proxy", &recording, u64::MAX).await.unwrap();
        world.kit.controller.publish_due().await.unwrap();
        world
    }

    fn request(&self, route: &Route) -> (String, String) {
        let found = BODIES.iter().find(|(method, path, _)| (*method, *path) == (route.method, route.path));
        let (_, _, body) = found.unwrap_or_else(|| panic!("{route:?} has no test: add its body to BODIES"));
        let mut path = format!("/api/v1{}", route.path);
        for (name, value) in &self.names {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        assert!(!path.contains('{'), "{path}");
        (path, body.replace("{csr}", &csr().1).replace("{serial}", &self.names["serial"]))
    }

    async fn call(&self, route: &Route, by: Option<Verified<Peer>>) -> (StatusCode, serde_json::Value) {
        let (path, body) = self.request(route);
        self.kit.call(by, route.method, &path, &body).await
    }

    /// Refused with this status and code, and nothing has changed.
    async fn refused(&self, route: &Route, who: &str, by: Option<Verified<Peer>>, status: StatusCode) {
        let (got, problem) = self.call(route, by).await;
        assert_eq!(got, status, "{who} at {route:?}: {problem}");
        let code = if status == StatusCode::FORBIDDEN { "forbidden" } else { "unauthenticated" };
        assert_eq!(problem["code"], code, "{who} at {route:?}");
        assert!(!problem["action"].as_str().unwrap().is_empty(), "says what to do: {problem}");
        let changed = self.kit.controller.publish_due().await.unwrap();
        assert_eq!(changed, 0, "{who} at {route:?} changed something");
    }
}

/// A recording that is over as soon as it has begun.
fn recorded(org: &ztka_core::OrgId) -> ztka_audit::Chunk {
    let started = jiff::Timestamp::now();
    let about = ztka_audit::About {
        org: org.clone(),
        cluster: "c1".parse().unwrap(),
        user: "u1".parse().unwrap(),
        user_name: "alice".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        namespace: "default".into(),
        pod: "web".into(),
        container: String::new(),
        kind: "exec".into(),
        command: Vec::new(),
        tty: true,
        required: true,
        started,
    };
    let last = ztka_audit::Last { end: ztka_audit::RecordingEnd::Complete, reason: None, exit: Some(0) };
    let id = ztka_core::AuditId::generate();
    ztka_audit::RecordingChain::start().cut(id, started, Some(about), Some(last), b"{}\n")
}

#[test]
fn every_route_has_a_test_and_every_test_a_route() {
    let routes: BTreeSet<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    let tested: BTreeSet<_> = BODIES.iter().map(|(method, path, _)| (*method, *path)).collect();
    assert_eq!(routes, tested);
    assert_eq!(routes.len(), ROUTES.len(), "no route twice");
    for route in ROUTES {
        let of_org = route.path.contains("{org}");
        let fits = match route.needs {
            Needs::Caller => !of_org,
            Needs::SystemAdmin => !of_org || ["/revocations/orgs/{org}", "/orgs/{org}"].contains(&route.path),
            Needs::ClusterAdmin | Needs::ClusterReader => of_org && route.path.contains("{cluster}"),
            Needs::Member
            | Needs::OrgAdmin
            | Needs::OrgReader
            | Needs::RecordingViewer
            | Needs::ClusterMaker
            | Needs::PolicyAdmin
            | Needs::PolicyReader => of_org,
            Needs::Oneself => of_org && route.path.contains("{user}"),
        };
        assert!(fits, "{route:?}: its rule looks at something that its path does not name");
    }
}

#[tokio::test]
async fn anonymous_callers_are_refused_everywhere() {
    let world = World::new().await;
    let org: ztka_core::OrgId = world.names["org"].parse().unwrap();
    let cluster: ztka_core::ClusterId = world.names["cluster"].parse().unwrap();
    let stranger = |user, credential| peer(Subject::User { org: org.clone(), user, credential });
    let alice = &world.alice;
    for route in ROUTES {
        let callers = [
            ("nobody", None),
            ("a proxy", Some(peer(Subject::Proxy(ProxyId::generate())))),
            (
                "an agent",
                Some(peer(Subject::Agent {
                    org: org.clone(),
                    cluster: cluster.clone(),
                    instance: InstanceId::generate(),
                })),
            ),
            ("an unknown credential", Some(stranger(alice.user.id.clone(), CredentialId::generate()))),
            ("another user's credential", Some(stranger(alice.user.id.clone(), world.bob.credential.id.clone()))),
            (
                "a certificate of another organisation",
                Some(peer(Subject::User {
                    org: world.foreigner.user.org.clone(),
                    user: world.admin.user.id.clone(),
                    credential: world.admin.credential.id.clone(),
                })),
            ),
        ];
        for (who, by) in callers {
            world.refused(route, who, by, StatusCode::UNAUTHORIZED).await;
        }
    }
}

#[tokio::test]
async fn disabled_revoked_and_ended_callers_are_refused_everywhere() {
    let world = World::new().await;
    let (directory, clock) = (world.kit.controller.directory(), &world.kit.clock);
    let org = &world.admin.user.org;
    let disabled = world.kit.user(org, "disabled", Some(AdminRole::OrgAdmin)).await;
    directory.disable(&disabled.user.id).await.unwrap();
    let revoked = world.kit.user(org, "revoked", Some(AdminRole::OrgAdmin)).await;
    directory.revoke(&revoked.credential.id).await.unwrap();
    world.kit.controller.publish_due().await.unwrap();
    for route in ROUTES {
        for (who, caller) in [("a disabled admin", &disabled), ("a revoked credential", &revoked)] {
            world.refused(route, who, Some(certificate_of(caller)), StatusCode::UNAUTHORIZED).await;
        }
    }
    clock.advance(jiff::SignedDuration::from_hours(1));
    world.kit.controller.publish_due().await.unwrap();
    for route in ROUTES {
        let ended = Some(certificate_of(&world.system));
        world.refused(route, "an ended session", ended, StatusCode::UNAUTHORIZED).await;
    }
}

#[tokio::test]
async fn callers_of_another_organisation_are_refused_everywhere() {
    let world = World::new().await;
    for route in ROUTES.iter().filter(|route| route.path.contains("{org}")) {
        for (who, caller) in [("a foreign admin", &world.foreign_admin), ("a foreign user", &world.foreigner)] {
            world.refused(route, who, Some(certificate_of(caller)), StatusCode::FORBIDDEN).await;
        }
    }
}

#[tokio::test]
async fn under_privileged_callers_are_refused_everywhere() {
    let world = World::new().await;
    for route in ROUTES {
        let refused: &[(&str, &Caller)] = match route.needs {
            Needs::Caller | Needs::Member => &[],
            // Alice is in the path.
            Needs::Oneself => &[("another user", &world.bob)],
            Needs::SystemAdmin => &[("a user", &world.bob), ("an admin of an organisation", &world.admin)],
            _ => &[("a user", &world.bob), ("the user in the path", &world.alice)],
        };
        for (who, caller) in refused {
            world.refused(route, who, Some(certificate_of(caller)), StatusCode::FORBIDDEN).await;
        }
    }
}

#[tokio::test]
async fn callers_with_just_enough_rights_are_served_everywhere() {
    for route in ROUTES {
        // Each in a world of its own, as some of them change it.
        let world = World::new().await;
        let caller = match route.needs {
            Needs::Caller | Needs::Member | Needs::Oneself => &world.alice,
            Needs::SystemAdmin => &world.system,
            _ => &world.admin,
        };
        if route.path == "/orgs/{org}/roles/{role}" {
            let path = format!("/api/v1/orgs/{}/bindings/team", world.names["org"]);
            world.kit.call(Some(certificate_of(&world.admin)), "DELETE", &path, "").await;
        }
        if route.path == "/revocations/orgs/{org}" {
            let body = format!(r#"{{"kind": "org", "name": "{}"}}"#, world.names["org"]);
            world.kit.call(Some(certificate_of(caller)), "POST", "/api/v1/revocations", &body).await;
        }
        let (status, answer) = world.call(route, Some(certificate_of(caller))).await;
        assert!(status.is_success(), "{route:?}: {status} {answer}");
    }
}

#[tokio::test]
async fn ids_of_another_organisation_are_not_found_through_ones_own() {
    let world = World::new().await;
    let acme = world.names["org"].clone();
    let other = world.foreign_admin.user.org.to_string();
    for route in
        ROUTES.iter().filter(|route| !matches!(route.needs, Needs::Caller | Needs::Member | Needs::SystemAdmin))
    {
        let names_more = ["{cluster}", "{token}", "{user}", "{credential}", "{group}", "{role}", "{binding}"];
        if !names_more.iter().any(|name| route.path.contains(name)) {
            continue;
        }
        let (path, body) = world.request(route);
        let path = path.replace(&acme, &other);
        let by = Some(certificate_of(&world.foreign_admin));
        let (status, problem) = world.kit.call(by, route.method, &path, &body).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{route:?}: {problem}");
        assert_eq!(world.kit.controller.publish_due().await.unwrap(), 0, "{route:?} changed something");
    }
}
