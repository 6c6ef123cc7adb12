//! What is decided, and what a refused user reads.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use fixture::{allows, asks, compiled, document, gives, refusal, target, user};
use jiff::Timestamp;
use serde_json::json;
use ztka_authz::{PolicyDocument, PolicyError, PolicySet, Port};
use ztka_core::Decision;

#[test]
fn a_role_counts_where_it_is_bound_and_nowhere_else() {
    let alice = user("alice", &[]);
    let policy = compiled(&gives("view", json!({"namespaces": ["dev"]})));
    assert!(allows(&policy, &alice, "list", target("core/pods", Some("dev"), None)));
    assert!(allows(&policy, &alice, "get", target("core/namespaces", Some("dev"), Some("dev"))));
    for (verb, what, namespace) in [
        ("list", "core/pods", Some("other")),
        ("list", "core/pods", None),
        ("list", "core/namespaces", None),
        ("list", "metrics.k8s.io/pods", Some("dev")),
        ("frobnicate", "core/pods", Some("dev")),
        ("get", "/metrics", None),
    ] {
        assert!(!allows(&policy, &alice, verb, target(what, namespace, None)), "{verb} {what} {namespace:?}");
    }
    assert!(!allows(&policy, &user("bob", &[]), "list", target("core/pods", Some("dev"), None)));
    assert!(!allows(&policy, &user("bob", &["alice"]), "list", target("core/pods", Some("dev"), None)));
    let action = ztka_authz::Action::new("list", target("core/pods", Some("dev"), None));
    assert!(matches!(policy.decide(&alice, &"c2".parse().unwrap(), &action, &fixture::now()), Decision::Deny(_)));
    assert!(matches!(policy.decide(&alice, &"c3".parse().unwrap(), &action, &fixture::now()), Decision::Deny(_)));
}

#[test]
fn clusters_are_chosen_by_id_name_label_or_all_and_none_by_default() {
    let alice = user("alice", &["dev"]);
    let reached = |selector: serde_json::Value, subject: serde_json::Value| {
        let document = document(json!({
            "clusters": [
                {"id": "c1", "name": "a", "labels": {"stage": "prod", "zone": "eu"}},
                {"id": "c2", "name": "b", "labels": {"stage": "test", "zone": "eu"}},
                {"id": "c3", "name": "c"},
            ],
            "bindings": [{
                "name": "b", "subjects": [subject], "role": "view", "clusters": selector, "scope": "cluster"
            }]
        }));
        let policy = compiled(&document);
        policy.clusters_of(&alice).iter().map(|cluster| cluster.name.clone()).collect::<Vec<_>>().join("")
    };
    let group = json!({"group": "dev"});
    assert_eq!(reached(json!({}), group.clone()), "");
    assert_eq!(reached(json!({"all": true}), group.clone()), "abc");
    assert_eq!(reached(json!({"ids": ["c2", "gone"]}), group.clone()), "b");
    assert_eq!(reached(json!({"names": ["c"], "ids": ["c1"]}), group.clone()), "ac");
    assert_eq!(reached(json!({"matchLabels": {"zone": "eu"}}), group.clone()), "ab");
    assert_eq!(reached(json!({"matchLabels": {"zone": "eu", "stage": "test"}, "names": ["c"]}), group), "bc");
    assert_eq!(reached(json!({"all": true}), json!({"user": "alice"})), "abc");
    assert_eq!(reached(json!({"all": true}), json!({"user": "dev"})), "");
}

#[test]
fn everybody_bound_may_discover_and_ask_about_themselves() {
    let policy = compiled(&gives("view", json!({"namespaces": ["dev"]})));
    for (verb, what) in [
        ("get", "/api"),
        ("get", "/apis/apps/v1"),
        ("get", "/openapi/v3/apis/apps/v1"),
        ("get", "/version"),
        ("create", "authorization.k8s.io/selfsubjectaccessreviews"),
        ("create", "authorization.k8s.io/selfsubjectrulesreviews"),
        ("create", "authentication.k8s.io/selfsubjectreviews"),
    ] {
        let asked = target(what, None, None);
        assert!(allows(&policy, &user("alice", &[]), verb, asked), "{verb} {what}");
        assert!(!allows(&policy, &user("bob", &[]), verb, asked), "{verb} {what}");
    }
    assert!(!allows(&policy, &user("alice", &[]), "get", target("/apiserver", None, None)));
    assert!(!allows(&policy, &user("alice", &[]), "post", target("/api", None, None)));
}

