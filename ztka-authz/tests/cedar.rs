//! Conditions in Cedar: what they may look at, what they give, and that nothing that is not known fulfils one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use fixture::{allows, compiled, described, gives, now, refusal, target, user};
use serde_json::{Value, json};
use ztka_authz::{
    Action, Facts, Mfa, MfaStrength, PolicyDocument, PolicySet, Target, Unmet, Verdict, tools::policy_from_yaml,
};

fn when(cedar: &str) -> PolicyDocument {
    let mut document = serde_json::to_value(gives("cluster-admin", json!("cluster"))).unwrap();
    document["clusters"][0]["labels"] = json!({"stage": "prod"});
    document["bindings"][0]["when"] = json!({"cedar": cedar});
    serde_json::from_value(document).unwrap()
}

/// True, false, or none where it cannot be evaluated.
fn holds(policy: &PolicySet, action: &Action<'_>, facts: &Facts<'_>) -> Option<bool> {
    match policy.weigh(&described("alice", &["dev", "ops"], &[("team", "shop")]), &"c1".parse().unwrap(), action, facts)
    {
        Verdict::Allow { .. } => Some(true),
        Verdict::Deny { reason: ztka_authz::Refused::Unmet { condition: Unmet::Cedar, .. } } => Some(false),
        Verdict::Deny { reason: ztka_authz::Refused::Unmet { condition: Unmet::CedarError, .. } } => None,
        Verdict::Deny { reason } => panic!("{reason:?}"),
    }
}

#[test]
fn an_expression_looks_at_who_asks_for_what_where_when_and_how() {
    let pods = Action::new("delete", target("core/pods", Some("dev"), Some("web")));
    let exec = Action::new("create", target("core/pods/exec", Some("dev"), Some("web")));
    let path = Action::new("get", Target::Path("/metrics"));
    let mfa = Mfa { at: "2026-01-05T11:50:00Z".parse().unwrap(), strength: MfaStrength::PhishingResistant };
    let all = now().from_source(Some("192.0.2.7".parse().unwrap())).with_mfa(Some(mfa));
    let command = ["ls", "-l"];
    let with_command = all.running(&command);
    let nothing = now();
    for (text, action, facts, expected) in [
        ("true", pods, &nothing, Some(true)),
        ("false", pods, &nothing, Some(false)),
        ("context.user == \"alice\" && context.cluster == \"prod\"", pods, &nothing, Some(true)),
        ("principal == User::\"alice\" && resource == Cluster::\"prod\"", pods, &nothing, Some(true)),
        ("principal == User::\"bob\"", pods, &nothing, Some(false)),
        ("context.groups.contains(\"ops\")", pods, &nothing, Some(true)),
        ("context.groups.contains(\"web\")", pods, &nothing, Some(false)),
        ("context.verb == \"delete\"", pods, &nothing, Some(true)),
        ("[\"get\", \"list\"].contains(context.verb)", pods, &nothing, Some(false)),
        ("context has resource && context.resource == \"pods\"", pods, &nothing, Some(true)),
        ("context has apiGroup && context.apiGroup == \"\"", pods, &nothing, Some(true)),
        ("context has namespace && context.namespace like \"d*\"", pods, &nothing, Some(true)),
        ("context has name && context.name == \"db\"", pods, &nothing, Some(false)),
        ("context has subresource && context.subresource == \"exec\"", exec, &nothing, Some(true)),
        ("context has subresource", pods, &nothing, Some(false)),
        ("context has path && context.path == \"/metrics\"", path, &nothing, Some(true)),
        ("context has resource", path, &nothing, Some(false)),
        ("context.now < datetime(\"2026-02-01\")", pods, &nothing, Some(true)),
        ("context.now >= datetime(\"2026-01-05T12:00:00Z\")", pods, &nothing, Some(true)),
        ("resource.hasTag(\"stage\") && resource.getTag(\"stage\") == \"prod\"", pods, &nothing, Some(true)),
        ("resource.hasTag(\"zone\")", pods, &nothing, Some(false)),
        // What is known.
        ("context.source.isInRange(ip(\"192.0.2.0/24\"))", pods, &all, Some(true)),
        ("!context.source.isInRange(ip(\"192.0.2.0/24\"))", pods, &all, Some(false)),
        ("context.mfaAge <= 900 && context.mfaStrength == \"phishing-resistant\"", pods, &all, Some(true)),
        ("context.mfaAge < 600", pods, &all, Some(false)),
        ("principal.hasTag(\"team\") && principal.getTag(\"team\") == \"shop\"", pods, &nothing, Some(true)),
        ("principal.hasTag(\"team\") && principal.getTag(\"team\") == \"pay\"", pods, &nothing, Some(false)),
        ("!principal.hasTag(\"stage\")", pods, &nothing, Some(true)),
        ("context has command && context.command like \"ls *\"", exec, &with_command, Some(true)),
        ("context has command && context.command == \"sh\"", exec, &with_command, Some(false)),
        ("!(context has command)", pods, &all, Some(true)),
        // What nobody knows fulfils nothing, whatever the expression makes of it.
        ("context.source.isInRange(ip(\"192.0.2.0/24\"))", pods, &nothing, None),
        ("!context.source.isInRange(ip(\"192.0.2.0/24\"))", pods, &nothing, None),
        ("true || context.mfaAge < 900", pods, &nothing, None),
        ("if context has command then context.command == \"ls\" else true", exec, &nothing, None),
    ] {
        let document = when(text);
        document.validate().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(holds(&compiled(&document), &action, facts), expected, "{text}");
    }
    // Two commands that would read alike are none.
    let one_word = ["ls", "-l /tmp"];
    let policy = compiled(&when("context has command && context.command like \"ls *\""));
    assert_eq!(holds(&policy, &exec, &all.running(&one_word)), None);
}

