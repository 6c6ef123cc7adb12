//! An agent that hears nothing lets nobody in, ends what is open, and goes on with the next thing that it hears.

use std::time::Duration;

use http::{Response, StatusCode};
use jiff::SignedDuration;
use serde_json::json;
use ztka_core::{DocumentKind, Reply, body};

use crate::{
    open::{Stream, watched},
    support::{LIST, WATCH, response, text},
};

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_by_an_agent_that_hears_nothing_and_what_is_open_ends() {
    let (stage, alice) = watched().await;
    stage.documents.set_max_staleness(SignedDuration::from_secs(30));
    let stack = stage.stack(|| Reply::Response(Response::new(body("served"))));
    let mut stream = Stream::open(&stage, WATCH, &alice).await;
    let nothing_newer = json!({"newest": []});
    let head = async |org| stage.document_of(org, DocumentKind::Head, &nothing_newer).await;
    for _ in 0..5 {
        stage.clock.advance(SignedDuration::from_secs(29));
        assert_eq!(stage.bring(&stack, &head("acme").await).await, StatusCode::NO_CONTENT);
        tokio::time::sleep(Duration::from_secs(5)).await;
        stream.goes_on().await;
        assert_eq!(text(stage.ask(&stack, LIST, &alice).await).await, "served");
    }
    stage.clock.advance(SignedDuration::from_secs(30));
    assert_eq!(stage.bring(&stack, &head("other").await).await, StatusCode::FORBIDDEN);
    let refused = response(stage.ask(&stack, LIST, &alice).await);
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().get("retry-after").is_none(), "kubectl is to show it at once");
    let told = text(Reply::Response(refused)).await;
    assert!(told.contains("nothing was heard of the controller") && told.contains("max_staleness (30s)"), "{told}");
    stream.ends_because(&stage, "nothing was heard of the controller").await;

    assert_eq!(stage.bring(&stack, &head("acme").await).await, StatusCode::NO_CONTENT);
    assert_eq!(text(stage.ask(&stack, LIST, &alice).await).await, "served");
    let _anew = Stream::open(&stage, WATCH, &alice).await;
}
