//! As much of Kubernetes' protobuf as the three self-reviews need, read into the JSON that they would be.
//!
//! Field numbers are those of `k8s.io/api/authorization/v1/generated.proto` and of `Unknown` in
//! `k8s.io/apimachinery/pkg/runtime/generated.proto`; the wire format is protobuf's own.

use serde_json::{Map, Value};

/// What the envelope of a protobuf object begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The highest number of a field.
const HIGHEST: u64 = (1 << 29) - 1;

/// The bytes are not a protobuf object of Kubernetes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the body is not protobuf as Kubernetes encodes it")]
pub(crate) struct Undecodable;

/// The object in the envelope: `apiVersion`, `kind` and `spec`. One that does not name its kind is taken for `expected`.
///
/// Of a field that comes twice the later counts, and a message that comes twice is one message, as protobuf says.
pub(crate) fn decode(bytes: &[u8], expected: &str) -> Result<Value, Undecodable> {
    const META: &[(u64, &str)] = &[(1, "apiVersion"), (2, "kind")];
    let (mut object, mut raw) = (Map::new(), &[][..]);
    for field in Fields(bytes.strip_prefix(MAGIC).ok_or(Undecodable)?) {
        match field? {
            (1, meta) => strings(meta, META, &mut object)?,
            (2, object) => raw = object,
            (3, encoding) if !encoding.is_empty() => return Err(Undecodable),
            _ => {}
        }
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or(expected).to_owned();
    for field in Fields(raw) {
        if let (2, spec) = field? {
            self::spec(&kind, spec, &mut object)?;
        }
    }
    Ok(Value::Object(object))
}

fn spec(kind: &str, bytes: &[u8], object: &mut Map<String, Value>) -> Result<(), Undecodable> {
    const RESOURCE: &[(u64, &str)] = &[
        (1, "namespace"),
        (2, "verb"),
        (3, "group"),
        (4, "version"),
        (5, "resource"),
        (6, "subresource"),
        (7, "name"),
    ];
    const PATH: &[(u64, &str)] = &[(1, "path"), (2, "verb")];
    match kind {
        "SelfSubjectAccessReview" => {
            let spec = message(object, "spec")?;
            for field in Fields(bytes) {
                match field? {
                    (1, attributes) => {
                        let into = message(spec, "resourceAttributes")?;
                        strings(attributes, RESOURCE, into)?;
                        selectors(attributes, into)?;
                    }
                    (2, attributes) => strings(attributes, PATH, message(spec, "nonResourceAttributes")?)?,
                    _ => {}
                }
            }
            Ok(())
        }
        "SelfSubjectRulesReview" => strings(bytes, &[(1, "namespace")], message(object, "spec")?),
        _ => Ok(()),
    }
}

/// What narrows a list down; the apiserver may answer by it.
fn selectors(attributes: &[u8], into: &mut Map<String, Value>) -> Result<(), Undecodable> {
    for field in Fields(attributes) {
        let (selector, bytes) = match field? {
            (8, bytes) => (message(into, "fieldSelector")?, bytes),
            (9, bytes) => (message(into, "labelSelector")?, bytes),
            _ => continue,
        };
        strings(bytes, &[(1, "rawSelector")], selector)?;
        for field in Fields(bytes) {
            let (2, bytes) = field? else { continue };
            let (mut requirement, mut values) = (Map::new(), Vec::new());
            strings(bytes, &[(1, "key"), (2, "operator")], &mut requirement)?;
            for field in Fields(bytes) {
                if let (3, value) = field? {
                    values.push(Value::from(std::str::from_utf8(value).map_err(|_| Undecodable)?));
                }
            }
            if !values.is_empty() {
                requirement.insert("values".into(), values.into());
            }
            let requirements = selector.entry("requirements").or_insert_with(|| Vec::<Value>::new().into());
            requirements.as_array_mut().ok_or(Undecodable)?.push(requirement.into());
        }
    }
    Ok(())
}

/// The message `name` within `parent`, which may have begun.
fn message<'a>(parent: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Map<String, Value>, Undecodable> {
    parent.entry(name).or_insert_with(|| Map::new().into()).as_object_mut().ok_or(Undecodable)
}

