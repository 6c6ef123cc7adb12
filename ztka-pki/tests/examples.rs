//! The examples run, and are short enough to be read.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../examples/custom_signer.rs"]
mod custom_signer;
#[path = "../examples/enrol.rs"]
mod enrol;
#[path = "../examples/hot_swap.rs"]
mod hot_swap;

#[test]
fn an_agent_enrols() {
    enrol::main().unwrap();
}

#[test]
fn a_key_service_of_ones_own_signs() {
    custom_signer::main().unwrap();
}

#[test]
fn a_certificate_is_swapped_under_a_connection() {
    hot_swap::main().unwrap();
}

#[test]
fn none_is_longer_than_sixty_lines() {
    let sources = [
        include_str!("../examples/custom_signer.rs"),
        include_str!("../examples/enrol.rs"),
        include_str!("../examples/hot_swap.rs"),
    ];
    for source in sources {
        assert!(
            source.lines().filter(|line| !line.trim().is_empty()).count() <= 60,
            "{}",
            source.lines().next().unwrap()
        );
    }
}
