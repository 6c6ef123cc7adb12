//! Which cluster a request is for: by TLS server name, or by path.

use http::{Version, header, request::Parts};
use ztka_core::{ClusterId, Reason};

use crate::{Connection, Names};

/// The way that leads to a cluster by path.
const CLUSTERS: &str = "/clusters/";

/// The cluster, and the prefix of the path that names it (empty where the server name does).
///
/// # Errors
/// [`Reason::Misdirected`]
pub(crate) fn locate(names: &Names, connection: &Connection, head: &Parts) -> Result<(ClusterId, String), Reason> {
    let host = host(head)?;
    if names.is_cluster_name(&host) && connection.server_name() != Some(&host) {
        return Err(Reason::Misdirected(
            "the host names another cluster than the TLS server name; set tls-server-name to the cluster's",
        ));
    }
    if let Some(cluster) = connection.cluster() {
        return Ok((cluster.clone(), String::new()));
    }
    let prefix = prefix(connection, head.uri.path()).unwrap_or_default();
    match prefix.strip_prefix(CLUSTERS).map(str::parse) {
        Some(Ok(cluster)) => Ok((cluster, prefix.into())),
        _ => Err(Reason::Misdirected(
            "no cluster is named: set tls-server-name to <cluster-id>.kube.<domain>, or ask below /clusters/<cluster-id>",
        )),
    }
}

/// `/clusters/<segment>`, where the path and not the server name says which cluster is asked.
pub(crate) fn prefix<'a>(connection: &Connection, path: &'a str) -> Option<&'a str> {
    if connection.cluster().is_some() {
        return None;
    }
    let rest = path.strip_prefix(CLUSTERS)?;
    let segment = rest.split('/').next()?;
    path.get(..CLUSTERS.len() + segment.len())
}

/// The host that the request names, in lower case and without port; `Host` and the target's authority must agree.
fn host(head: &Parts) -> Result<String, Reason> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (header, further) = (hosts.next(), hosts.next());
    let disagree = Reason::Misdirected("the request names more than one host");
    let header = match header.map(|value| value.to_str()) {
        _ if further.is_some() => return Err(disagree),
        Some(Ok(text)) => Some(text.to_ascii_lowercase()),
        Some(Err(_)) => return Err(Reason::Misdirected("the request's host cannot be read")),
        None => None,
    };
    let authority = head.uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
    let host = match (header, authority) {
        (Some(header), Some(authority)) if header != authority => return Err(disagree),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) if head.version == Version::HTTP_10 => String::new(),
        (None, None) => return Err(Reason::Misdirected("the request names no host")),
    };
    if host.contains('@') {
        return Err(Reason::Misdirected("the request's host cannot be read"));
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => &host,
    };
    Ok(name.strip_suffix('.').unwrap_or(name).into())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn ask(server_name: Option<&str>, host: Option<&str>, target: &str) -> Result<(String, String), String> {
        let names = Names::new("example.com", ["front.example.net".into()], "p1".parse().unwrap());
        let Some(crate::Role::Users(cluster)) = names.role(server_name) else { panic!("not a user's name") };
        let client = "192.0.2.1:1".parse().unwrap();
        let connection = Connection::new(client, server_name.map(Into::into), cluster, None);
        let mut request = Request::get(target);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let located = locate(&names, &connection, &head);
        located.map(|(cluster, prefix)| (cluster.to_string(), prefix)).map_err(|reason| reason.to_string())
    }

    #[test]
    fn server_name_host_and_path_name_one_cluster() {
        const NAME: &str = "c1.kube.example.com";
        let by_name = Ok(("c1".to_string(), String::new()));
        let by_path = Ok(("c2".to_string(), "/clusters/c2".to_string()));
        for (server_name, host, target, expected) in [
            (Some(NAME), Some("front.example.net:443"), "/api", &by_name),
            (Some(NAME), Some(NAME), "/api", &by_name),
            (Some(NAME), Some("C1.Kube.Example.com:443"), "/api", &by_name),
            (Some("C1.kube.example.com"), Some(NAME), "/api", &by_name),
            (Some(NAME), Some("192.0.2.7"), "/api", &by_name),
            (Some(NAME), Some("[2001:db8::1]:443"), "/api", &by_name),
            (Some(NAME), None, "https://c1.kube.example.com/api", &by_name),
            (Some(NAME), Some(NAME), "/clusters/c2/api", &by_name),
            (None, Some("192.0.2.7"), "/clusters/c2/api", &by_path),
            (None, Some("192.0.2.7"), "/clusters/c2", &by_path),
            (Some("kube.example.com"), Some("kube.example.com"), "/clusters/c2/api?x=y", &by_path),
            (Some("front.example.net"), Some("front.example.net"), "/clusters/c2/", &by_path),
        ] {
            assert_eq!(ask(server_name, host, target), *expected, "{server_name:?} {host:?} {target}");
        }
    }

    #[test]
    fn anything_else_is_misdirected() {
        const NAME: &str = "c1.kube.example.com";
        for (server_name, host, target) in [
            (Some(NAME), Some("c2.kube.example.com"), "/api"),
            (Some(NAME), Some("c2.kube.example.com."), "/api"),
            (Some(NAME), Some("c2.kube.example.com:443"), "/api"),
            (Some(NAME), Some("a.c1.kube.example.com"), "/api"),
            (Some(NAME), None, "/api"),
            (Some(NAME), None, "https://c2.kube.example.com/api"),
            (Some(NAME), Some(NAME), "https://c2.kube.example.com/api"),
            (Some(NAME), Some("front.example.net"), "https://c1.kube.example.com/api"),
            (None, Some("c1.kube.example.com"), "/clusters/c1/api"),
            (Some("kube.example.com"), Some("c1.kube.example.com"), "/clusters/c1/api"),
            (None, Some("front.example.net"), "/api"),
            (None, Some("front.example.net"), "/"),
            (None, Some("front.example.net"), "/clusters/"),
            (None, Some("front.example.net"), "/clusters//api"),
            (None, Some("front.example.net"), "/clusters/C1/api"),
            (None, Some("front.example.net"), "/clusters/c%31/api"),
            (None, Some("front.example.net"), "/clusters/../api"),
            (None, Some("front.example.net"), "//clusters/c1/api"),
        ] {
            assert!(ask(server_name, host, target).is_err(), "{server_name:?} {host:?} {target}");
        }
    }
}
