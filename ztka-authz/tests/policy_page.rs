//! The cases of `docs/policy.md`, as they stand there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

use ztka_authz::{
    PolicySet,
    tools::{Expectations, policy_from_yaml},
};

const PAGE: &str = include_str!("../../docs/policy.md");

#[test]
fn each_case_says_what_it_is_expected_to() {
    let mut cases = 0;
    for case in PAGE.split("\n## ").skip(1) {
        let title = case.lines().next().unwrap();
        let blocks: Vec<&str> = case.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        let [policy, tests] = blocks[..] else {
            assert!(blocks.is_empty(), "{title}: a case is a policy and its tests");
            continue;
        };
        cases += 1;
        assert!(title.starts_with(&format!("{cases}. ")), "{title}");
        let document = policy_from_yaml(policy).unwrap_or_else(|error| panic!("{title}, policy: {error}"));
        let policy = PolicySet::candidate("acme".parse().unwrap(), document).unwrap();
        let tests = Expectations::from_yaml(tests).unwrap_or_else(|error| panic!("{title}, tests: {error}"));
        let outcomes = tests.run(&policy, "2026-01-05T12:00:00Z".parse().unwrap());
        assert!(!outcomes.is_empty(), "{title}");
        for outcome in outcomes {
            assert_eq!(outcome.failure, None, "{title}\n{}", outcome.name);
        }
    }
    assert_eq!(cases, 10);
}
