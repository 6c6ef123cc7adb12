//! What is asked: method and target of a request, read once into Kubernetes' terms.
//!
//! The rules are those of `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`. Where the apiserver is laxer, the
//! difference is one of these, each answered with 400 and a reason that says how to ask instead:
//!
//! * path segments that are empty, `.` or `..`, or that hold `/ \\ % ? # ;` or a control character once decoded; behind
//!   `/proxy/`, where the path is the service's, only dot segments and broken escapes;
//! * `;`, broken escapes and names that are not UTF-8 in a query, more than 1,000 parameters, and `watch`,
//!   `fieldSelector`, `labelSelector` or `follow` given twice (the apiserver drops or ignores these);
//! * on lists, values of `watch` other than true, false, 1, 0 and nothing, field selectors that cannot be read or name
//!   `metadata.name` twice, and, beside a name, options that cannot be read;
//! * methods that no resource has; legacy `/watch/` paths with another method than GET or HEAD, or with a subresource;
//! * upgrades where nothing streams, or with a method that does not open them.
//!
//! exec, attach and portforward of pods ask for `create` whatever the method.

mod attributes;
mod class;
mod impersonation;
mod malformed;
mod path;
mod percent;
mod query;
mod selector;
mod target;
#[cfg(test)]
mod tests;
mod verb;

pub use self::{
    attributes::RequestAttributes,
    impersonation::{Impersonation, InvalidImpersonation},
    malformed::Malformed,
    target::RequestTarget,
    verb::Verb,
};
