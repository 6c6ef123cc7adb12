//! What is never recorded, whatever the level: it is taken out of bodies by rules that have names.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{content::About, fields::REDACTED};
use crate::{ObjectRef, event::clean};

/// The annotation in which kubectl keeps the whole object, a Secret's data with it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The same in the path of a JSON patch (RFC 6901).
const LAST_APPLIED_POINTER: &str = "kubectl.kubernetes.io~1last-applied-configuration";

/// Names of the rules that took something out, each once.
#[derive(Debug, Default)]
pub(crate) struct Rules(Vec<String>);

impl Rules {
    pub(super) fn add(&mut self, rule: &str) {
        if !self.0.iter().any(|held| held == rule) {
            self.0.push(rule.to_owned());
        }
    }

    /// As the annotation has them; none if nothing was taken out.
    pub(crate) fn list(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join(","))
    }
}

/// True for what may be recorded although it is no JSON: nothing in it looks like a secret, and of such objects it does not have
/// to be known what is in them.
pub(super) fn is_readable(bytes: &[u8], about: &About<'_>) -> bool {
    let ObjectRef { resource, api_group, subresource, .. } = about.object;
    let kept = match (api_group.as_str(), resource.as_str()) {
        ("", "secrets" | "configmaps") | ("certificates.k8s.io" | "authentication.k8s.io", _) => false,
        _ => subresource != "token",
    };
    let text = String::from_utf8_lossy(bytes);
    // JSON that is none, or that is nested too deeply to be read.
    let kept = kept && !text.trim_start().starts_with(['{', '[']);
    kept && !about.fields.iter().any(|rule| rule.is_about(about.object)) && look(&text).is_none()
}

/// Takes out of `value`, a body about `about`, what is never recorded.
pub(crate) fn redact(value: &mut Value, about: &About<'_>, rules: &mut Rules) {
    let ObjectRef { resource, api_group, .. } = about.object;
    let secret = resource == "secrets" && api_group.is_empty();
    if let Value::Array(operations) = &mut *value {
        operations.iter_mut().for_each(|operation| patch(operation, secret, rules));
    }
    walk(value, secret, about.omit_managed_fields || secret, rules);
    for rule in about.fields.iter().filter(|rule| rule.is_about(about.object)) {
        if rule.apply(value) {
            rules.add(rule.name());
        }
    }
}

/// One operation of a JSON patch (RFC 6902).
fn patch(operation: &mut Value, secret: bool, rules: &mut Rules) {
    let path = operation.get("path").and_then(Value::as_str).unwrap_or_default();
    let (applied, tells) = (path.contains(LAST_APPLIED_POINTER), secret && !path.starts_with("/metadata/"));
    if let Some(value) = operation.get_mut("value") {
        if applied {
            out(value, "last-applied-configuration", rules);
        } else if tells {
            // A part of the data, all of it, or the whole object.
            out(value, "secrets", rules);
        }
    }
}

fn out(value: &mut Value, rule: &str, rules: &mut Rules) {
    if *value != REDACTED && !value.is_null() {
        *value = REDACTED.into();
        rules.add(rule);
    }
}

fn walk(value: &mut Value, secret: bool, without_managed: bool, rules: &mut Rules) {
    match value {
        Value::String(text) => {
            if let Some(rule) = look(text) {
                *text = REDACTED.into();
                rules.add(rule);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| walk(item, secret, without_managed, rules)),
        Value::Object(members) => object(members, secret, without_managed, rules),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn object(members: &mut Map<String, Value>, secret: bool, without_managed: bool, rules: &mut Rules) {
    let kind = members.get("kind").and_then(Value::as_str).unwrap_or_default();
    let is_secret = secret || matches!(kind, "Secret" | "SecretList");
    let holds_token = matches!(kind, "TokenRequest" | "TokenReview");
    if without_managed {
        members.remove("managedFields");
    }
    for (name, member) in members.iter_mut() {
        match name.as_str() {
            "data" | "stringData" if is_secret => each(member, rules),
            LAST_APPLIED => out(member, "last-applied-configuration", rules),
            "token" if holds_token => out(member, "tokens", rules),
            "spec" | "status" if holds_token => {
                if let Some(token) = member.get_mut("token") {
                    out(token, "tokens", rules);
                }
                walk(member, is_secret, without_managed, rules);
            }
            _ if member.is_string() && is_secret_name(name) => out(member, "tokens", rules),
            _ => walk(member, is_secret, without_managed, rules),
        }
    }
}

/// Every value of a map, of which the names are kept.
fn each(member: &mut Value, rules: &mut Rules) {
    match member {
        Value::Object(data) => data.values_mut().for_each(|value| out(value, "secrets", rules)),
        other => out(other, "secrets", rules),
    }
}

/// Names of fields whose texts are secrets wherever they are. Names of objects that hold some (`secretName`) are none.
fn is_secret_name(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "token",
        "idtoken",
        "accesstoken",
        "refreshtoken",
        "bearertoken",
        "authtoken",
        "password",
        "passwd",
        "passphrase",
        "clientsecret",
        "secretkey",
        "secretaccesskey",
        "privatekey",
        "apikey",
        "clientkeydata",
    ];
    if name.len() > 32 {
        return false;
    }
    let name: String = name.chars().filter(|c| !matches!(c, '-' | '_' | '.')).collect();
    NAMES.contains(&name.to_ascii_lowercase().as_str())
}

/// The rule by which a text is not recorded, if there is one.
fn look(text: &str) -> Option<&'static str> {
    if text.contains("PRIVATE KEY-----") {
        return Some("private-keys");
    }
    // PEM in base64, as `data` of objects has it.
    if text.contains("LS0tLS1CRUdJTi") && holds_key(text) {
        return Some("private-keys");
    }
    let credential = ["client-key-data", "token:", "\"token\"", "password:", "client-key:", "exec:"];
    if text.contains("clusters") && text.contains("users") && credential.iter().any(|word| text.contains(word)) {
        return Some("kubeconfigs");
    }
    // What has the look of a token is replaced in every text of an event.
    (text.contains("eyJ") || text.contains("ztka1.")).then(|| clean(text, text.len()) != text)?.then_some("tokens")
}

fn holds_key(text: &str) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\n' | b'\r');
    let Some(at) = text.find("LS0tLS1CRUdJTi") else { return false };
    let packed: Vec<u8> = text.bytes().skip(at).take_while(part).filter(|byte| !byte.is_ascii_whitespace()).collect();
    let whole = packed.get(..packed.len() / 4 * 4).unwrap_or_default();
    match BASE64_STANDARD.decode(whole) {
        Ok(plain) => plain.windows(11).any(|window| window == b"PRIVATE KEY"),
        // Whatever it is, it begins like one.
        Err(_) => true,
    }
}
