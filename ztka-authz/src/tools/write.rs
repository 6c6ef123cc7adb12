//! A policy as YAML for people: what [`policy_from_yaml`](super::policy_from_yaml) reads, in the order in which one reads it.

use serde_json::{Map, Value};

/// What comes first in any object; the rest follows by name.
const ORDER: &[&str] = &[
    "id",
    "name",
    "labels",
    "project",
    "namespaces",
    "members",
    "subjects",
    "except",
    "role",
    "readOnly",
    "verbs",
    "apiGroups",
    "resources",
    "resourceNames",
    "ports",
    "nonResourceURLs",
    "rules",
    "clusters",
    "scope",
    "validFrom",
    "validUntil",
    "when",
    "obligations",
    "reason",
];
/// The order of the whole.
const PARTS: &[&str] = &["settings", "guardrails", "clusters", "projects", "groups", "roles", "bindings", "denials"];

/// A policy document, as JSON has it, as YAML.
pub fn document_to_yaml(document: &Value) -> String {
    let mut text = String::new();
    match document {
        Value::Object(fields) if !fields.is_empty() => object(&mut text, fields, PARTS, 0, true),
        other => {
            inline(&mut text, other);
            text.push('\n');
        }
    }
    text
}

fn sorted<'a>(fields: &'a Map<String, Value>, order: &[&str]) -> Vec<(&'a String, &'a Value)> {
    let mut sorted: Vec<_> = fields.iter().collect();
    let rank = |name: &str| order.iter().position(|known| *known == name).unwrap_or(order.len());
    sorted.sort_by(|a, b| rank(a.0).cmp(&rank(b.0)).then(a.0.cmp(b.0)));
    sorted
}

/// Fields one to a line; the first one stands where the cursor is, unless it is at the begin of a line.
fn object(text: &mut String, fields: &Map<String, Value>, order: &[&str], indent: usize, begin: bool) {
    for (number, (name, value)) in sorted(fields, order).into_iter().enumerate() {
        if number > 0 || begin {
            text.push_str(&" ".repeat(indent));
        }
        scalar(text, name);
        text.push(':');
        match value {
            _ if is_short(value) => {
                text.push(' ');
                inline(text, value);
                text.push('\n');
            }
            Value::Object(fields) => {
                text.push('\n');
                object(text, fields, ORDER, indent + 2, true);
            }
            Value::Array(values) => {
                text.push('\n');
                for value in values {
                    text.push_str(&" ".repeat(indent));
                    text.push_str("- ");
                    match value {
                        Value::Object(fields) if !is_short(value) => object(text, fields, ORDER, indent + 2, false),
                        value => {
                            inline(text, value);
                            text.push('\n');
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

/// True of what fits in a line: scalars, and lists and objects of few of them.
fn is_short(value: &Value) -> bool {
    let is_scalar = |value: &Value| !matches!(value, Value::Array(_) | Value::Object(_));
    match value {
        Value::Array(values) => {
            let length: usize = values.iter().map(|value| value.to_string().len() + 2).sum();
            length <= 90 && values.iter().all(|value| is_scalar(value) || is_pair(value))
        }
        Value::Object(fields) => fields.is_empty() || is_pair(value),
        _ => true,
    }
}

/// `{user: alice}`, `{all: true}`, `{namespaces: [shop]}`.
fn is_pair(value: &Value) -> bool {
    let Value::Object(fields) = value else { return false };
    fields.len() == 1
        && value.to_string().len() <= 90
        && fields.values().all(|value| match value {
            Value::Array(values) => values.iter().all(|value| !matches!(value, Value::Array(_) | Value::Object(_))),
            Value::Object(fields) => fields.len() <= 1 && fields.values().all(Value::is_string),
            _ => true,
        })
}

fn inline(text: &mut String, value: &Value) {
    match value {
        Value::String(word) => scalar(text, word),
        Value::Array(values) => {
            text.push('[');
            for (number, value) in values.iter().enumerate() {
                text.push_str(if number > 0 { ", " } else { "" });
                inline(text, value);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (number, (name, value)) in sorted(fields, ORDER).into_iter().enumerate() {
                text.push_str(if number > 0 { ", " } else { "" });
                scalar(text, name);
                text.push_str(": ");
                inline(text, value);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// A text, in quotes unless every reader of YAML takes it for a text without.
fn scalar(text: &mut String, word: &str) {
    let first = word.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./@".contains(&byte);
    let keywords = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    match first && word.bytes().all(plain) && !keywords.contains(&word.to_ascii_lowercase().as_str()) {
        true => text.push_str(word),
        // JSON's quotes are YAML's.
        false => text.push_str(&Value::from(word).to_string()),
    }
}
