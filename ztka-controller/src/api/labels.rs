//! Labels of clusters, by Kubernetes' own rules (`k8s.io/apimachinery/pkg/util/validation`).

use std::collections::BTreeMap;

use super::answer::{Answer, ApiError};

/// Labels of one cluster.
const MOST: usize = 64;

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn is_prefix(text: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().all(|byte| lower(byte) || byte == b'-')
            && label.bytes().next().is_some_and(lower)
            && label.bytes().last().is_some_and(lower)
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether this is the key of a label: a name, which may have a DNS name and `/` before it.
pub(super) fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_prefix(prefix) && is_name(name),
        None => is_name(key),
    }
}

pub(super) fn validate(labels: &BTreeMap<String, String>) -> Answer<()> {
    check(labels).map_err(ApiError::invalid)
}

/// Whether these are labels, and not too many; otherwise what is wrong and what to do.
pub(crate) fn check(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MOST {
        return Err("there are at most 64 labels of one thing; use fewer".into());
    }
    for (key, value) in labels {
        if !is_key(key) || !(value.is_empty() || is_name(value)) {
            let shown: String = format!("{key}={value}").chars().take(120).collect();
            let rule = "use letters, digits and inner - _ . as Kubernetes' labels do";
            return Err(format!("{shown:?} is not a label; {rule}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_kubernetes_labels() {
        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        for (key, value) in [("stage", "prod"), ("example.com/Stage", ""), ("a_b.c", "A-1"), ("a", "a_b")] {
            assert!(validate(&labels(key, value)).is_ok(), "{key}={value}");
        }
        let long = "a".repeat(64);
        for (key, value) in [
            ("", ""),
            ("/a", ""),
            ("A.com/a", ""),
            ("a/b/c", ""),
            ("-a", ""),
            (long.as_str(), ""),
            ("a", long.as_str()),
            ("a", "b c"),
            ("a", "b\n"),
            ("a", "é"),
        ] {
            assert!(validate(&labels(key, value)).is_err(), "{key}={value}");
        }
    }
}
