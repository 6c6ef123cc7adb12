//! Properties of the parsers: nothing panics, and what is accepted has one reading.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod readings;

use proptest::{collection::vec, prelude::*, sample::select};
use readings::words::{METHODS, PARAMETERS, SEGMENTS};

fn request() -> impl Strategy<Value = String> {
    let head =
        select(vec!["", "", "/api/v1", "/api/v1", "/apis/apps/v1", "/api/v1/namespaces/default", "/api/v1/watch"]);
    let path = (head, vec(select(&SEGMENTS[..]), 0..8), select(vec!["", "", "", "/"]));
    let query = prop_oneof![Just(vec![]), vec(select(&PARAMETERS[..]), 1..5)];
    (select(&METHODS[..]), path, query).prop_map(|(method, (head, segments, end), query)| {
        let tail: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{method} {head}{tail}{end}{separator}{}", query.join("&"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn accepted_requests_have_one_reading(request in request()) {
        readings::request_attributes(request.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        readings::request_attributes(&[b"GET /api/v1/", bytes.as_slice()].concat());
        readings::request_attributes(&[b"GET /", bytes.as_slice()].concat());
        readings::request_attributes(&bytes);
        readings::signed_document(&bytes);
        readings::spiffe_id(&bytes);
        readings::spdy_frames(&bytes);
        readings::websocket_frames(&bytes);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "/(api/v1|apis/a/v1)/[a-z/%0-9a-f.;:+?&=\\\\,!]{0,60}") {
        readings::request_attributes(format!("GET {text}").as_bytes());
        readings::request_attributes(format!("DELETE {text}").as_bytes());
    }

    #[test]
    fn any_selector_is_read_as_the_apiserver_reads_it(selector in "(metadata\\.name)?[=!\\\\,ab./]{0,12}(,metadata.name=[ab\\\\,]{0,4})?") {
        readings::request_attributes(format!("GET /api/v1/pods?fieldSelector={selector}").as_bytes());
    }
}

/// The generator is worth its cases only if a good part of them is accepted.
#[test]
fn many_generated_requests_are_accepted() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let accepted = (0..2000)
        .filter(|_| readings::request_attributes(request().new_tree(&mut runner).unwrap().current().as_bytes()))
        .count();
    assert!(accepted > 200, "{accepted} of 2000");
}