#[test]
fn the_agents_own_things_are_closed_to_every_role() {
    let alice = user("alice", &[]);
    let policy = compiled(&gives("cluster-admin", json!("cluster")));
    for (verb, what, namespace, name) in [
        ("get", "core/secrets", Some("ztka-system"), Some("agent")),
        ("create", "core/serviceaccounts/token", Some("ztka-system"), Some("u1")),
        ("create", "core/pods/exec", Some("ztka-system"), Some("agent-0")),
        ("delete", "core/namespaces", Some("ztka-system"), Some("ztka-system")),
        ("patch", "rbac.authorization.k8s.io/clusterroles", None, Some("ztka:u1")),
        ("delete", "rbac.authorization.k8s.io/rolebindings", Some("dev"), Some("ztka:u1")),
        ("deletecollection", "rbac.authorization.k8s.io/clusterroles", None, None),
        ("deletecollection", "rbac.authorization.k8s.io/clusterrolebindings", None, None),
        ("deletecollection", "rbac.authorization.k8s.io/roles", Some("dev"), None),
        ("deletecollection", "rbac.authorization.k8s.io/rolebindings", None, None),
    ] {
        let why = refusal(asks(&policy, &alice, verb, target(what, namespace, name)));
        assert!(why.contains("agent"), "{why}");
    }
    assert!(allows(&policy, &alice, "get", target("rbac.authorization.k8s.io/clusterroles", None, Some("ztka:u1"))));
    assert!(allows(&policy, &alice, "delete", target("rbac.authorization.k8s.io/clusterroles", None, Some("own"))));
    assert!(allows(&policy, &alice, "deletecollection", target("core/pods", Some("dev"), None)));
    assert!(allows(&policy, &alice, "list", target("core/secrets", None, None)));
    let edit = compiled(&gives("edit", json!("cluster")));
    assert!(allows(&edit, &alice, "list", target("core/secrets", Some("dev"), None)));
    let why = refusal(asks(&edit, &alice, "watch", target("core/secrets", None, None)));
    assert!(why.contains("name a namespace"), "{why}");
    let elsewhere = compiled(&gives("cluster-admin", json!("cluster"))).closing("agents");
    assert!(allows(&elsewhere, &alice, "get", target("core/pods", Some("ztka-system"), Some("a"))));
    assert!(!allows(&elsewhere, &alice, "get", target("core/pods", Some("agents"), Some("a"))));
}

#[test]
fn a_refusal_says_whom_to_ask() {
    let policy = compiled(&gives("view", json!({"namespaces": ["dev", "web"]})));
    let asked = target("core/pods", Some("prod"), Some("a"));
    assert_eq!(
        refusal(asks(&policy, &user("bob", &[]), "delete", asked)),
        "bob has no role on cluster prod; ask an administrator of organisation acme"
    );
    assert_eq!(
        refusal(asks(&policy, &user("alice", &[]), "delete", asked)),
        "no role of alice on cluster prod gives this (they are: view in dev, web); ask an administrator of \
         organisation acme"
    );
}

#[test]
fn view_gets_secrets_or_exec_back_by_a_setting_each() {
    let alice = user("alice", &[]);
    let with = |settings| {
        let document = gives("view", json!("cluster"));
        compiled(&PolicyDocument { settings, ..document })
    };
    let can = |policy: &PolicySet| {
        (
            allows(policy, &alice, "get", target("core/secrets", Some("dev"), Some("a"))),
            allows(policy, &alice, "get", target("core/pods/exec", Some("dev"), Some("a"))),
        )
    };
    let settings = |view_secrets, view_exec| ztka_authz::Settings { view_secrets, view_exec };
    assert_eq!(can(&with(settings(false, false))), (false, false));
    assert_eq!(can(&with(settings(true, false))), (true, false));
    assert_eq!(can(&with(settings(false, true))), (false, true));
}

