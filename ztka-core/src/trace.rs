//! The place of a request in a distributed trace, as W3C Trace Context carries it (`traceparent`, `tracestate`).
//!
//! What a client says of it is passed on and shown to whoever collects traces, and nothing else: no decision, no record and no
//! limit depends on it.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

use http::{HeaderMap, HeaderName, HeaderValue};

/// W3C Trace Context §3.2.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context §3.3.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-<32 digits>-<16 digits>-<2 digits>`
const LENGTH: usize = 55;
/// Longer ones of a later version are not read.
const LONGEST: usize = 256;
/// §3.3.1.1
const MOST_MEMBERS: usize = 32;
/// §3.3.1.5 asks for 512 characters at least; what is longer is left out as a whole.
const MOST_STATE: usize = 512;
/// The bit of §3.2.2.5.1 that version 00 knows; later ones are not passed on.
const SAMPLED: u8 = 1;

/// One step of a request in a trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// A trace that begins here. Its ids are random; it is not sampled, since nobody has asked for it.
    pub fn begin() -> Self {
        let trace = (u128::from(random()) << 64) | u128::from(random());
        Self { trace: trace.max(1), span: random().max(1), flags: 0 }
    }

    /// What `headers` say; `None` if they say nothing, or not exactly what the recommendation asks for.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        Self::parse(value.as_bytes())
    }

    /// Reads the value of `traceparent` (§3.2.2; of later versions what §4.3 says is to be read).
    pub fn parse(value: &[u8]) -> Option<Self> {
        let version = number(value.get(..2)?)?;
        let is_known = version == 0 && value.len() == LENGTH;
        let is_later = (1..0xff).contains(&version)
            && value.len() <= LONGEST
            && value.is_ascii()
            && value.get(LENGTH).is_none_or(|next| *next == b'-');
        if !is_known && !is_later {
            return None;
        }
        let hyphens = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
        let (trace, span, flags) =
            (number(value.get(3..35)?)?, number(value.get(36..52)?)?, number(value.get(53..LENGTH)?)?);
        if !hyphens || trace == 0 || span == 0 {
            return None;
        }
        Some(Self { trace, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()? & SAMPLED })
    }

    /// The next step of the same trace, whose parent this one is.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: random().max(1), ..self }
    }

    /// Puts the headers of a request one step further: of the trace that they name, or of one that begins here. What cannot be read is
    /// replaced, and the vendors' part is left out with it.
    pub fn advance(headers: &mut HeaderMap) -> Self {
        let read = Self::read(headers);
        if read.is_none() || !is_state(headers) {
            headers.remove(&TRACESTATE);
        }
        let context = read.map_or_else(Self::begin, Self::child);
        if let Ok(value) = HeaderValue::try_from(context.to_string()) {
            headers.insert(&TRACEPARENT, value);
        }
        context
    }

    /// Id of the trace: 32 hexadecimal digits, when written by `{:032x}`.
    pub fn trace(&self) -> u128 {
        self.trace
    }

    /// Id of the step: 16 hexadecimal digits, when written by `{:016x}`.
    pub fn span(&self) -> u64 {
        self.span
    }

    /// Whoever began the trace records it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Lower-case hexadecimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u128> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(u128::from(byte - b'0')),
        b'a'..=b'f' => Some(u128::from(byte - b'a') + 10),
        _ => None,
    };
    digits.iter().try_fold(0, |number: u128, byte| Some((number << 4) | digit(byte)?))
}

/// True if all lines of `tracestate` together are a list within bounds: `key=value, …`.
fn is_state(headers: &HeaderMap) -> bool {
    let (mut members, mut length) = (0, 0);
    for value in headers.get_all(&TRACESTATE) {
        length += value.len();
        let Ok(text) = value.to_str() else { return false };
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            members += 1;
            let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
            let Some((key, value)) = member.split_once('=') else { return false };
            if key.is_empty() || key.len() > 256 || !key.bytes().all(is_key) || value.is_empty() || value.contains('=')
            {
                return false;
            }
        }
    }
    members <= MOST_MEMBERS && length <= MOST_STATE
}

/// Unlike any other: the standard library's keys are random for each thread, and another for each call.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn reads_what_the_recommendation_asks_for_and_nothing_else() {
        let read = TraceContext::parse(GIVEN.as_bytes()).unwrap();
        assert_eq!((read.to_string().as_str(), read.is_sampled()), (GIVEN, true));
        // Of a later version: what is behind is not passed on, nor are flags that nobody knows.
        let later = TraceContext::parse(format!("cc-{}-what", &GIVEN[3..53].to_owned()).as_bytes());
        assert_eq!(later, None, "flags are two digits");
        let later = TraceContext::parse(format!("cc-{}ff-what-ever", &GIVEN[3..53]).as_bytes()).unwrap();
        assert_eq!(later.to_string(), GIVEN);
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319\u{e9}-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
        let long = format!("cc-{}-{}", &GIVEN[3..], "x".repeat(300));
        assert_eq!(TraceContext::parse(long.as_bytes()), None);
    }

    #[test]
    fn a_step_further_is_another_span_of_the_same_trace() {
        let mut asked = headers(&[("traceparent", GIVEN), ("tracestate", "a=1,b@c=2"), ("tracestate", "d=3")]);
        let step = TraceContext::advance(&mut asked);
        assert_eq!(format!("{:032x}", step.trace()), "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(format!("{:016x}", step.span()), "b7ad6b7169203331");
        assert_eq!((asked["traceparent"].to_str().unwrap(), step.is_sampled()), (step.to_string().as_str(), true));
        assert_eq!(asked.get_all("tracestate").iter().count(), 2);
        let next = TraceContext::advance(&mut asked);
        assert!(next.trace() == step.trace() && next.span() != step.span());
    }

    #[test]
    fn what_is_missing_or_wrong_begins_anew_without_what_vendors_say() {
        let twice = [("traceparent", GIVEN), ("traceparent", GIVEN), ("tracestate", "a=1")];
        for lines in [&[("tracestate", "a=1")][..], &[("traceparent", "00-x"), ("tracestate", "a=1")], &twice] {
            let mut asked = headers(lines);
            let begun = TraceContext::advance(&mut asked);
            assert!(!begun.is_sampled() && !asked.contains_key("tracestate"), "{asked:?}");
            assert_eq!(asked.get_all("traceparent").iter().count(), 1);
            assert_eq!(TraceContext::read(&asked), Some(begun));
            assert!(!begun.to_string().contains("0af7651916cd43dd8448eb211c80319c"));
        }
    }

    #[test]
    fn what_vendors_say_is_bounded() {
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let long = format!("k={}", "v".repeat(600));
        for bad in [many.as_str(), &long, "novalue", "K=v", "=v", "k=", "k=a=b"] {
            let mut asked = headers(&[("traceparent", GIVEN), ("tracestate", bad)]);
            let step = TraceContext::advance(&mut asked);
            assert!(!asked.contains_key("tracestate") && step.is_sampled(), "{bad}");
        }
    }

    #[test]
    fn ids_are_unlike_each_other() {
        let all: std::collections::HashSet<_> = (0..1000).map(|_| TraceContext::begin().trace()).collect();
        assert_eq!(all.len(), 1000);
    }
}
