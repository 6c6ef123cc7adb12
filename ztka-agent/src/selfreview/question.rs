//! A self-review as it is asked: which of the three, in what form, and what it is about.

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use ztka_authz::{Action, Target};
use ztka_core::{RequestAttributes, RequestTarget, Status, Verb};

use super::protobuf;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The three kinds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Access,
    Rules,
    Myself,
}

impl Kind {
    /// Which one is asked, if it is one.
    ///
    /// # Errors
    /// 404 for a version other than v1, as from an apiserver that does not serve it (any more): one that does would
    /// answer about the account.
    pub(crate) fn of(asked: &RequestAttributes) -> Result<Option<Self>, Status> {
        let RequestTarget::Resource { group, version, resource, subresource: None, namespace: None, name: None } =
            asked.target()
        else {
            return Ok(None);
        };
        let kind = match (group.as_str(), resource.as_str()) {
            ("authorization.k8s.io", "selfsubjectaccessreviews") => Self::Access,
            ("authorization.k8s.io", "selfsubjectrulesreviews") => Self::Rules,
            ("authentication.k8s.io", "selfsubjectreviews") => Self::Myself,
            _ => return Ok(None),
        };
        match asked.verb() == Verb::Create {
            true if version == "v1" => Ok(Some(kind)),
            true => {
                Err(Status::new(StatusCode::NOT_FOUND, format!("{resource} are served in version v1, not {version}")))
            }
            false => Ok(None),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Access => "SelfSubjectAccessReview",
            Self::Rules => "SelfSubjectRulesReview",
            Self::Myself => "SelfSubjectReview",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::Access | Self::Rules => "authorization.k8s.io/v1",
            Self::Myself => "authentication.k8s.io/v1",
        }
    }
}

/// Checks that the answer, which is JSON, is one that the client takes.
pub(crate) fn accepts_json(headers: &HeaderMap) -> Result<(), Status> {
    let mut ranges = headers.get_all(header::ACCEPT).iter().peekable();
    let json = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        // `as=Table` and its like ask for another object.
        ["application/json", "application/*", "*/*"].contains(&essence.as_str()) && !parts.any(|p| p.starts_with("as="))
    };
    if ranges.peek().is_none() || ranges.any(|value| value.to_str().is_ok_and(|text| text.split(',').any(json))) {
        return Ok(());
    }
    let message = "only the following media types are accepted: application/json";
    Err(Status::new(StatusCode::NOT_ACCEPTABLE, message))
}

