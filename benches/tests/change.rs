//! Each kind of change is enforced by every proxy that follows, for the next request and for what is open.

use std::time::Duration;

use ztka_benches::change::{Plan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_is_enforced_everywhere() {
    let plan = Plan { proxies: 5, changes: 1, bindings: 10 };
    let figures = tokio::time::timeout(Duration::from_secs(240), run(plan, |_| {})).await.expect("in time").unwrap();
    assert_eq!(figures.kinds.len(), 7);
    for kind in figures.kinds {
        // Whatever the time, which is for the figure.
        assert_eq!((kind.refused.len(), kind.ended.len(), kind.open), (5, 5, 5), "{}", kind.what);
    }
}
