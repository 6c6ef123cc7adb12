//! What a binding asks the agent to see to: it does, or lets nobody in by that binding.

use std::time::Duration;

use http::StatusCode;
use jiff::SignedDuration;
use serde_json::json;
use ztka_core::Reply;

use crate::{
    open::{Stream, watched},
    support::{EXEC, LIST, WATCH, response, text},
};

fn for_an_hour() -> serde_json::Value {
    json!({"obligations": {"maxDuration": "1h"}})
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_it_has_lasted_as_long_as_policy_lets_it() {
    let (stage, alice) = watched().await;
    stage.bound_with(for_an_hour()).await;
    let mut stream = Stream::open(&stage, WATCH, &alice).await;
    stage.clock.advance(SignedDuration::from_mins(59));
    // Another policy does not begin the hour anew.
    stage.bound_with(for_an_hour()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stream.goes_on().await;
    stage.clock.advance(SignedDuration::from_mins(1));
    stream.ends_because(&stage, "binding \"team\" lets it last 1h").await;
    let _anew = Stream::open(&stage, WATCH, &alice).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_comes_later_counts_from_the_streams_beginning() {
    let (stage, alice) = watched().await;
    stage.bound_with(json!({})).await;
    let mut stream = Stream::open(&stage, WATCH, &alice).await;
    stage.clock.advance(SignedDuration::from_hours(2));
    tokio::time::sleep(Duration::from_secs(5)).await;
    stream.goes_on().await;
    stage.bound_with(for_an_hour()).await;
    stream.ends_because(&stage, "lets it last 1h").await;
}

#[tokio::test]
async fn an_event_that_is_to_say_more_than_any_says_keeps_everybody_out() {
    let (stage, alice) = watched().await;
    let answered = || Reply::Response(http::Response::new(ztka_core::empty()));
    let stack = stage.stack(answered);
    for (obligations, target, allowed) in [
        (json!({"audit": "Metadata"}), LIST, true),
        (json!({"audit": "Request"}), LIST, false),
        (json!({"audit": "RequestResponse"}), LIST, false),
        (json!({"record": true}), LIST, true),
        (json!({"record": true}), EXEC, false),
        (json!({"stepUp": true}), LIST, false),
        (json!({"somethingNew": true}), LIST, false),
    ] {
        stage.bound_with(json!({"obligations": obligations})).await;
        let reply = stage.ask(&stack, target, &alice).await;
        match allowed {
            true => assert_eq!(response(reply).status(), StatusCode::OK, "{obligations}"),
            false => assert!(text(reply).await.contains("would give this, but"), "{obligations} {target}"),
        }
    }
}
