//! Objects that an agent keeps for its accounts: stored as written, listed by label, tokens and reviews given to all.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use http::{Method, StatusCode, Uri};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// Nobody fills the memory by writing.
const MOST: usize = 10_000;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/";

type Refused = (StatusCode, &'static str);

/// By path.
#[derive(Debug, Default)]
pub(crate) struct Objects(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_path: BTreeMap<String, Value>,
    writes: u64,
}

impl Objects {
    /// Answers a call as an apiserver without admission and authorization would.
    pub(crate) fn call(&self, method: &Method, uri: &Uri, body: &[u8]) -> Result<(StatusCode, Value), Refused> {
        let (path, mut kept) = (uri.path(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        match *method {
            Method::GET => match kept.by_path.get(path) {
                Some(object) => Ok((StatusCode::OK, object.clone())),
                None => kept.list(path, uri.query().unwrap_or_default()),
            },
            Method::DELETE => match kept.by_path.remove(path) {
                Some(_) => Ok((StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))),
                None => Err(NOT_FOUND),
            },
            Method::PATCH | Method::PUT => kept.put(path.to_owned(), read(body)?),
            Method::POST if path.starts_with(REVIEWS) => {
                let mut review = read(body)?;
                set(&mut review, "status", json!({"allowed": true, "reason": "everything is allowed here"}));
                Ok((StatusCode::CREATED, review))
            }
            Method::POST => match path.strip_suffix("/token") {
                Some(account) if kept.by_path.contains_key(account) => token(account, read(body)?),
                Some(_) => Err(NOT_FOUND),
                None => {
                    let object = read(body)?;
                    let name = object.pointer("/metadata/name").and_then(Value::as_str);
                    let path = format!("{path}/{}", name.ok_or((StatusCode::UNPROCESSABLE_ENTITY, "no name"))?);
                    match kept.by_path.contains_key(&path) {
                        true => Err((StatusCode::CONFLICT, "it exists already")),
                        false => kept.put(path, object),
                    }
                }
            },
            _ => Err((StatusCode::METHOD_NOT_ALLOWED, "not a method of objects")),
        }
    }
}

const NOT_FOUND: Refused = (StatusCode::NOT_FOUND, "there is no such object");

impl Kept {
    fn put(&mut self, path: String, mut object: Value) -> Result<(StatusCode, Value), Refused> {
        if self.by_path.len() >= MOST {
            return Err((StatusCode::TOO_MANY_REQUESTS, "too many objects"));
        }
        self.writes += 1;
        let held = self.by_path.get(&path).and_then(|held| held.pointer("/metadata/uid")).cloned();
        let code = if held.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let uid = held.unwrap_or_else(|| format!("00000000-0000-4000-8000-{:012x}", self.writes).into());
        let Some(metadata) = object.get_mut("metadata") else {
            return Err((StatusCode::UNPROCESSABLE_ENTITY, "no metadata"));
        };
        set(metadata, "uid", uid);
        set(metadata, "resourceVersion", self.writes.to_string().into());
        self.by_path.insert(path, object.clone());
        Ok((code, object))
    }

    /// Collections exist if an account can have objects of the kind, whether or not there are any.
    fn list(&self, path: &str, query: &str) -> Result<(StatusCode, Value), Refused> {
        let Some((group, kind)) = path.rsplit_once('/') else {
            return Err(NOT_FOUND);
        };
        let kinds = ["serviceaccounts", "secrets", "roles", "rolebindings", "clusterroles", "clusterrolebindings"];
        if !kinds.contains(&kind) {
            return Err(NOT_FOUND);
        }
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
        let selector = percent_decode_str(selector).decode_utf8_lossy();
        let wanted: Vec<_> = selector.split(',').filter_map(|pair| pair.split_once('=')).collect();
        let is_of = |path: &str| {
            let in_group = path.strip_prefix(group).is_some_and(|rest| rest.starts_with('/'));
            in_group && path.rsplit('/').nth(1) == Some(kind)
        };
        let carries = |object: &Value| {
            let labels = object.pointer("/metadata/labels");
            let label = |name: &str| labels.and_then(|labels| labels.get(name)?.as_str());
            wanted.iter().all(|(name, value)| label(name) == Some(value))
        };
        let found = self.by_path.iter().filter(|(path, object)| is_of(path) && carries(object));
        let items: Vec<_> = found.map(|(_, object)| object).collect();
        let version = json!({"resourceVersion": self.writes.to_string()});
        Ok((StatusCode::OK, json!({"kind": "List", "apiVersion": "v1", "metadata": version, "items": items})))
    }
}

fn token(account: &str, mut request: Value) -> Result<(StatusCode, Value), Refused> {
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    // An apiserver grants no less than ten minutes; a day is enough for any run.
    let seconds = seconds.clamp(600, 86_400);
    let now = Timestamp::now();
    let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    if let Some(spec) = request.get_mut("spec") {
        set(spec, "expirationSeconds", seconds.into());
    }
    let token = format!("{}.{}", account.rsplit('/').next().unwrap_or_default(), now.as_nanosecond());
    set(&mut request, "status", json!({"token": token, "expirationTimestamp": format!("{expires:.0}")}));
    Ok((StatusCode::CREATED, request))
}

fn read(body: &[u8]) -> Result<Value, Refused> {
    let object = serde_json::from_slice(body).ok().filter(Value::is_object);
    object.ok_or((StatusCode::BAD_REQUEST, "the body is not a JSON object"))
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(field.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_can_be_made_listed_and_removed() {
        let objects = Objects::default();
        let call = |method: Method, path: &str, body: Value| {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            objects.call(&method, &path.parse().unwrap(), body.as_bytes())
        };
        let home = "/api/v1/namespaces/ztka-system/serviceaccounts";
        let account = json!({"kind": "ServiceAccount", "metadata": {"name": "u1", "labels": {"ztka.dev/user": "u1"}}});
        let path = format!("{home}/u1");

        assert_eq!(call(Method::POST, &format!("{path}/token"), json!({"spec": {}})).unwrap_err().0, 404);
        let (code, made) = call(Method::PATCH, &format!("{path}?fieldManager=a&force=true"), account.clone()).unwrap();
        assert_eq!((code.as_u16(), made["kind"].as_str()), (201, Some("ServiceAccount")));
        let (code, again) = call(Method::PATCH, &path, account.clone()).unwrap();
        assert_eq!((code.as_u16(), &again["metadata"]["uid"]), (200, &made["metadata"]["uid"]));
        assert_eq!(call(Method::POST, home, account).unwrap_err().0, 409);

        let (code, granted) =
            call(Method::POST, &format!("{path}/token"), json!({"spec": {"expirationSeconds": 60}})).unwrap();
        assert_eq!((code.as_u16(), granted["spec"]["expirationSeconds"].as_i64()), (201, Some(600)));
        let expires: Timestamp = granted["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
        assert!(expires > Timestamp::now() && granted["status"]["token"].as_str().unwrap().starts_with("u1."));

        let listed = |selector: &str| {
            let (_, list) = call(Method::GET, &format!("{home}?labelSelector={selector}"), Value::Null).unwrap();
            list["items"].as_array().unwrap().len()
        };
        assert_eq!((listed("ztka.dev/user%3Du1"), listed("ztka.dev/user%3Du2")), (1, 0));
        let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/dev/roles/ztka:u1";
        call(Method::PATCH, role, json!({"metadata": {"labels": {"ztka.dev/user": "u1"}}})).unwrap();
        let all = "/apis/rbac.authorization.k8s.io/v1/roles?labelSelector=ztka.dev/user%3Du1";
        assert_eq!(call(Method::GET, all, Value::Null).unwrap().1["items"].as_array().unwrap().len(), 1);

        assert_eq!(call(Method::DELETE, &path, Value::Null).unwrap().0, 200);
        assert_eq!(call(Method::DELETE, &path, Value::Null).unwrap_err().0, 404);
        assert_eq!(listed(""), 0);
    }

    #[test]
    fn reviews_are_answered_yes_with_what_was_asked() {
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".parse().unwrap();
        let review = br#"{"kind": "SelfSubjectAccessReview", "spec": {"a": 1}}"#;
        let (code, answer) = Objects::default().call(&Method::POST, &path, review).unwrap();
        assert_eq!(code, StatusCode::CREATED);
        assert_eq!((&answer["spec"]["a"], &answer["status"]["allowed"]), (&json!(1), &json!(true)));
        assert_eq!(Objects::default().call(&Method::POST, &path, b"[").unwrap_err().0, 400);
    }
}
