//! Query parameters, read as the apiserver reads them (Go's `url.ParseQuery`), less what it would silently drop.

use std::borrow::Cow;

use super::percent;

/// So many parameters, empty ones counted, are read.
const MAX: usize = 1000;

/// What a query may hold unescaped (RFC 3986 §3.4), less what separates parameters and what Go reads otherwise.
const KEPT: &[u8] = b"!$'()*,/:@?";
const KEPT_IN_VALUE: &[u8] = b"!$'()*,/:@?=";

/// Parameters that a decision or a class depends on: one value, or two readers might take different ones.
const ONCE: [&str; 4] = ["watch", "fieldSelector", "labelSelector", "follow"];

/// Decoded parameters in the order received. Names are UTF-8; values are bytes, as a command's arguments are.
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, [u8]>)>);

impl<'a> Query<'a> {
    pub(super) fn read(raw: &'a str) -> Result<Self, &'static str> {
        if raw.contains(';') {
            return Err("the query contains ; which not every server takes for data; write %3B");
        }
        let mut parameters = Vec::new();
        for (index, pair) in raw.split('&').enumerate() {
            if index >= MAX {
                return Err("the query has more than 1,000 parameters; ask in several requests");
            }
            if !pair.is_empty() {
                parameters.push(read(pair)?);
            }
        }
        let read = Self(parameters);
        match ONCE.into_iter().any(|name| read.values(name).nth(1).is_some()) {
            true => Err("watch, fieldSelector, labelSelector or follow occurs twice in the query; give each once"),
            false => Ok(read),
        }
    }

    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// First value of `name`, as Kubernetes takes it where it wants one.
    pub(super) fn first(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// `?` and the parameters in their one form, or nothing if there are none.
    pub(super) fn write(&self, out: &mut String) {
        let mut separator = '?';
        for (key, value) in &self.0 {
            out.push(separator);
            percent::encode(out, key.as_bytes(), KEPT);
            out.push('=');
            percent::encode(out, value, KEPT_IN_VALUE);
            separator = '&';
        }
    }
}

fn read(pair: &str) -> Result<(Cow<'_, str>, Cow<'_, [u8]>), &'static str> {
    const ESCAPE: &str = "the query has a broken percent-encoding; write % and two hexadecimal digits";
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let key = match percent::decode(key, b' ').ok_or(ESCAPE)? {
        Cow::Borrowed(_) => Cow::Borrowed(key),
        Cow::Owned(bytes) => {
            Cow::Owned(String::from_utf8(bytes).map_err(|_| "the name of a query parameter is not UTF-8")?)
        }
    };
    Ok((key, percent::decode(value, b' ').ok_or(ESCAPE)?))
}