/// The object that was sent, as JSON.
pub(crate) fn decode(kind: Kind, headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Status> {
    let form = headers.get(header::CONTENT_TYPE).map_or(Some("application/json"), |form| form.to_str().ok());
    let form = form.and_then(|form| form.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    let bad = |why: String| {
        let name = kind.name();
        let message = format!("the object provided is unrecognized (must be of type {name}): {why}");
        Status::new(StatusCode::BAD_REQUEST, message)
    };
    let object: Value = match form.as_str() {
        "application/json" => serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?,
        PROTOBUF => protobuf::decode(bytes, kind.name()).map_err(|error| bad(error.to_string()))?,
        _ => {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json, application/vnd.kubernetes.protobuf";
            return Err(Status::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    };
    if !object.is_object() {
        return Err(bad("not an object".into()));
    }
    // What does not say what it is is taken for what the path says, as the apiserver does.
    for (field, expected) in [("kind", kind.name()), ("apiVersion", kind.api_version())] {
        match object.get(field).and_then(Value::as_str) {
            None | Some("") => {}
            Some(found) if found == expected => {}
            Some(found) => return Err(bad(format!("{field} is {found:?}"))),
        }
    }
    Ok(object)
}

/// `spec` of a SelfSubjectAccessReview.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
}

// Fields that do not tell one rule from another (version, selectors) are not read; the apiserver gets them all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NonResourceAttributes {
    path: String,
    verb: String,
}

impl AccessSpec {
    pub(crate) fn read(object: &Value) -> Result<Self, Status> {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let spec: Self = serde_json::from_value(spec).map_err(|error| {
            Status::new(StatusCode::BAD_REQUEST, format!("spec of SelfSubjectAccessReview cannot be read: {error}"))
        })?;
        if spec.resource_attributes.is_some() == spec.non_resource_attributes.is_some() {
            let message = "SelfSubjectAccessReview is invalid: exactly one of nonResourceAttributes or \
                           resourceAttributes must be specified";
            return Err(Status::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        Ok(spec)
    }

    pub(crate) fn action(&self) -> Action<'_> {
        match (&self.resource_attributes, &self.non_resource_attributes) {
            (Some(asked), _) => {
                let ResourceAttributes { namespace, verb, group, resource, subresource, name } = asked;
                let (subresource, namespace) = (Some(subresource.as_str()), Some(namespace.as_str()));
                let name = Some(name.as_str());
                Action::new(verb, Target::Resource { group, resource, subresource, namespace, name })
            }
            (None, Some(asked)) => Action::new(&asked.verb, Target::Path(&asked.path)),
            // No verb is empty, so nothing covers it.
            (None, None) => Action::new("", Target::Path("")),
        }
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        let asked = self.resource_attributes.as_ref()?;
        Some(asked.namespace.as_str()).filter(|namespace| !namespace.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};
    use serde_json::json;

    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn answers_in_json_or_not_at_all() {
        for ok in
            ["application/json", "application/vnd.kubernetes.protobuf, */*", "application/yaml,application/*;q=0.5"]
        {
            assert!(accepts_json(&headers(header::ACCEPT, ok)).is_ok(), "{ok}");
        }
        assert!(accepts_json(&HeaderMap::new()).is_ok());
        for bad in ["application/yaml", PROTOBUF, "application/json;as=Table;v=v1;g=meta.k8s.io"] {
            assert_eq!(accepts_json(&headers(header::ACCEPT, bad)).unwrap_err().code(), 406, "{bad}");
        }
    }

    #[test]
    fn only_version_1_is_answered_and_no_other_is_passed_on() {
        let of = |method: Method, path: &str| {
            let asked = RequestAttributes::parse(&method, &path.parse().unwrap(), None).unwrap();
            Kind::of(&asked).map_err(|status| status.code())
        };
        for (group, resource, kind) in [
            ("authorization", "selfsubjectaccessreviews", Kind::Access),
            ("authorization", "selfsubjectrulesreviews", Kind::Rules),
            ("authentication", "selfsubjectreviews", Kind::Myself),
        ] {
            let path = |version: &str| format!("/apis/{group}.k8s.io/{version}/{resource}");
            assert_eq!(of(Method::POST, &path("v1")), Ok(Some(kind)));
            for version in ["v1alpha1", "v1beta1", "v2"] {
                // The apiserver would tell of the account, and by its permissions.
                assert_eq!(of(Method::POST, &path(version)).unwrap_err(), 404, "{resource} {version}");
            }
            assert_eq!(of(Method::GET, &path("v1beta1")), Ok(None));
        }
        assert_eq!(of(Method::POST, "/apis/authorization.k8s.io/v1beta1/subjectaccessreviews"), Ok(None));
    }

    #[test]
    fn bad_bodies_get_the_apiservers_own_status() {
        let json = headers(header::CONTENT_TYPE, "application/json; charset=utf-8");
        let code = |headers: &HeaderMap, body: &[u8]| {
            decode(Kind::Access, headers, body).and_then(|object| AccessSpec::read(&object)).unwrap_err().code()
        };
        assert_eq!(code(&json, b"{"), 400);
        assert_eq!(code(&json, b"[]"), 400);
        assert_eq!(code(&json, br#"{"kind":"Pod"}"#), 400);
        assert_eq!(code(&json, br#"{"spec":{"resourceAttributes":5}}"#), 400);
        assert_eq!(code(&json, br#"{"spec":{}}"#), 422);
        assert_eq!(code(&json, br#"{"spec":{"resourceAttributes":{},"nonResourceAttributes":{}}}"#), 422);
        assert_eq!(code(&headers(header::CONTENT_TYPE, "application/yaml"), b"{}"), 415);
        assert_eq!(code(&headers(header::CONTENT_TYPE, PROTOBUF), b"{}"), 400);
    }

    #[test]
    fn reads_what_is_asked() {
        let object = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "dev"}}});
        let spec = AccessSpec::read(&object).unwrap();
        let pods =
            Target::Resource { group: "", resource: "pods", subresource: None, namespace: Some("dev"), name: None };
        assert_eq!(spec.action(), Action::new("get", pods));
        assert_eq!(spec.namespace(), Some("dev"));
        let object = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
        assert_eq!(AccessSpec::read(&object).unwrap().action(), Action::new("get", Target::Path("/metrics")));
    }
}