/// The named string fields of a message; empty ones are left out, as in Kubernetes' JSON.
fn strings(message: &[u8], names: &[(u64, &str)], into: &mut Map<String, Value>) -> Result<(), Undecodable> {
    for field in Fields(message) {
        let (number, bytes) = field?;
        if let Some((_, name)) = names.iter().find(|(known, _)| *known == number) {
            let text = std::str::from_utf8(bytes).map_err(|_| Undecodable)?;
            match text {
                "" => into.remove(*name),
                text => into.insert((*name).into(), text.into()),
            };
        }
    }
    Ok(())
}

/// Length-delimited fields of a message in order; fields of the other types are skipped.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for place in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// `Some(None)` for a field of another type.
    fn field(&mut self) -> Option<Option<(u64, &'a [u8])>> {
        let key = self.varint()?;
        if !(1..=HIGHEST).contains(&(key >> 3)) {
            return None;
        }
        match key & 7 {
            0 => self.varint().map(|_| None),
            1 => self.take(8).map(|_| None),
            2 => {
                let length = self.varint()?;
                Some(Some((key >> 3, self.take(length)?)))
            }
            5 => self.take(4).map(|_| None),
            _ => None,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Undecodable>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Some(Some(field)) => return Some(Ok(field)),
                Some(None) => {}
                None => {
                    self.0 = &[];
                    return Some(Err(Undecodable));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn object(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"authorization.k8s.io/v1"), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw), &field(3, b""), &field(4, b"")].concat()
    }

    #[test]
    fn reads_what_kubectl_sends() {
        let attributes = [field(1, b"dev"), field(2, b"get"), field(3, b""), field(5, b"pods"), field(7, b"")].concat();
        let raw = [field(1, &field(1, b"")), field(2, &field(1, &attributes)), field(3, &[8, 0])].concat();
        assert_eq!(
            decode(&object("SelfSubjectAccessReview", &raw), ""),
            Ok(json!({
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {"namespace": "dev", "verb": "get", "resource": "pods"}},
            }))
        );
    }

    #[test]
    fn selectors_are_part_of_the_question() {
        let requirement = [field(1, b"stage"), field(2, b"In"), field(3, b"a"), field(3, b"")].concat();
        let attributes = [
            field(2, b"list"),
            field(8, &field(1, b"spec.nodeName=n1")),
            field(9, &field(2, &requirement)),
            field(9, &field(2, b"")),
        ];
        let raw = field(2, &field(1, &attributes.concat()));
        let object = decode(&object("SelfSubjectAccessReview", &raw), "").unwrap();
        assert_eq!(
            object["spec"]["resourceAttributes"],
            json!({
                "verb": "list",
                "fieldSelector": {"rawSelector": "spec.nodeName=n1"},
                "labelSelector": {"requirements": [{"key": "stage", "operator": "In", "values": ["a", ""]}, {}]},
            })
        );
    }

    #[test]
    fn what_comes_twice_is_read_as_protobuf_says() {
        let half = |number, text: &[u8]| field(2, &field(1, &field(number, text)));
        let raw = [half(1, b"dev"), half(2, b"get"), half(5, b"pods"), half(1, b"")].concat();
        let spec = decode(&object("SelfSubjectAccessReview", &raw), "").unwrap()["spec"].clone();
        assert_eq!(spec, json!({"resourceAttributes": {"verb": "get", "resource": "pods"}}));
        // Without a name it is what the path says.
        let unnamed = [MAGIC, &field(2, &field(2, &field(1, b"dev")))].concat();
        assert_eq!(decode(&unnamed, "SelfSubjectRulesReview").unwrap(), json!({"spec": {"namespace": "dev"}}));
    }

    #[test]
    fn refuses_what_is_cut_short_or_nonsense() {
        let whole = object("SelfSubjectRulesReview", &field(2, &field(1, b"dev")));
        assert_eq!(decode(&whole, "").unwrap()["spec"]["namespace"], "dev");
        for length in 0..whole.len() {
            // Cut between two fields it is an object still, only not with all its fields.
            if let Ok(object) = decode(&whole[..length], "") {
                assert!(object.get("spec").is_none_or(|spec| spec["namespace"] == "dev"), "{length}");
            }
        }
        for bad in [&b"{}"[..], b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"k8s\0\x12\xff\xff\xff\xff\x0f"]
        {
            assert_eq!(decode(bad, ""), Err(Undecodable));
        }
    }
}
