//! The trace that a client names is read as W3C Trace Context says, and what goes on is well-formed.

use http::{HeaderMap, HeaderValue};
use ztka_core::{TRACEPARENT, TRACESTATE, TraceContext};

/// Reads lines of `p` and a `traceparent`, or `s` and a `tracestate`; true if a trace was read.
pub(crate) fn trace_context(data: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((kind, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        match kind {
            b'p' => headers.append(&TRACEPARENT, value),
            b's' => headers.append(&TRACESTATE, value),
            _ => continue,
        };
    }
    let parents: Vec<_> = headers.get_all(&TRACEPARENT).iter().cloned().collect();
    let states: Vec<_> = headers.get_all(&TRACESTATE).iter().cloned().collect();
    let expected = match parents.as_slice() {
        [parent] => parent.to_str().ok().and_then(specified),
        _ => None,
    };
    let read = TraceContext::read(&headers);
    let seen = read.map(|read| (format!("{:032x}", read.trace()), format!("{:016x}", read.span()), read.is_sampled()));
    assert_eq!(seen, expected, "{parents:?}");

    let step = TraceContext::advance(&mut headers);
    let written = headers.get_all(&TRACEPARENT).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(written, [step.to_string()]);
    let (trace, span, is_sampled) = specified(written[0]).expect("what goes on is read");
    assert!(written[0].starts_with("00-") && span == format!("{:016x}", step.span()));
    match &expected {
        Some((of, parent, was_sampled)) => {
            assert!(trace == *of && span != *parent && is_sampled == *was_sampled, "{parents:?}");
        }
        None => assert!(!is_sampled),
    }
    let passed: Vec<_> = headers.get_all(&TRACESTATE).iter().cloned().collect();
    assert!(passed.is_empty() || (passed == states && expected.is_some()), "{states:?}");
    assert!(passed.iter().map(HeaderValue::len).sum::<usize>() <= 512);
    expected.is_some()
}

/// Trace, parent, and whether it is sampled, by §3.2 and §4.3 of W3C Trace Context.
fn specified(parent: &str) -> Option<(String, String, bool)> {
    let digits = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let mut parts = parent.splitn(5, '-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let rest = parts.next();
    let is_form = digits(version, 2) && digits(trace, 32) && digits(span, 16) && digits(flags, 2);
    let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    // A later version may have more behind another hyphen; nobody needs to read hundreds of bytes for it.
    let is_version = match version {
        "ff" => false,
        "00" => rest.is_none(),
        _ => parent.len() <= 256,
    };
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (is_form && is_version && !is_zero(trace) && !is_zero(span)).then(|| (trace.into(), span.into(), sampled))
}
