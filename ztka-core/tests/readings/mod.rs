//! What must hold for any input: shared by property tests, the replay of corpora and the fuzz targets.
//!
//! [`request_attributes`] holds ours against a second reading of the same request, written from the apiserver's code
//! alone: decode the whole path, trim its slashes, split.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod chance;
pub(crate) mod trace;
pub(crate) mod words;

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, Method, Uri, header::SEC_WEBSOCKET_PROTOCOL};
use jiff::Timestamp;
use ztka_core::stream::{
    Violation,
    channel::{self, Version},
    forward, spdy,
    websocket::Sender,
};
use ztka_core::{
    DocumentSet, KeyId, RequestAttributes, RequestTarget, SignatureCheck, SignedDocument, SpiffeId, Upgrade, Verb,
};

/// Reads `<method> <target>`; true if it was accepted.
pub(crate) fn request_attributes(data: &[u8]) -> bool {
    let Some(space) = data.iter().position(|&byte| byte == b' ') else { return false };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(&data[..space]), Uri::try_from(&data[space + 1..])) else {
        return false;
    };
    let Ok(ours) = RequestAttributes::parse(&method, &uri, None) else { return false };

    let canonical = ours.path_and_query();
    assert!(canonical.as_str().len() <= 61_440);
    let again = RequestAttributes::parse(&method, &canonical.clone().into(), None).expect("the canonical form is read");
    assert_eq!(again.path_and_query(), canonical);
    assert_eq!((again.verb(), again.target(), again.method()), (ours.verb(), ours.target(), ours.method()));

    let expected = seen(&ours);
    for uri in [uri, canonical.clone().into()] {
        let theirs = Reading::of(method.as_str(), uri.path(), uri.query().unwrap_or_default());
        assert_eq!(theirs.as_ref(), Some(&expected), "{method} {uri}");
    }
    true
}

/// Reads a document from the wire; true if it has the form of one. Nobody's signature is none.
pub(crate) fn signed_document(data: &[u8]) -> bool {
    struct Nobody;
    impl SignatureCheck for Nobody {
        fn is_signed(&self, _: &KeyId, _: &[u8], _: &[u8]) -> bool {
            false
        }
    }
    let Ok(read) = SignedDocument::from_wire(data) else { return false };
    let again = SignedDocument::from_wire(&read.to_wire()).expect("what is written is read");
    assert_eq!(again.header(), read.header());
    assert_eq!(again.to_wire(), read.to_wire());
    assert!(DocumentSet::default().accept(read, &Nobody, Timestamp::UNIX_EPOCH).is_err());
    true
}

/// Reads a URI name; true if it is one of ours. There is one spelling.
pub(crate) fn spiffe_id(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(id) = text.parse::<SpiffeId>() else { return false };
    assert_eq!(id.to_string(), text);
    assert!(text.is_ascii() && text.len() < 1024);
    true
}

/// Reads one direction of SPDY/3.1, whole and byte by byte; true if nothing in it is wrong.
pub(crate) fn spdy_frames(data: &[u8]) -> bool {
    let read = |size: usize| {
        let mut decoder = spdy::Decoder::default();
        let mut payload = 0;
        for mut piece in data.chunks(size) {
            while !piece.is_empty() {
                let (consumed, event) = decoder.decode(piece).map_err(|violation| (payload, violation))?;
                assert!(consumed > 0);
                piece = &piece[consumed..];
                match event {
                    Some(spdy::Event::Data { bytes, .. }) => payload += bytes.len(),
                    Some(spdy::Event::Open { headers, .. }) => assert!(headers.iter().count() < 3000),
                    _ => {}
                }
            }
        }
        Ok::<usize, (usize, Violation)>(payload)
    };
    assert_eq!(read(data.len().max(1)), read(1));
    read(7).is_ok()
}

