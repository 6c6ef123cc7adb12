//! A thousand agents that are connected while their authority is replaced: nobody is thrown out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#[path = "support/fleet.rs"]
mod fleet;
mod support;
#[path = "support/world.rs"]
mod world;

async fn nobody_is_thrown_out(agents: usize) {
    let rotated = fleet::rotate(agents).await;
    assert_eq!((rotated.agents, rotated.disconnected), (agents, 0));
    println!("{agents} agents renewed and dialled anew in {:?}, and none was disconnected", rotated.took);
}

#[tokio::test]
async fn fifty_agents_stay_connected_while_their_authority_is_replaced() {
    nobody_is_thrown_out(50).await;
}

#[tokio::test]
#[ignore = "takes a minute; part of cargo xtask test --long"]
async fn a_thousand_agents_stay_connected_while_their_authority_is_replaced() {
    nobody_is_thrown_out(1000).await;
}
