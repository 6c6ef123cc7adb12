//! What a request is about.

/// What it is done to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestTarget {
    /// An API object or a collection.
    Resource {
        /// API group; empty for the core group.
        group: String,
        /// API version, such as `v1`.
        version: String,
        /// Namespace; none at the cluster scope or across all namespaces. Of a namespace object, its own name.
        namespace: Option<String>,
        /// Plural resource.
        resource: String,
        /// Subresource, such as `log`.
        subresource: Option<String>,
        /// Name of the object, from the path or from an exact `metadata.name` field selector.
        name: Option<String>,
    },
    /// Anything else, such as `/version`.
    NonResource {
        /// The decoded path, a trailing slash included.
        path: String,
    },
}

impl RequestTarget {
    pub(super) fn subresource(&self) -> Option<&str> {
        match self {
            Self::Resource { subresource, .. } => subresource.as_deref(),
            Self::NonResource { .. } => None,
        }
    }

    /// True for subresource `subresource` of the core group's pods.
    pub(super) fn is_of_pods(&self, subresource: &[&str]) -> bool {
        matches!(self, Self::Resource { group, resource, subresource: Some(sub), .. }
            if group.is_empty() && resource == "pods" && subresource.contains(&sub.as_str()))
    }
}
