//! The examples run, and are short enough to be read.
#![allow(clippy::unwrap_used, reason = "a failed test is to panic")]

#[allow(dead_code, reason = "its main takes arguments")]
#[path = "../examples/decide.rs"]
mod decide;
#[path = "../examples/embed_in_tower.rs"]
mod embed_in_tower;

#[test]
fn one_question_is_decided_and_explained() {
    let said = decide::decide(&[]).unwrap();
    assert!(said.ends_with("allowed: by binding \"look\", role \"view\"\n"), "{said}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/policy_file/none");
    assert!(decide::decide(&[file, "alice", "prod", "get pods"].map(str::to_owned)).is_err(), "there is no such file");
    assert!(decide::decide(&["policy.yaml".to_owned()]).unwrap_err().to_string().contains("usage"));
}

#[test]
fn policy_stands_in_front_of_a_tower_service() {
    embed_in_tower::main().unwrap();
}

#[test]
fn each_is_shorter_than_fifty_lines() {
    for text in [include_str!("../examples/decide.rs"), include_str!("../examples/embed_in_tower.rs")] {
        assert!(text.lines().count() < 50, "{}", text.lines().count());
    }
}