/// Reads one direction of WebSocket channels; the first bit says whose. True if nothing in it is wrong.
pub(crate) fn websocket_frames(data: &[u8]) -> bool {
    let Some((first, data)) = data.split_first() else { return false };
    let sender = if first & 1 == 0 { Sender::Client } else { Sender::Server };
    let version = if first & 2 == 0 { Version::V4 } else { Version::V5 };
    let read = |size: usize| {
        let mut decoder = channel::Decoder::new(sender, version);
        let mut payload = 0;
        for mut piece in data.chunks(size) {
            while !piece.is_empty() {
                let (consumed, event) = decoder.decode(piece).map_err(|violation| (payload, violation))?;
                assert!(consumed > 0);
                piece = &piece[consumed..];
                if let Some(channel::Event::Data { bytes, .. }) = event {
                    assert!(!bytes.is_empty());
                    payload += bytes.len();
                }
            }
        }
        Ok::<usize, (usize, Violation)>(payload)
    };
    assert_eq!(read(data.len().max(1)), read(1));
    read(7).is_ok()
}

/// Reads both directions of a port-forward by the same bytes; the first bit says whether they are inside a WebSocket. True if
/// nothing in the client's is wrong.
pub(crate) fn port_forward(data: &[u8]) -> bool {
    let Some((first, data)) = data.split_first() else { return false };
    let upgrade = if first & 1 == 0 { Upgrade::Spdy31 } else { Upgrade::WebSocket };
    let answer = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(forward::TUNNELLED))]);
    let read = |size: usize| {
        let (mut requests, mut opens) = (forward::Requests::of(upgrade, &answer).expect("SPDY"), Vec::new());
        let ends = data.chunks(size).map(|piece| requests.read(piece, |open| opens.push(open)));
        let is_read = ends.fold(true, |fine, end| fine & end.is_ok());
        (is_read, opens)
    };
    let (is_read, opens) = read(1);
    assert_eq!(read(data.len().max(1)), (is_read, opens.clone()));
    assert_eq!(read(7), (is_read, opens.clone()));

    // Where a frame could stand is found from anywhere, and nothing between is passed over.
    let is_tunnelled = upgrade == Upgrade::WebSocket;
    let mut one = forward::Answers::new(is_tunnelled);
    let mut between = vec![one.is_between()];
    for byte in data {
        one.passed(std::slice::from_ref(byte));
        between.push(one.is_between());
    }
    let (mut steps, mut at) = (forward::Answers::new(is_tunnelled), 0);
    while at < data.len() && !steps.is_lost() {
        let step = steps.until_between().min(data.len() - at);
        assert!(step > 0);
        assert!(!between[at + 1..at + step].contains(&true), "{at}: {step}");
        steps.passed(&data[at..at + step]);
        at += step;
        assert_eq!(steps.is_between(), between[at]);
    }
    let mut refusal = forward::Refusal::new(&forward::Answers::new(is_tunnelled), "no");
    opens.iter().for_each(|open| refusal.opened(open));
    assert!(refusal.take().len() < 16 << 10);
    is_read
}

/// A request as somebody understood it. Absent parts are empty, as in Kubernetes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Reading {
    pub(crate) is_resource: bool,
    pub(crate) verb: String,
    pub(crate) path: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
}

/// Our reading; the verb as the method alone would have it, where ours is `create` for every method.
pub(crate) fn seen(ours: &RequestAttributes) -> Reading {
    match ours.target().clone() {
        RequestTarget::NonResource { path } => Reading { verb: ours.verb().to_string(), path, ..Reading::default() },
        RequestTarget::Resource { group, version, namespace, resource, subresource, name } => {
            let subresource = subresource.unwrap_or_default();
            let into_pod = group.is_empty()
                && resource == "pods"
                && ["exec", "attach", "portforward"].contains(&subresource.as_str());
            let verb = match (into_pod, ours.verb(), ours.method().as_str()) {
                (true, Verb::Create, method) => by_method(method),
                (true, verb, _) => panic!("{verb} into a pod"),
                (false, verb, _) => verb.as_str(),
            };
            Reading {
                is_resource: true,
                verb: verb.into(),
                path: String::new(),
                group,
                version,
                namespace: namespace.unwrap_or_default(),
                resource,
                subresource,
                name: name.unwrap_or_default(),
            }
        }
    }
}

