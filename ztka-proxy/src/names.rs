//! The family of server names on port 443, and the role that each stands for.

use std::str::FromStr as _;

use ztka_core::{ClusterId, ProxyId};

/// What a connection is for; it follows from the TLS server name alone and never changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// kubectl. The cluster where the server name is `<cluster>.kube.<domain>`; otherwise the path names it.
    Users(Option<ClusterId>),
    /// An agent's tunnel.
    Tunnel,
    /// A name of the controller's, passed on without a look inside.
    Controller,
}

/// The names of one installation.
#[derive(Clone, Debug)]
pub struct Names {
    domain: String,
    fronts: Vec<String>,
    proxy: ProxyId,
}

impl Names {
    /// The names under `domain` as proxy `proxy` serves them; `fronts` are further names at which users may ask by path.
    pub fn new(domain: impl Into<String>, fronts: impl IntoIterator<Item = String>, proxy: ProxyId) -> Self {
        let lower = |name: String| name.to_ascii_lowercase();
        Self { domain: lower(domain.into()), fronts: fronts.into_iter().map(lower).collect(), proxy }
    }

    /// The role of `server_name`, which is none for a client that addresses us by IP; `None` for a name that is not ours.
    pub fn role(&self, server_name: Option<&str>) -> Option<Role> {
        let Some(name) = server_name else { return Some(Role::Users(None)) };
        let name = name.to_ascii_lowercase();
        if self.fronts.contains(&name) {
            return Some(Role::Users(None));
        }
        let label = name.strip_suffix(&self.domain)?.strip_suffix('.')?;
        match label {
            "kube" => Some(Role::Users(None)),
            "tunnel" => Some(Role::Tunnel),
            "agents" | "enroll" | "api" | "console" => Some(Role::Controller),
            _ => match label.split_once('.')? {
                (cluster, "kube") => ClusterId::from_str(cluster).ok().map(|cluster| Role::Users(Some(cluster))),
                (proxy, "tunnel") if proxy == self.proxy.as_str() => Some(Role::Tunnel),
                _ => None,
            },
        }
    }

    /// True for `kube.<domain>` and every name under it; `host` is in lower case and without port.
    pub(crate) fn is_cluster_name(&self, host: &str) -> bool {
        host.strip_suffix(&self.domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .and_then(|rest| rest.strip_suffix("kube"))
            .is_some_and(|rest| rest.ends_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_name_gives_the_role() {
        let names = Names::new("Example.com", ["front.example.net".into()], "p1".parse().unwrap());
        let cluster = |id: &str| Some(Role::Users(Some(id.parse().unwrap())));
        for (name, role) in [
            (None, Some(Role::Users(None))),
            (Some("kube.example.com"), Some(Role::Users(None))),
            (Some("FRONT.example.net"), Some(Role::Users(None))),
            (Some("c1.kube.example.com"), cluster("c1")),
            (Some("C1.Kube.Example.com"), cluster("c1")),
            (Some("tunnel.example.com"), Some(Role::Tunnel)),
            (Some("p1.tunnel.example.com"), Some(Role::Tunnel)),
            (Some("p2.tunnel.example.com"), None),
            (Some("agents.example.com"), Some(Role::Controller)),
            (Some("enroll.example.com"), Some(Role::Controller)),
            (Some("api.example.com"), Some(Role::Controller)),
            (Some("a.c1.kube.example.com"), None),
            (Some("c_1.kube.example.com"), None),
            (Some("c1.kube.example.com.evil.com"), None),
            (Some("c1.kubeexample.com"), None),
            (Some("evilexample.com"), None),
            (Some("example.com"), None),
        ] {
            assert_eq!(names.role(name), role, "{name:?}");
        }
        assert!(names.is_cluster_name("x.kube.example.com"));
        assert!(!names.is_cluster_name("kube.example.com"));
        assert!(!names.is_cluster_name("xkube.example.com"));
    }
}
