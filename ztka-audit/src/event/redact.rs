//! Bounds texts that clients wrote, and takes out what must not be in a log.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

const REDACTED: &str = "REDACTED";

/// A text of at most about `max` bytes, without what has the look of a token.
pub(crate) fn clean(text: &str, max: usize) -> String {
    let (text, _) = cut(text, max);
    tokens(text).into_owned()
}

/// A request target of at most `max` bytes, and how many bytes were cut off. Values of query parameters whose name
/// speaks of a secret, user information of an absolute form and tokens are replaced.
pub(crate) fn target(target: &str, max: usize) -> (String, Option<usize>) {
    // Cutting first bounds the work; a token cut in two has lost its signature, and is replaced all the same.
    let (target, removed) = cut(target, max);
    let target = userinfo(target);
    let target = match target.split_once('?') {
        None => tokens(&target).into_owned(),
        Some((path, query)) => format!("{}?{}", tokens(path), tokens(&parameters(query))),
    };
    (target, removed)
}

/// One argument of a command: `--password=x` keeps its name.
pub(crate) fn argument(argument: &str, max: usize) -> String {
    let (argument, _) = cut(argument, max);
    match argument.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={REDACTED}"),
        _ => tokens(argument).into_owned(),
    }
}

fn cut(text: &str, max: usize) -> (&str, Option<usize>) {
    if text.len() <= max {
        return (text, None);
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    (text.get(..end).unwrap_or_default(), Some(text.len() - end))
}

fn userinfo(target: &str) -> Cow<'_, str> {
    let stripped = || {
        let (scheme, rest) = target.split_once("://")?;
        if scheme.contains(['/', '?']) {
            return None;
        }
        let authority = rest.split(['/', '?']).next()?;
        let (_, host) = authority.rsplit_once('@')?;
        let path = rest.get(authority.len()..)?;
        Some(format!("{scheme}://{host}{path}"))
    };
    stripped().map_or(Cow::Borrowed(target), Cow::Owned)
}

fn parameters(query: &str) -> Cow<'_, str> {
    let secret = |parameter: &str| {
        let (name, value) = parameter.split_once('=')?;
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
        if is_secret(&decoded(name)) {
            return Some(format!("{name}={REDACTED}"));
        }
        // An argument of an exec: `command=--password%3Dx`.
        let value = decoded(value);
        let (inner, _) = value.split_once('=')?;
        is_secret(inner).then(|| format!("{name}={inner}={REDACTED}"))
    };
    if !query.split(['&', ';']).any(|parameter| secret(parameter).is_some()) {
        return Cow::Borrowed(query);
    }
    let parts = query.split_inclusive(['&', ';']).map(|part| {
        let parameter = part.trim_end_matches(['&', ';']);
        let end = part.get(parameter.len()..).unwrap_or_default();
        match secret(parameter) {
            Some(replaced) => replaced + end,
            None => part.to_owned(),
        }
    });
    Cow::Owned(parts.collect())
}

fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 11] = [
        "token",
        "secret",
        "passwd",
        "password",
        "passphrase",
        "bearer",
        "authorization",
        "signature",
        "apikey",
        "accesskey",
        "privatekey",
    ];
    // A label or field selector is no name of a secret, however long.
    if name.len() > 64 || name.contains([' ', '/']) {
        return false;
    }
    let name: String = name.chars().filter(|c| !matches!(c, '-' | '_' | '.')).collect();
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// Replaces what has the shape of a JSON Web Token or of an enrolment token, wherever it is.
fn tokens(text: &str) -> Cow<'_, str> {
    let starts = ["eyJ", "ztka1."];
    if !starts.iter().any(|start| text.contains(start)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = starts.iter().filter_map(|start| rest.find(start)).min() {
        let (before, from) = rest.split_at(at);
        let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=');
        let length = from.bytes().take_while(|byte| part(*byte)).count();
        let (token, after) = from.split_at(length);
        out.push_str(before);
        let looks = token.len() >= 20 && token.contains('.');
        out.push_str(if looks { REDACTED } else { token });
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}
