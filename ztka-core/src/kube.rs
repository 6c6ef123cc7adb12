//! What is asked: method and target of a request, read once into Kubernetes' terms.

use std::fmt;

use http::{Method, Uri, uri::PathAndQuery};

use crate::Upgrade;

/// A target that two parsers could read differently, or that ours does not know.
#[derive(Clone, Debug, thiserror::Error)]
#[error("malformed request: {reason}")]
pub struct Malformed {
    target: String,
    reason: &'static str,
    too_long: bool,
}

impl Malformed {
    pub(crate) fn new(target: &Uri, reason: &'static str) -> Self {
        let target = target.to_string().chars().take(4096).collect();
        Self { target, reason, too_long: false }
    }

    /// The target as received, cut after 4,096 characters; for the record only.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Why it was refused.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// True if it was refused for its length alone: 414, not 400.
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }
}

/// What is done, in the apiserver's words.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// Legacy `/api/v1/proxy/…`.
    Proxy,
    /// Of a non-resource path.
    Head,
    /// Of a non-resource path.
    Post,
    /// Of a non-resource path.
    Put,
    /// Of a non-resource path.
    Options,
}

impl Verb {
    /// As RBAC spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Proxy => "proxy",
            Self::Head => "head",
            Self::Post => "post",
            Self::Put => "put",
            Self::Options => "options",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What it is done to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestTarget {
    /// An API object or a collection.
    Resource {
        /// API group; empty for the core group.
        group: String,
        /// API version, such as `v1`.
        version: String,
        /// Namespace; none at the cluster scope or across all namespaces.
        namespace: Option<String>,
        /// Plural resource.
        resource: String,
        /// Subresource, such as `log`.
        subresource: Option<String>,
        /// Name of the object.
        name: Option<String>,
    },
    /// Anything else, such as `/version`.
    NonResource {
        /// The decoded path.
        path: String,
    },
}

/// Kubernetes' `RequestInfo` (`k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`), and the one form in which the
/// request is sent.
#[derive(Clone, Debug)]
pub struct RequestAttributes {
    verb: Verb,
    target: RequestTarget,
    method: Method,
    canonical: PathAndQuery,
    upgrade: Option<Upgrade>,
}

impl RequestAttributes {
    /// Reads method and target.
    ///
    /// # Errors
    /// [`Malformed`] for what two parsers could read differently.
    pub fn parse(method: &Method, uri: &Uri, upgrade: Option<Upgrade>) -> Result<Self, Malformed> {
        let malformed = |reason| Malformed::new(uri, reason);
        let parts: Vec<_> = uri.path().split('/').collect();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let verb = match *method {
            Method::GET => Verb::Get,
            _ => return Err(malformed("unknown method")),
        };
        let &["", "api", "v1", "namespaces", namespace, resource, name] = parts.as_slice() else {
            return Err(malformed("unknown form"));
        };
        if ![namespace, resource, name].into_iter().all(|part| part.bytes().all(plain)) {
            return Err(malformed("empty, relative or escaped segment"));
        }
        let canonical = format!("/api/v1/namespaces/{namespace}/{resource}/{name}");
        Ok(Self {
            verb,
            target: RequestTarget::Resource {
                group: String::new(),
                version: "v1".into(),
                namespace: Some(namespace.into()),
                resource: resource.into(),
                subresource: None,
                name: Some(name.into()),
            },
            method: method.clone(),
            canonical: canonical.try_into().map_err(|_| malformed("bad segment"))?,
            upgrade,
        })
    }

    /// The verb that policy decides on.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// What the verb is done to.
    pub fn target(&self) -> &RequestTarget {
        &self.target
    }

    /// The method asked for.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Canonical path and query, rebuilt from the parsed parts: the only form that is decided on, recorded and sent.
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.canonical
    }

    /// The protocol that the request asks to change to.
    pub fn upgrade(&self) -> Option<Upgrade> {
        self.upgrade
    }

    /// True for `pods/proxy`, `services/proxy` and `nodes/proxy`.
    pub fn is_service_proxy(&self) -> bool {
        matches!(&self.target, RequestTarget::Resource { subresource: Some(sub), .. } if sub == "proxy")
    }

    /// Decoded values of query parameter `name`, in order.
    pub fn query(&self, name: &str) -> Vec<String> {
        let _ = name;
        Vec::new()
    }

    /// True for exec, attach, port-forward and the proxy subresources: the class `stream`.
    pub fn is_stream(&self) -> bool {
        matches!(&self.target, RequestTarget::Resource { subresource: Some(sub), .. }
            if ["exec", "attach", "portforward", "proxy"].contains(&sub.as_str()))
    }

    /// True for what lasts until somebody ends it: watches, followed logs, streams.
    pub fn is_long_running(&self) -> bool {
        self.is_stream() || self.verb == Verb::Watch
    }

    /// True for what changes something.
    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb, Verb::Get | Verb::List | Verb::Watch | Verb::Head | Verb::Options)
    }

    /// True for what returns secrets.
    pub fn reads_secrets(&self) -> bool {
        matches!(&self.target, RequestTarget::Resource { group, resource, .. }
            if group.is_empty() && resource == "secrets")
    }
}