#[test]
fn a_policy_that_does_not_mean_what_it_says_is_refused_with_what_to_change() {
    let binding = |change: serde_json::Value| {
        let mut binding = json!({
            "name": "b", "subjects": [{"user": "alice"}], "role": "view", "clusters": {}, "scope": "cluster"
        });
        binding.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"bindings": [binding]})
    };
    let rule = |rule: serde_json::Value| json!({"roles": [{"name": "r", "rules": [rule]}]});
    for (policy, problem) in [
        (binding(json!({"role": "viewer"})), "there is no role \"viewer\""),
        (binding(json!({"clusters": {"matchLabels": {}}})), "set all = true"),
        (binding(json!({"scope": {"namespaces": []}})), "list of namespaces is empty"),
        (binding(json!({"scope": {"namespaces": ["dev-*"]}})), "not the name of a namespace"),
        (json!({"roles": [{"name": "edit", "rules": []}]}), "exists already"),
        (json!({"roles": [{"name": "", "rules": []}]}), "has no name"),
        (rule(json!({"verbs": []})), "needs verbs"),
        (rule(json!({"verbs": ["get"]})), "needs apiGroups"),
        (rule(json!({"verbs": ["get"], "apiGroups": [""]})), "needs apiGroups"),
        (rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a*b"]})), "only at its end"),
        (rule(json!({"verbs": ["get"], "nonResourceURLs": ["api"]})), "begins with /"),
        (
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/"], "apiGroups": [""], "resources": ["pods"]})),
            "make it two",
        ),
        (json!({"clusters": [{"id": "c1", "name": "a"}, {"id": "c1", "name": "b"}]}), "exists already"),
        (json!({"clusters": [{"id": "c1", "name": "a"}, {"id": "c2", "name": "a"}]}), "exists already"),
    ] {
        let error = document(policy.clone()).validate().expect_err(&policy.to_string()).to_string();
        assert!(error.contains(problem), "{error}");
    }
    for unreadable in [json!({"tides": []}), json!({"roles": [{"name": "r"}]})] {
        let compiled = PolicySet::compile(&fixture::signed(&unreadable, 1, Timestamp::MAX));
        assert!(matches!(compiled, Err(PolicyError::Unreadable(_))));
    }
}

#[test]
fn the_written_form_is_read_back() {
    let document = gives("view", json!({"namespaces": ["dev"]}));
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(serde_json::from_str::<PolicyDocument>(&json).unwrap(), document);
}

#[test]
fn a_rule_may_name_the_ports_that_are_forwarded() {
    let rules = json!([{
        "verbs": ["create"], "apiGroups": [""], "resources": ["pods/portforward"], "ports": [8080, "9000-9100"]
    }]);
    let policy = gives("forward", json!({"namespaces": ["dev"]}));
    let roles = document(json!({"roles": [{"name": "forward", "rules": rules}]})).roles;
    let (alice, policy) = (user("alice", &[]), compiled(&PolicyDocument { roles, ..policy }));
    let asks = |port| {
        let target = target("core/pods/portforward", Some("dev"), Some("web"));
        let action = ztka_authz::Action::new("get", target).on_port(port);
        policy.decide(&alice, &"c1".parse().unwrap(), &action, &fixture::now())
    };
    for port in [Port::Later, Port::Is(8080), Port::Is(9100)] {
        assert!(matches!(asks(port), Decision::Allow(_)), "{port:?}");
    }
    for port in [Port::Unknown, Port::Is(9101), Port::Is(80)] {
        assert!(matches!(asks(port), Decision::Deny(_)), "{port:?}");
    }
    let rendered = policy.render(&alice, &"c1".parse().unwrap()).unwrap();
    assert!(rendered.namespaces["dev"].iter().all(|rule| rule.ports.is_empty()), "RBAC knows no ports");
    for resources in [json!(["pods/portforward", "pods"]), json!(["*"]), json!(["pods/*"])] {
        let rule = json!({"verbs": ["create"], "apiGroups": [""], "resources": resources, "ports": [80]});
        let error = document(json!({"roles": [{"name": "r", "rules": [rule]}]})).validate().unwrap_err();
        assert!(error.to_string().contains("of its own"), "{error}");
    }
}

