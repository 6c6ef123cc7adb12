//! What is in a body that must not be in a log, what does not come whole, and what is not what it says.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    content::{About, Recorded, recorded},
    fields::FieldRule,
    mend::mend,
    redact::Rules,
    *,
};
use crate::ObjectRef;

fn object(resource: &str, group: &str) -> ObjectRef {
    ObjectRef { resource: resource.into(), api_group: group.into(), ..ObjectRef::default() }
}

struct Read {
    body: Recorded,
    rules: String,
}

fn read(headers: &[(&str, &str)], bytes: &[u8], limit: usize, about: &About<'_>) -> Read {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    let mut capture = Capture::new(&map, limit);
    bytes.chunks(100).for_each(|piece| capture.take(piece));
    let mut rules = Rules::default();
    let body = recorded(&capture.content(), about, &mut rules);
    Read { body, rules: rules.list().unwrap_or_default() }
}

fn of(object: &ObjectRef, body: &Value) -> (Value, String) {
    let about = About { object, fields: &[], omit_managed_fields: false };
    let read = read(&[("content-type", "application/json")], body.to_string().as_bytes(), 96 * 1024, &about);
    (read.body.value.unwrap(), read.rules)
}

const PEM: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n";
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl";

#[test]
fn secrets_tokens_keys_and_kubeconfigs_are_taken_out_by_named_rules() {
    let packed = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, PEM);
    let kubeconfig = "apiVersion: v1\nkind: Config\nclusters: []\nusers:\n- name: a\n  user:\n    token: s3cret\n";
    let secret = json!({"kind": "Secret", "metadata": {"name": "db"}, "data": {"password": "czNjcmV0"}, "stringData": {"x": "s3cret"}});
    let applied = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":\"s3cret\"}", "a": "b"}}});
    let cases = [
        (object("secrets", ""), secret.clone(), "secrets"),
        (object("secrets", ""), json!({"data": {"password": "czNjcmV0"}}), "secrets"),
        (object("secrets", ""), json!({"kind": "SecretList", "items": [{"data": {"a": "czNjcmV0"}}]}), "secrets"),
        (object("secrets", ""), json!([{"op": "add", "path": "/data/a", "value": "czNjcmV0"}]), "secrets"),
        (
            object("secrets", ""),
            json!([{"op": "replace", "path": "", "value": {"data": {"a": "czNjcmV0"}}}]),
            "secrets",
        ),
        // Wherever a Secret is.
        (object("things", "example.com"), json!({"spec": {"made": [secret]}}), "secrets"),
        (object("deployments", "apps"), applied, "last-applied-configuration"),
        (
            object("deployments", "apps"),
            json!([{"op": "add", "path": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration", "value": "s3cret"}]),
            "last-applied-configuration",
        ),
        (object("serviceaccounts", ""), json!({"kind": "TokenRequest", "status": {"token": "s3cret"}}), "tokens"),
        (
            object("tokenreviews", "authentication.k8s.io"),
            json!({"kind": "TokenReview", "spec": {"token": "s3cret"}}),
            "tokens",
        ),
        (object("configmaps", ""), json!({"data": {"login": format!("Bearer {JWT}")}}), "tokens"),
        (object("configmaps", ""), json!({"data": {"client-secret": "s3cret"}}), "tokens"),
        (object("configmaps", ""), json!({"data": {"config": kubeconfig}}), "kubeconfigs"),
        (object("configmaps", ""), json!({"data": {"tls.key": PEM}}), "private-keys"),
        (object("configmaps", ""), json!({"binaryData": {"tls.key": packed}}), "private-keys"),
    ];
    for (object, body, rule) in cases {
        let (seen, rules) = of(&object, &body);
        assert_eq!(rules, rule, "{body}");
        let text = seen.to_string();
        for secret in ["s3cret", "czNjcmV0", "MHcCAQEE", "c2lnbmF0dXJl", packed.as_str()] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn what_is_no_secret_stays_as_it_is() {
    for body in [
        json!({"kind": "Pod", "spec": {"volumes": [{"secret": {"secretName": "db"}}], "automountServiceAccountToken": true, "x": 1.5}}),
        json!({"kind": "ConfigMap", "data": {"a": "b", "ca.crt": "-----BEGIN CERTIFICATE-----"}}),
        json!({"kind": "Binding", "metadata": {"managedFields": [{"manager": "kubectl"}]}}),
        json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]),
    ] {
        let (seen, rules) = of(&object("pods", ""), &body);
        assert_eq!((seen, rules.as_str()), (body, ""));
    }
}

#[test]
fn managed_fields_go_where_they_are_not_wanted_and_from_secrets() {
    let body = json!({"items": [{"metadata": {"name": "a", "managedFields": [{}]}}]});
    let pods = object("pods", "");
    let about = About { object: &pods, fields: &[], omit_managed_fields: true };
    let seen = read(&[], body.to_string().as_bytes(), 1000, &about);
    assert_eq!(seen.body.value.unwrap(), json!({"items": [{"metadata": {"name": "a"}}]}));
    let (seen, _) = of(&object("secrets", ""), &json!({"metadata": {"managedFields": [{}]}}));
    assert_eq!(seen, json!({"metadata": {}}));
}

#[test]
fn chosen_fields_are_taken_out_of_an_object_and_of_lists() {
    let paths = ["spec.containers[*].env[*].value", ".metadata.annotations['a.b/c']", "$.spec.containers[0].image"];
    let rule = FieldRule::new("env", &["pods".into()], &paths.map(String::from)).unwrap();
    let pods = object("pods", "");
    let pod = json!({"metadata": {"annotations": {"a.b/c": "x", "d": "y"}}, "spec": {"containers": [
        {"image": "i", "env": [{"name": "A", "value": "s3cret"}, {"name": "B"}]}, {"image": "j"}]}});
    let list = json!({"items": [pod]});
    for body in [pod, list] {
        let about = About { object: &pods, fields: std::slice::from_ref(&rule), omit_managed_fields: false };
        let seen = read(&[], body.to_string().as_bytes(), 10_000, &about);
        let text = seen.body.value.unwrap().to_string();
        assert_eq!(seen.rules, "env");
        assert!(!text.contains("s3cret") && !text.contains("\"x\"") && !text.contains("\"i\""), "{text}");
        assert!(text.contains("\"j\"") && text.contains("\"y\"") && text.contains("\"B\""), "{text}");
        // Of another resource it says nothing; what cannot be read is not kept where it does.
        let other = object("services", "");
        let about = About { object: &other, ..about };
        assert_eq!(read(&[], body.to_string().as_bytes(), 10_000, &about).rules, "");
        let about = About { object: &pods, ..about };
        let seen = read(&[("content-type", "application/vnd.kubernetes.protobuf")], b"k8s\0...", 1000, &about);
        assert_eq!(seen.rules, "unreadable");
        assert!(seen.body.value.unwrap().get("base64").is_none());
    }
    for bad in ["", "a..b", "a[", "a[x]", "[''", "a.", "a]b"] {
        assert!(FieldRule::new("x", &[], &[bad.into()]).is_err(), "{bad}");
    }
}

#[test]
fn what_is_no_json_is_kept_as_it_is_unless_it_may_hold_secrets() {
    let (pods, secrets) = (object("pods", ""), object("secrets", ""));
    let about = About { object: &pods, fields: &[], omit_managed_fields: false };
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    let seen = read(&protobuf, b"k8s\0\x0a\x04", 1000, &about).body.value.unwrap();
    assert_eq!(seen["base64"], "azhzAAoE");
    assert_eq!((&seen["kind"], &seen["bytes"]), (&json!("Body"), &json!(6)));
    assert_eq!(seen["contentType"], "application/vnd.kubernetes.protobuf");
    let seen = read(&protobuf, &[0; 500], 100, &about).body.value.unwrap();
    assert_eq!((&seen["truncated"], &seen["bytes"]), (&json!(true), &json!(500)));
    // It says that it is JSON, and is not.
    let seen = read(&[("content-type", "application/json")], b"\xff\xfe{}", 1000, &about).body.value.unwrap();
    assert_eq!(seen["kind"], "Body");
    for (object, bytes) in [(&secrets, &b"k8s\0s3cret"[..]), (&pods, PEM.as_bytes()), (&pods, JWT.as_bytes())] {
        let seen = read(&protobuf, bytes, 1000, &About { object, ..about });
        assert_eq!(seen.rules, "unreadable");
        let value = seen.body.value.unwrap();
        assert!(value.get("base64").is_none() && value["withheld"].is_string(), "{value}");
    }
}

#[test]
fn packed_answers_are_unpacked_up_to_the_bound() {
    let pods = object("pods", "");
    let about = About { object: &pods, fields: &[], omit_managed_fields: false };
    let pack = |bytes: &[u8]| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let gzip = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let seen = read(&gzip, &pack(br#"{"a":"b"}"#), 1000, &about).body;
    assert_eq!((seen.value, seen.cut), (Some(json!({"a": "b"})), None));
    // A few bytes that would become many.
    let bomb = pack(format!("{{\"a\":\"{}\"}}", "x".repeat(5_000_000)).as_bytes());
    let seen = read(&gzip, &bomb, 96 * 1024, &about).body;
    assert_eq!((seen.value, seen.cut.is_some()), (Some(json!({})), true));
    let unknown = [("content-encoding", "br")];
    assert!(read(&unknown, b"\x0b\x02", 100, &about).body.value.unwrap()["withheld"].is_string());
    // Not packed at all, whatever it says.
    assert_eq!(read(&gzip, br#"{"a":"b"}"#, 1000, &about).body.value.unwrap()["kind"], "Body");
}

#[test]
fn a_body_that_is_too_long_with_its_escapes_is_withheld() {
    let pods = object("pods", "");
    let about = About { object: &pods, fields: &[], omit_managed_fields: false };
    let body = format!("{{\"a\":\"{}\"}}", "\u{7f}".repeat(90_000));
    let seen = read(&[], body.as_bytes(), 96 * 1024, &about).body.value.unwrap();
    assert!(seen["withheld"].as_str().unwrap().contains("too long"));
}

#[test]
fn what_is_nested_too_deeply_is_withheld() {
    let pods = object("pods", "");
    let about = About { object: &pods, fields: &[], omit_managed_fields: false };
    for deep in [90, 101, 127, 200] {
        let body = format!("{}{{\"kind\":\"Secret\",\"data\":\"s3cret\"}}{}", "[".repeat(deep), "]".repeat(deep));
        let seen = read(&[], body.as_bytes(), 10_000, &about).body.value.unwrap();
        assert_eq!(seen.is_array(), deep == 90);
        assert!(!seen.to_string().contains("s3cret") && !seen.to_string().contains("base64"), "{seen}");
    }
}

#[test]
fn of_a_secret_that_is_cut_short_nothing_is_kept() {
    let secrets = object("secrets", "");
    let about = About { object: &secrets, fields: &[], omit_managed_fields: false };
    let body = json!({"apiVersion": "v1", "data": {"a": "czNjcmV0".repeat(50)}, "kind": "Secret"}).to_string();
    for limit in 1..body.len() {
        let seen = read(&[], body.as_bytes(), limit, &about).body.value.unwrap().to_string();
        assert!(!seen.contains("czNj"), "{limit}: {seen}");
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// All that `part` has is in `whole`, in the same place.
fn is_part(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(name, member)| whole.get(name).is_some_and(|whole| is_part(member, whole)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() <= whole.len() && part.iter().zip(whole).all(|(part, whole)| is_part(part, whole))
        }
        _ => part == whole,
    }
}

proptest! {
    #[test]
    fn the_beginning_of_a_text_is_a_part_of_it(value in values(), pretty: bool, at: usize) {
        let value = json!({"all": value});
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let cut = at % (text.len() + 1);
        if let Some((part, lost)) = mend(&text.as_bytes()[..cut]) {
            prop_assert!(is_part(&part, &value), "{part} of {value}");
            prop_assert!(lost as usize <= cut);
        } else {
            prop_assert_eq!(cut, 0);
        }
    }

    #[test]
    fn whatever_comes_is_recorded_in_bounds(bytes: Vec<u8>, limit in 1_usize..2000, gzip: bool) {
        let pods = object("pods", "");
        let about = About { object: &pods, fields: &[], omit_managed_fields: true };
        let headers: &[_] = if gzip { &[("content-encoding", "gzip")] } else { &[] };
        let seen = read(headers, &bytes, limit, &about);
        prop_assert_eq!(seen.body.value.is_none(), bytes.is_empty());
    }
}
