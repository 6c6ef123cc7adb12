//! What is done, in the apiserver's words.

use std::fmt;

use http::Method;

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

    /// Of a resource, before it is known whether one object is named.
    pub(super) fn of_resource(method: &Method) -> Result<Self, &'static str> {
        match *method {
            Method::GET | Method::HEAD => Ok(Self::Get),
            Method::POST => Ok(Self::Create),
            Method::PUT => Ok(Self::Update),
            Method::PATCH => Ok(Self::Patch),
            Method::DELETE => Ok(Self::Delete),
            _ => {
                Err("Kubernetes resources have no such method; use GET, HEAD, POST, PUT, PATCH or DELETE in upper case")
            }
        }
    }

    /// Of a non-resource path: the method in lower case.
    pub(super) fn of_path(method: &Method) -> Result<Self, &'static str> {
        match *method {
            Method::GET => Ok(Self::Get),
            Method::HEAD => Ok(Self::Head),
            Method::POST => Ok(Self::Post),
            Method::PUT => Ok(Self::Put),
            Method::PATCH => Ok(Self::Patch),
            Method::DELETE => Ok(Self::Delete),
            Method::OPTIONS => Ok(Self::Options),
            _ => Err("this method is not served; use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS in upper case"),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
