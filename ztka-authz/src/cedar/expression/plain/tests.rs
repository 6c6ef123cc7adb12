//! Cedar's own evaluator is the judge of ours.

use proptest::{prelude::*, sample::select};
use ztka_core::{Principal, Session};

use crate::{
    Action, Cluster, Facts, Mfa, MfaStrength, Target,
    cedar::expression::{Expression, How},
    condition::Request,
    matcher::Asked,
    words::Words,
};

const PATTERNS: [&str; 9] = ["*", "d*", "*v", "d*v", "dev", "*e*", "d*e*v", "", "*dev*dev*"];

fn atom() -> impl Strategy<Value = String> {
    let written = select(vec![
        "true",
        "false",
        "0",
        "600",
        "\"\"",
        "\"get\"",
        "\"dev\"",
        "\"pods\"",
        "[\"get\", \"dev\"]",
        "[\"ops\",\"dev\",\"dev\"]",
        "[]",
    ]);
    let facts = [
        "user",
        "groups",
        "cluster",
        "verb",
        "apiGroup",
        "resource",
        "subresource",
        "namespace",
        "name",
        "path",
        "mfaAge",
        "mfaStrength",
    ];
    let has = ["namespace", "subresource", "path", "groups", "verb", "command", "mfaAge", "nothing"];
    prop_oneof![
        written.prop_map(str::to_owned),
        select(facts.to_vec()).prop_map(|fact| format!("context.{fact}")),
        select(has.to_vec()).prop_map(|fact| format!("(context has {fact})")),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    atom().prop_recursive(5, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let signs = select(vec!["==", "!=", "<", "<=", ">", ">="]);
        let calls = select(vec!["contains", "containsAll", "containsAny"]);
        let joins = select(vec!["&&", "||"]);
        prop_oneof![
            (two.clone(), signs).prop_map(|((a, b), sign)| format!("({a} {sign} {b})")),
            (two.clone(), calls).prop_map(|((a, b), call)| format!("{a}.{call}({b})")),
            ([two.0.clone(), two.0.clone(), two.0], joins.clone(), joins)
                .prop_map(|([a, b, c], one, two)| format!("({a} {one} {b} {two} {c})")),
            two.1.clone().prop_map(|a| format!("!{a}")),
            two.1.clone().prop_map(|a| format!("{a}.isEmpty()")),
            (two.1.clone(), select(PATTERNS.to_vec())).prop_map(|(a, like)| format!("({a} like \"{like}\")")),
            [inner.clone(), inner.clone(), inner].prop_map(|[a, b, c]| format!("(if {a} then {b} else {c})")),
        ]
    })
}

fn user(groups: &[&str]) -> Principal {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        attributes: ztka_core::Attributes::new(),
        active_until: jiff::Timestamp::MAX,
    };
    Principal::new("acme".parse().unwrap(), session)
}

/// Each of several requests, as it is told to a condition.
fn each_request(mut visit: impl FnMut(&Request<'_>)) {
    let (words, cluster) = (Words::default(), Cluster::new("c1".parse().unwrap(), "prod"));
    let pods =
        |subresource, name| Target::Resource { group: "", resource: "pods", subresource, namespace: Some("dev"), name };
    let nodes = Target::Resource { group: "", resource: "nodes", subresource: None, namespace: None, name: None };
    let now: jiff::Timestamp = "2026-01-05T12:00:00Z".parse().unwrap();
    let mfa = |at: &str| Mfa { at: at.parse().unwrap(), strength: MfaStrength::Any };
    let command = ["ls", "-l"];
    for who in [user(&["dev", "ops"]), user(&[])] {
        for (verb, target) in [
            ("get", pods(None, Some("dev"))),
            ("create", pods(Some("exec"), Some("web"))),
            ("list", nodes),
            ("get", Target::Path("dev")),
        ] {
            for facts in [
                Facts::at(now),
                Facts::at(now).with_mfa(Some(mfa("2026-01-05T11:50:00Z"))).running(&command),
                Facts::at(now).with_mfa(Some(mfa("2026-01-05T12:50:00Z"))).running(&["ls -l"]),
            ] {
                let action = Action::new(verb, target);
                let asked = Asked::new(&words, &action);
                visit(&Request { who: &who, action: &action, asked: &asked, cluster: &cluster, facts: &facts });
            }
        }
    }
}

fn both_say_the_same(text: &str) {
    let Ok(cedar) = Expression::read_for_cedar(text) else { return };
    let ours = Expression::read(text).unwrap();
    assert!(matches!(ours.how, How::Plain(_)), "left to Cedar: {text}");
    each_request(|request| assert_eq!(ours.hold(request), cedar.hold(request), "{text}: {request:?}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_evaluated_here_cedar_answers_alike(text in expression()) {
        both_say_the_same(&text);
    }
}

#[test]
fn the_same_without_parentheses_and_with_spaces() {
    for text in [
        "context has namespace && context.namespace != \"kube-system\" && (context.verb == \"get\" || !context.groups.contains(\"ops\"))",
        "true || false && false",
        "false && true || true",
        "!true || true",
        "!!true",
        "if true then false else true",
        "context.verb==\"get\"||context.verb\n==\"list\"",
        "[\"ops\", \"dev\"] == context.groups",
        "context.groups == [\"ops\", \"dev\", \"ops\"]",
        "context has \"namespace\" && context.namespace like \"d*v\"",
        "1 < 2 && 2 >= 2 && 3 > 2 && 2 <= 1",
        "context.namespace",
        "context.verb && true",
        "false && context.verb",
        "true || context.verb",
        "context.groups.containsAll([]) && [].isEmpty()",
        "context.user like \"*a*l*i*c*e*\"",
        "\"aab\" like \"*ab\" && !(\"a\" like \"a*a\")",
    ] {
        both_say_the_same(text);
    }
}

#[test]
fn what_is_cedar_s_own_is_left_to_it() {
    for text in [
        "principal == User::\"alice\"",
        "context.source.isInRange(ip(\"192.0.2.0/24\"))",
        "context.now < datetime(\"2026-02-01\")",
        "1 + 1 == 2",
        "context.user == \"a\\n\"",
        "true // as it is",
        "{a: 1} has a",
        "[1, 2].contains(1)",
        "-1 < 0",
    ] {
        assert!(matches!(Expression::read(text).unwrap().how, How::Cedar(_)), "{text}");
    }
    assert!(Expression::read("not even Cedar").is_err());
    let deep = format!("{}true{}", "(".repeat(40), ")".repeat(40));
    assert!(Expression::read(&deep).is_err_and(|refused| refused.contains("brackets")));
}
