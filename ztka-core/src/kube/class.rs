//! Classes of requests that limits, durability and guardrails go by.

use http::Method;

use super::{RequestAttributes, RequestTarget, Verb};
use crate::Upgrade;

impl RequestAttributes {
    /// True for `pods/proxy`, `services/proxy` and `nodes/proxy`.
    pub fn is_service_proxy(&self) -> bool {
        self.target().subresource() == Some("proxy")
    }

    /// True for exec, attach, port-forward and the proxy subresources (the legacy verb too): the class `stream`.
    pub fn is_stream(&self) -> bool {
        let streams = |name| ["exec", "attach", "portforward", "proxy"].contains(&name);
        self.verb() == Verb::Proxy || self.target().subresource().is_some_and(streams)
    }

    /// True for what lasts until somebody ends it: watches, followed logs, streams.
    pub fn is_long_running(&self) -> bool {
        self.is_stream() || self.verb() == Verb::Watch || self.follows_log()
    }

    /// True for what changes something.
    pub fn is_mutating(&self) -> bool {
        match self.verb() {
            Verb::Get | Verb::List | Verb::Watch | Verb::Head | Verb::Options => false,
            Verb::Proxy => ![Method::GET, Method::HEAD].contains(self.method()),
            _ => true,
        }
    }

    /// True for what returns secrets: any verb, since a change is answered with the object.
    pub fn reads_secrets(&self) -> bool {
        matches!(self.target(), RequestTarget::Resource { group, resource, .. }
            if group.is_empty() && resource == "secrets")
    }

    fn follows_log(&self) -> bool {
        self.target().is_of_pods(&["log"]) && self.query("follow").first().is_some_and(|value| !is_false(value))
    }

    /// Refuses to change protocol where nothing streams, or with a method that the protocol does not open with.
    pub(super) fn check_upgrade(&self) -> Result<(), &'static str> {
        let Some(upgrade) = self.upgrade() else { return Ok(()) };
        let both = self.verb() == Verb::Proxy
            || self.is_service_proxy()
            || self.target().is_of_pods(&["exec", "attach", "portforward"]);
        let web_socket = both || self.verb() == Verb::Watch || self.target().is_of_pods(&["log"]);
        match upgrade {
            Upgrade::WebSocket if *self.method() != Method::GET => Err("WebSocket is opened with GET"),
            Upgrade::Spdy31 if ![Method::GET, Method::POST].contains(self.method()) => {
                Err("SPDY/3.1 is opened with POST or GET")
            }
            Upgrade::WebSocket if web_socket => Ok(()),
            Upgrade::Spdy31 if both => Ok(()),
            Upgrade::WebSocket => Err("nothing streams here; ask without Upgrade: only exec, attach, portforward, \
                                       log, proxy and watch can be upgraded to WebSocket"),
            Upgrade::Spdy31 => Err("nothing streams here; ask without Upgrade: only exec, attach, portforward and \
                                    proxy can be upgraded to SPDY/3.1"),
        }
    }
}

/// As Kubernetes reads a boolean parameter: only these two are false
/// (`k8s.io/apimachinery/pkg/runtime/conversion.go`).
fn is_false(value: &str) -> bool {
    value == "0" || value.eq_ignore_ascii_case("false")
}