#[test]
fn what_cannot_be_evaluated_denies_and_says_so() {
    let alice = user("alice", &[]);
    let pods = target("core/pods", Some("dev"), Some("web"));
    // An overflow is known only when it happens.
    let document = when("9223372036854775807 + context.mfaAge > 0");
    document.validate().unwrap();
    let policy = compiled(&document);
    let mfa = Mfa { at: "2026-01-05T11:50:00Z".parse().unwrap(), strength: MfaStrength::Any };
    let facts = now().with_mfa(Some(mfa));
    let said = refusal(policy.decide(&alice, &"c1".parse().unwrap(), &Action::new("get", pods), &facts));
    assert_eq!(said, "binding \"b\" would give this, but its Cedar expression could not be evaluated");
    let said = refusal(fixture::asks(&compiled(&when("context.verb == \"list\"")), &alice, "get", pods));
    assert_eq!(said, "binding \"b\" would give this, but its Cedar expression is not true");

    // In a denial it denies; one that is false does not.
    let denied = |cedar: &str| {
        let mut document = serde_json::to_value(gives("cluster-admin", json!("cluster"))).unwrap();
        document["denials"] = json!([{"name": "d", "clusters": {"all": true}, "scope": "cluster", "when": {"cedar": cedar},
            "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]}]);
        compiled(&serde_json::from_value(document).unwrap())
    };
    for (cedar, expected) in [
        ("context.verb == \"get\"", false),
        ("context.verb == \"list\"", true),
        ("context.source.isInRange(ip(\"192.0.2.0/24\"))", false),
        ("not even Cedar", false),
    ] {
        assert_eq!(allows(&denied(cedar), &alice, "get", pods), expected, "{cedar}");
    }
}

#[test]
fn what_is_wrong_cannot_be_written_and_gives_nothing_where_it_is_received() {
    let alice = user("alice", &[]);
    for (text, problem) in [
        ("", "unexpected"),
        ("context.verb = \"get\"", "="),
        ("context.moon == \"full\"", "moon"),
        ("context.namespace == \"dev\"", "optional"),
        ("context.verb == 5", "type"),
        ("context.verb", "type"),
        ("principal in Group::\"dev\"", "Group"),
        ("true }; permit(principal, action, resource) when { true", "unexpected"),
        ("true } unless { false", "unexpected"),
        ("context == {}", "by its parts"),
        ("context[\"na\\u{6d}e\"] == \"a\"", "without \\u"),
        (&format!("true{}", " && true".repeat(1000)), "longer than"),
        (&"(".repeat(4000), ""),
        (&"!".repeat(4000), ""),
    ] {
        let document = when(text);
        let error = document.validate().expect_err(text).to_string();
        assert!(
            error.starts_with("binding \"b\": the Cedar expression: ") && error.contains(problem),
            "{text}: {error}"
        );
        let policy = compiled(&document);
        assert!(!allows(&policy, &alice, "get", target("core/pods", None, None)), "{text}");
    }
    let error = policy_from_yaml(
        "clusters: [{id: c1, name: prod}]\nbindings:\n- name: b\n  subjects: [{user: alice}]\n  role: view\n  \
         clusters: {all: true}\n  scope: cluster\n  when:\n    networks: [10.0.0.0/8]\n    cedar: |\n      context.moon\n",
    )
    .unwrap_err();
    assert_eq!(error.line(), 10, "{error}");
}

#[test]
fn only_expressions_of_bindings_that_would_give_it_are_evaluated() {
    // A thousand others, which cannot be evaluated, change nothing: they are not looked at.
    let mut document = serde_json::to_value(when("context.verb == \"get\"")).unwrap();
    let more = (0..1000).map(|n| {
        json!({"name": format!("b{n}"), "subjects": [{"user": "alice"}], "role": "log", "scope": "cluster",
               "clusters": if n % 2 == 0 { json!({"ids": ["c2"]}) } else { json!({"all": true}) },
               "when": {"cedar": format!("context.mfaAge < {n}")}})
    });
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}]);
    document["roles"] = json!([{"name": "log", "rules": rules}]);
    document["bindings"].as_array_mut().unwrap().extend(more.collect::<Vec<Value>>());
    let policy = compiled(&serde_json::from_value(document).unwrap());
    let alice = user("alice", &[]);
    assert!(allows(&policy, &alice, "get", target("core/pods", None, Some("web"))));
    let said = refusal(fixture::asks(&policy, &alice, "list", target("core/pods", None, None)));
    assert!(said.contains("is not true"), "{said}");
}