fn by_method(method: &str) -> &'static str {
    match method {
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

impl Reading {
    /// `NewRequestInfo`; `None` where it fails.
    pub(crate) fn of(method: &str, path: &str, query: &str) -> Option<Self> {
        // Go keeps bytes; those that are not UTF-8 can only be a service's, behind all that is read here.
        let path = String::from_utf8_lossy(&unescape(path, false)?).into_owned();
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut info = Self { verb: method.to_lowercase(), path: path.clone(), ..Self::default() };
        if parts.len() < 3 || !["api", "apis"].contains(&parts[0]) {
            return Some(info);
        }
        if parts[0] == "apis" {
            if parts.len() < 4 {
                return Some(info);
            }
            info.group = parts.remove(1).to_owned();
        }
        info.is_resource = true;
        info.path.clear();
        info.version = parts[1].to_owned();
        parts.drain(..2);
        if ["proxy", "watch"].contains(&parts[0]) {
            if parts.len() < 2 {
                return None;
            }
            info.verb = parts.remove(0).to_owned();
        } else {
            info.verb = by_method(method).to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            if parts.len() > 2 && !["status", "finalize"].contains(&parts[2]) {
                parts.drain(..2);
            }
        }
        info.resource = parts[0].to_owned();
        info.name = parts.get(1).copied().unwrap_or_default().to_owned();
        if info.verb != "proxy" {
            info.subresource = parts.get(2).copied().unwrap_or_default().to_owned();
        }
        if info.name.is_empty() && info.verb == "get" {
            let values = parse_query(query);
            let first = |name: &str| values.get(name).and_then(|values| values.first());
            let not = |value: &Vec<u8>| value == b"0" || value.eq_ignore_ascii_case(b"false");
            info.verb = if first("watch").is_some_and(|value| !not(value)) { "watch" } else { "list" }.to_owned();
            let number = |name| {
                first(name).is_none_or(|value| std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok()))
            };
            if number("limit") && number("timeoutSeconds") {
                info.name = first("fieldSelector").and_then(|selector| named(selector)).unwrap_or_default();
            }
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        Some(info)
    }
}

/// `url.unescape`: of a path, or of a query component.
fn unescape(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let hex = after.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))?;
                plain.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                rest = &after[2..];
            }
            b'+' if plus_is_space => plain.push(b' '),
            byte => plain.push(*byte),
        }
    }
    Some(plain)
}

/// `URL.Query`: what cannot be read is left out.
fn parse_query(query: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut values = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (unescape(key, true), unescape(value, true)) {
            values.entry(String::from_utf8_lossy(&key).into_owned()).or_default().push(value);
        }
    }
    values
}

/// `fields.ParseSelector` and `RequiresExactMatch("metadata.name")`, byte by byte.
fn named(selector: &[u8]) -> Option<String> {
    let mut found = Vec::new();
    let mut rest = selector;
    while !rest.is_empty() {
        let mut end = 0;
        while end < rest.len() && rest[end] != b',' {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        let term = &rest[..end.min(rest.len())];
        rest = rest.get(end + 1..).unwrap_or_default();
        if term.is_empty() {
            continue;
        }
        let at = term.iter().position(|&byte| byte == b'=')?;
        let not = at > 0 && term[at - 1] == b'!';
        let field = &term[..at - usize::from(not)];
        let mut value = &term[at + 1..];
        if !not && value.first() == Some(&b'=') {
            value = &value[1..];
        }
        let mut plain = Vec::new();
        while let [byte, after @ ..] = value {
            value = after;
            match byte {
                b',' | b'=' => return None,
                b'\\' => match after {
                    [escaped @ (b'\\' | b',' | b'='), after @ ..] => {
                        plain.push(*escaped);
                        value = after;
                    }
                    _ => return None,
                },
                byte => plain.push(*byte),
            }
        }
        if !not && field == b"metadata.name" {
            found.push(String::from_utf8(plain).ok()?);
        }
    }
    found.sort();
    let name = found.into_iter().next()?;
    (name != "." && name != ".." && !name.contains(['/', '%'])).then_some(name)
}