#[test]
fn a_binding_counts_within_its_term_and_gives_not_even_discovery_outside_of_it() {
    let (alice, cluster) = (user("alice", &[]), "c1".parse().unwrap());
    let mut document = gives("view", json!("cluster"));
    document.bindings[0].valid_from = Some("2026-01-05T10:00:00Z".parse().unwrap());
    document.bindings[0].valid_until = Some("2026-01-05T11:00:00Z".parse().unwrap());
    let policy = compiled(&document);
    for (at, expected) in [("09:59:59", false), ("10:00:00", true), ("10:59:59", true), ("11:00:00", false)] {
        let now: Timestamp = format!("2026-01-05T{at}Z").parse().unwrap();
        let facts = ztka_authz::Facts::at(now);
        for what in ["core/pods", "/api"] {
            let action = ztka_authz::Action::new("get", target(what, None, None));
            let decision = policy.decide(&alice, &cluster, &action, &facts);
            assert_eq!(matches!(decision, Decision::Allow(_)), expected, "{what} at {at}");
        }
        let rendered = policy.render_at(&alice, &cluster, now);
        assert_eq!(rendered.is_some_and(|rendered| rendered.cluster.len() > 3), expected, "rendered at {at}");
    }
    assert!(policy.is_timed());
}

#[test]
fn nobody_gives_a_role_that_they_do_not_have() {
    let policy = document(json!({
        "clusters": [{"id": "c1", "name": "a"}, {"id": "c2", "name": "b"}],
        "roles": [{"name": "pods", "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}],
        "bindings": [
            {"name": "own", "subjects": [{"group": "leads"}], "role": "edit", "clusters": {"ids": ["c1"]},
             "scope": {"namespaces": ["shop", "web"]}, "validUntil": "2026-06-01T00:00:00Z"},
        ],
    }));
    let lead = user("alice", &["leads"]);
    let may = |role: &str, clusters: serde_json::Value, scope: serde_json::Value, until: Option<&str>| {
        let binding = json!({"name": "new", "subjects": [{"user": "bob"}], "role": role, "clusters": clusters,
                             "scope": scope, "validUntil": until});
        policy.may_grant(&lead, &serde_json::from_value(binding).unwrap(), "2026-01-05T00:00:00Z".parse().unwrap())
    };
    let (c1, shop, may_end) = (json!({"ids": ["c1"]}), json!({"namespaces": ["shop"]}), Some("2026-05-01T00:00:00Z"));
    for role in ["pods", "view", "edit"] {
        assert_eq!(may(role, c1.clone(), shop.clone(), may_end), Ok(()), "{role}");
    }
    for (role, clusters, scope, until) in [
        ("cluster-admin", c1.clone(), shop.clone(), may_end),
        ("namespace-admin", c1.clone(), shop.clone(), may_end),
        ("pods", json!({"ids": ["c2"]}), shop.clone(), may_end),
        ("pods", json!({"all": true}), shop.clone(), may_end),
        ("pods", json!({"names": ["a"]}), shop.clone(), may_end),
        ("pods", c1.clone(), json!("allNamespaces"), may_end),
        ("pods", c1.clone(), json!("cluster"), may_end),
        ("pods", c1.clone(), json!({"namespaces": ["shop", "pay"]}), may_end),
        ("pods", c1.clone(), shop.clone(), None),
        ("pods", c1, shop, Some("2026-06-02T00:00:00Z")),
    ] {
        let excess =
            may(role, clusters.clone(), scope.clone(), until).expect_err(&format!("{role} {clusters} {scope}"));
        assert!(excess.to_string().contains("you"), "{excess}");
    }
}

#[test]
fn who_may_look_or_has_one_object_gives_no_more_than_that() {
    let rules = |verb: &str, names: serde_json::Value| json!([{"verbs": [verb], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": names}]);
    let own = |name: &str, role: &str| json!({"name": name, "subjects": [{"user": "alice"}], "role": role, "clusters": {"all": true}, "scope": "cluster"});
    let policy = document(json!({
        "clusters": [{"id": "c1", "name": "a"}],
        "roles": [
            {"name": "one", "rules": rules("get", json!(["a"]))},
            {"name": "two", "rules": rules("get", json!(["a", "b"]))},
            {"name": "all", "rules": rules("get", json!([]))},
            {"name": "look", "readOnly": true, "rules": rules("*", json!([]))},
            {"name": "look-once", "readOnly": true, "rules": rules("get", json!([]))},
        ],
        "bindings": [own("o", "one"), own("l", "look")],
    }));
    let may = |role: &str| {
        let binding = serde_json::from_value(own("new", role)).unwrap();
        policy.may_grant(&user("alice", &[]), &binding, "2026-01-05T00:00:00Z".parse().unwrap()).is_ok()
    };
    let given: Vec<_> =
        ["one", "two", "all", "look", "look-once", "none"].into_iter().filter(|role| may(role)).collect();
    assert_eq!(given, ["one", "look", "look-once"]);
}
