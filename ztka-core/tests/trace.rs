//! Whatever a client says of its trace, what goes on is well-formed.
#![allow(clippy::unwrap_used, reason = "tests")]

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use ztka_core::{TRACEPARENT, TRACESTATE, TraceContext};

/// What looks like one, with mistakes.
fn parents() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}".prop_map(String::into_bytes),
        "[0-9a-fA-F-]{50,60}".prop_map(String::into_bytes),
        "0{2}-[01]{32}-[01]{16}-0[0-9](-[a-z]{0,4})?".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn what_is_read_is_written_in_one_way(parent in parents()) {
        if let Some(read) = TraceContext::parse(&parent) {
            let written = read.to_string();
            prop_assert_eq!(written.len(), 55);
            prop_assert_eq!(TraceContext::parse(written.as_bytes()), Some(read));
            prop_assert_eq!(&written.as_bytes()[3..52], &parent[3..52]);
        }
    }

    #[test]
    fn what_goes_on_is_well_formed(
        parents in proptest::collection::vec(parents(), 0..3),
        states in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4),
    ) {
        let mut headers = HeaderMap::new();
        for (name, values) in [(&TRACEPARENT, &parents), (&TRACESTATE, &states)] {
            for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
                headers.append(name, value);
            }
        }
        let step = TraceContext::advance(&mut headers);
        prop_assert_eq!(TraceContext::read(&headers), Some(step));
        let length: usize = headers.get_all(&TRACESTATE).iter().map(HeaderValue::len).sum();
        prop_assert!(length <= 512);
    }
}
