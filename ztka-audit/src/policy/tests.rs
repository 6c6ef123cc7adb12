//! Rules against requests, as `k8s.io/apiserver/pkg/audit/policy/checker_test.go` has them, and files that are none.

use http::{Method, Uri};
use jiff::Timestamp;
use ztka_core::{Attributes, Session};

use super::*;

fn who(name: &str, groups: &[&str]) -> Principal {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: name.parse().unwrap(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        attributes: Attributes::new(),
        active_until: Timestamp::MAX,
    };
    Principal::new("acme".parse().unwrap(), session)
}

fn asked(method: &Method, target: &str) -> RequestAttributes {
    RequestAttributes::parse(method, &Uri::try_from(target).unwrap(), None).unwrap()
}

fn policy(rules: &str) -> Policy {
    Policy::from_yaml(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}")).unwrap()
}

const POD: &str = "/api/v1/namespaces/default/pods/busybox";

#[test]
fn a_rule_matches_what_kubernetes_says_it_does() {
    let rules = [
        ("users: [tim]", true),
        ("users: [ed]", false),
        ("userGroups: [humans]", true),
        ("userGroups: [admins]", false),
        ("verbs: [get]", true),
        ("verbs: [create]", false),
        ("namespaces: [default]", true),
        ("namespaces: [kube-system]", false),
        ("namespaces: ['']", false),
        ("nonResourceURLs: ['*']", false),
        ("resources: [{group: ''}]", true),
        ("resources: [{group: apps}]", false),
        ("resources: [{group: '', resources: [pods]}]", true),
        ("resources: [{group: '', resources: ['*']}]", true),
        ("resources: [{group: '', resources: ['pods/*']}]", true),
        ("resources: [{group: '', resources: ['pods/log']}]", false),
        ("resources: [{group: '', resources: ['*/log']}]", false),
        ("resources: [{group: '', resources: [secrets]}]", false),
        ("resources: [{group: '', resources: [pods], resourceNames: [busybox]}]", true),
        ("resources: [{group: '', resources: [pods], resourceNames: [edit]}]", false),
        ("namespaces: [default]\n  resources: [{group: '', resources: [services]}]", false),
    ];
    let (tim, get) = (who("tim", &["humans"]), asked(&Method::GET, POD));
    for (rule, matches) in rules {
        let policy = policy(&format!("- level: Request\n  {rule}"));
        assert_eq!(policy.say(&tim, &get).level == Level::Request, matches, "{rule}");
    }
    let log = asked(&Method::GET, &format!("{POD}/log"));
    for (spec, matches) in
        [("pods", false), ("pods/log", true), ("pods/*", true), ("*/log", true), ("*", true), ("*/exec", false)]
    {
        let policy = policy(&format!("- level: Request\n  resources: [{{group: '', resources: ['{spec}']}}]"));
        assert_eq!(policy.say(&tim, &log).level == Level::Request, matches, "{spec}");
    }
    let health = asked(&Method::GET, "/healthz/etcd");
    for (spec, matches) in [("/healthz/etcd", true), ("/healthz*", true), ("*", true), ("/healthz", false)] {
        let policy = policy(&format!("- level: Request\n  nonResourceURLs: ['{spec}']"));
        assert_eq!(policy.say(&tim, &health).level == Level::Request, matches, "{spec}");
    }
    let nodes = asked(&Method::GET, "/api/v1/nodes");
    assert_eq!(policy("- level: Request\n  namespaces: ['']").say(&tim, &nodes).level, Level::Request);
}

#[test]
fn the_first_rule_that_matches_decides_and_none_is_none() {
    let policy = policy(
        "- level: None\n  users: [tim]\n  verbs: [watch]\n- level: RequestResponse\n  users: [tim]\n- level: Metadata\n  \
         userGroups: [humans]",
    );
    let get = asked(&Method::GET, POD);
    assert_eq!(policy.say(&who("tim", &["humans"]), &get).level, Level::RequestResponse);
    assert_eq!(policy.say(&who("ed", &["humans"]), &get).level, Level::Metadata);
    assert_eq!(policy.say(&who("ed", &[]), &get).level, Level::None);
    let watch = asked(&Method::GET, "/api/v1/pods?watch=1");
    assert_eq!(policy.say(&who("tim", &[]), &watch).level, Level::None);
}

#[test]
fn stages_and_managed_fields_are_left_out_as_rule_and_policy_say() {
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nmetadata: {name: x, creationTimestamp: null}\nomitStages: [RequestReceived]\n\
                omitManagedFields: true\nrules:\n- level: Metadata\n  users: [ed]\n  omitManagedFields: false\n- level: Metadata\n  \
                omitStages: [ResponseStarted]\n";
    let policy = Policy::from_yaml(text).unwrap();
    assert!(policy.not_followed().unwrap().contains("ResponseStarted alone"));
    let get = asked(&Method::GET, POD);
    let ed = policy.say(&who("ed", &[]), &get);
    assert!(!ed.omit_managed_fields && !ed.omit_started);
    let tim = policy.say(&who("tim", &[]), &get);
    assert!(tim.omit_managed_fields && tim.omit_started);
}

#[test]
fn what_is_no_policy_is_refused_with_its_line() {
    let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
    let cases = [
        (format!("{head}rules:\n- level: Metadata\n  user: [tim]\n"), 5, "user"),
        (format!("{head}rule:\n- level: Metadata\n"), 3, "rule"),
        (format!("{head}rules:\n- level: Everything\n"), 4, "Everything"),
        (format!("{head}rules:\n- users: [tim]\n"), 4, "level"),
        (format!("{head}rules: []\n"), 3, "at least one"),
        (format!("{head}omitStages: [Later]\nrules:\n- level: None\n"), 3, "Later"),
        (format!("{head}rules:\n- level: None\n  nonResourceURLs:\n  - healthz\n"), 6, "begins with /"),
        (format!("{head}rules:\n- level: None\n  nonResourceURLs: ['/a*b']\n"), 5, "at its end"),
        (format!("{head}rules:\n- level: None\n  namespaces: [a]\n  nonResourceURLs: ['*']\n"), 6, "make it two"),
        (format!("{head}rules:\n- level: None\n  resources:\n  - group: apps/v1\n"), 6, "leave out the version"),
        (format!("{head}rules:\n- level: None\n  resources:\n  - resourceNames: [a]\n"), 6, "need the resources"),
        (format!("{head}rules:\n- level: None\n  resources:\n  - resources: [a/b/c]\n"), 6, "no resource"),
        ("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]\n".into(), 1, "audit.k8s.io/v1"),
        ("apiVersion: audit.k8s.io/v1\nkind: Event\nrules: [{level: None}]\n".into(), 2, "Policy"),
        ("a: b: c".into(), 1, "YAML"),
    ];
    for (text, line, problem) in cases {
        let error = Policy::from_yaml(&text).unwrap_err();
        assert_eq!(error.line(), line, "{text}: {error}");
        assert!(error.problem().contains(problem), "{text}: {error}");
    }
}
