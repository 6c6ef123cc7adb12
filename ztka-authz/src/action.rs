//! One question to policy: may this verb be done to that?

use ztka_core::{RequestAttributes, RequestTarget};

use crate::Port;

/// A verb and what it is done to, borrowed from a request or from a self-review.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) target: Target<'a>,
    pub(crate) port: Port,
}

/// What the verb of an [`Action`] is done to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'a> {
    /// API objects.
    Resource {
        /// API group; empty for the core group.
        group: &'a str,
        /// Plural resource.
        resource: &'a str,
        /// Subresource.
        subresource: Option<&'a str>,
        /// Namespace; none at the cluster scope or across all namespaces.
        namespace: Option<&'a str>,
        /// Name of the object.
        name: Option<&'a str>,
    },
    /// A path outside the API groups.
    Path(&'a str),
}

impl<'a> Action<'a> {
    /// `verb` done to `target`.
    ///
    /// exec, attach and port-forward are `create` whatever the method: a WebSocket has to be asked for by GET. What
    /// rules could not name apart is brought into one form: an empty name is no name.
    pub fn new(verb: &'a str, target: Target<'a>) -> Self {
        let verb = match target {
            Target::Resource { group: "", resource: "pods", subresource: Some(sub), .. }
                if STREAMS.contains(&sub) && verb == "get" =>
            {
                "create"
            }
            _ => verb,
        };
        let target = match target {
            Target::Resource { group, resource, subresource, namespace, name } => {
                let filled = |text: &&str| !text.is_empty();
                let subresource = subresource.filter(filled);
                // Neither has an object yet that a name could stand for.
                let nameless = subresource.is_none() && ["create", "deletecollection"].contains(&verb);
                let name = name.filter(filled).filter(|_| !nameless);
                Target::Resource { group, resource, subresource, namespace: namespace.filter(filled), name }
            }
            path @ Target::Path(_) => path,
        };
        Self { verb, target, port: Port::Unknown }
    }

    /// The same question about a port of the pod, which rules and conditions may limit.
    #[must_use]
    pub fn on_port(mut self, port: Port) -> Self {
        self.port = port;
        self
    }

    /// The verb.
    pub fn verb(&self) -> &'a str {
        self.verb
    }

    /// What it is done to.
    pub fn target(&self) -> Target<'a> {
        self.target
    }

    /// What is known of the port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The namespace that is asked about.
    pub fn namespace(&self) -> Option<&'a str> {
        match self.target {
            Target::Resource { namespace, .. } => namespace,
            Target::Path(_) => None,
        }
    }
}

/// Subresources of a pod that are asked for by GET or by POST and mean `create` both times.
pub(crate) const STREAMS: [&str; 3] = ["exec", "attach", "portforward"];

impl<'a> From<&'a RequestAttributes> for Action<'a> {
    fn from(asked: &'a RequestAttributes) -> Self {
        let target = match asked.target() {
            RequestTarget::Resource { group, namespace, resource, subresource, name, version: _ } => Target::Resource {
                group,
                resource,
                subresource: subresource.as_deref(),
                namespace: namespace.as_deref(),
                name: name.as_deref(),
            },
            RequestTarget::NonResource { path } => Target::Path(path),
        };
        Self::new(asked.verb().as_str(), target)
    }
}
