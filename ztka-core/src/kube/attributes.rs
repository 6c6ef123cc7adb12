//! Kubernetes' `RequestInfo`, and the one form in which the request is sent.

use http::{HeaderMap, Method, Uri, uri::PathAndQuery};

use super::{
    Impersonation, InvalidImpersonation, Malformed, RequestTarget, Verb,
    malformed::{Flaw, MAX_TARGET},
    path::Path,
    query::Query,
    selector,
};
use crate::Upgrade;

/// Kubernetes' `RequestInfo` (`k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`), and the one form in which the
/// request is sent.
///
/// The verb is Kubernetes' own but for one case: exec, attach and portforward of pods ask for `create` whatever the
/// method, because a WebSocket opens them with GET.
#[derive(Clone, Debug)]
pub struct RequestAttributes {
    verb: Verb,
    target: RequestTarget,
    method: Method,
    canonical: PathAndQuery,
    upgrade: Option<Upgrade>,
    impersonation: Option<Result<Impersonation, InvalidImpersonation>>,
}

impl RequestAttributes {
    /// Reads method and target. Of an absolute form the path is taken; whose host it names is checked elsewhere.
    ///
    /// Percent-encoding is normalised and a resource's trailing slash dropped. What follows `/proxy/`, and the query of
    /// such a request, belong to the service behind and stay as received.
    ///
    /// # Errors
    /// [`Malformed`] for what two parsers could read differently, for methods and upgrades that Kubernetes does not
    /// serve, and for more than 61,440 bytes.
    pub fn parse(method: &Method, uri: &Uri, upgrade: Option<Upgrade>) -> Result<Self, Malformed> {
        read(method, uri, upgrade).map_err(|flaw| flaw.of(uri))
    }

    /// The same request with what its headers ask to act as.
    #[must_use]
    pub fn impersonating(mut self, headers: &HeaderMap) -> Self {
        self.impersonation = Impersonation::asked(headers);
        self
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

    /// True if ports of a pod are to be forwarded.
    pub fn is_port_forward(&self) -> bool {
        self.target.is_of_pods(&["portforward"])
    }

    /// Whom the request asks to act as: `None` if nobody, `Err` if its `Impersonate-*` headers name no one user.
    ///
    /// Whoever decides has to look: the headers themselves do not travel on.
    pub fn impersonation(&self) -> Option<Result<&Impersonation, InvalidImpersonation>> {
        self.impersonation.as_ref().map(|asked| asked.as_ref().map_err(|invalid| *invalid))
    }

    /// True for what the apiserver only carries through to a pod, a service or a node.
    pub fn is_proxied(&self) -> bool {
        is_proxied(self.verb, &self.target)
    }

    /// Decoded values of query parameter `name`, in order; bytes that are not UTF-8 show as U+FFFD.
    ///
    /// Empty for the proxy subresources, whose query is the service's.
    pub fn query(&self, name: &str) -> Vec<String> {
        let raw = match self.is_proxied() {
            true => "",
            false => self.canonical.query().unwrap_or_default(),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Query::read(raw).map(|query| query.values(name).map(text).collect()).unwrap_or_default()
    }
}

fn is_proxied(verb: Verb, target: &RequestTarget) -> bool {
    verb == Verb::Proxy || target.subresource() == Some("proxy")
}

fn read(method: &Method, uri: &Uri, upgrade: Option<Upgrade>) -> Result<RequestAttributes, Flaw> {
    let raw_query = uri.query().unwrap_or_default();
    if uri.path().len() + raw_query.len() >= MAX_TARGET {
        return Err(Flaw::TooLong);
    }
    let (mut verb, mut target, mut canonical) = read_path(method, uri.path())?;
    if is_proxied(verb, &target) {
        if uri.query().is_some() {
            canonical.push('?');
            canonical.push_str(raw_query);
        }
    } else {
        let query = Query::read(raw_query)?;
        if let RequestTarget::Resource { name: name @ None, .. } = &mut target {
            match verb {
                Verb::Get => (verb, *name) = read_list(&query)?,
                Verb::Delete => verb = Verb::DeleteCollection,
                _ => {}
            }
        }
        query.write(&mut canonical);
    }
    if target.is_of_pods(&["exec", "attach", "portforward"]) {
        verb = Verb::Create;
    }
    // Escaping makes it longer, and what is sent must be as short as what is received.
    if canonical.len() > MAX_TARGET {
        return Err(Flaw::TooLong);
    }
    let canonical = canonical.try_into().map_err(|_| "the target has characters that no URL may have")?;
    let read = RequestAttributes { verb, target, method: method.clone(), canonical, upgrade, impersonation: None };
    read.check_upgrade()?;
    Ok(read)
}

/// Verb by method or by legacy path, target, and canonical path.
fn read_path(method: &Method, raw: &str) -> Result<(Verb, RequestTarget, String), Flaw> {
    let mut path = Path::new(raw)?;
    let prefix = path.next()?;
    let group = match prefix.as_deref() {
        Some("api") => Some("".into()),
        Some("apis") => path.next()?,
        _ => return read_non_resource(method, raw),
    };
    let (Some(group), Some(version), Some(first)) = (group, path.next()?, path.next()?) else {
        return read_non_resource(method, raw);
    };
    let (verb, first) = match first.as_ref() {
        "watch" if [Method::GET, Method::HEAD].contains(method) => (Verb::Watch, path.next()?),
        "watch" => return Err("a watch is asked for with GET".into()),
        "proxy" => (Verb::of_resource(method).map(|_| Verb::Proxy)?, path.next()?),
        _ => (Verb::of_resource(method)?, Some(first)),
    };
    let first = first.ok_or("nothing follows /watch or /proxy; name a resource")?;

    // At the end of the path, one more step stays at the end.
    let (namespace, resource, name, own_subresource) = if first == "namespaces" {
        let namespace = path.next()?;
        match path.next()? {
            None => (namespace.clone(), first, namespace, None),
            Some(part) if part == "status" || part == "finalize" => (namespace.clone(), first, namespace, Some(part)),
            Some(resource) => (namespace, resource, path.next()?, None),
        }
    } else {
        (None, first, path.next()?, None)
    };
    let subresource = match own_subresource {
        // The legacy verb `proxy` has no subresources: what follows the name is the service's.
        _ if verb == Verb::Proxy => None,
        Some(part) => Some(part),
        None => path.next()?,
    };
    if verb == Verb::Watch && subresource.is_some() {
        return Err("a path with /watch/ ends with a name; a subresource cannot be watched".into());
    }
    let own = |part: std::borrow::Cow<'_, str>| part.into_owned();
    let target = RequestTarget::Resource {
        group: own(group),
        version: own(version),
        namespace: namespace.map(own),
        resource: own(resource),
        subresource: subresource.map(own),
        name: name.map(own),
    };
    let canonical = match is_proxied(verb, &target) {
        true => path.finish_raw()?,
        false => path.finish()?,
    };
    Ok((verb, target, canonical))
}

fn read_non_resource(method: &Method, raw: &str) -> Result<(Verb, RequestTarget, String), Flaw> {
    let (path, canonical) = Path::new(raw)?.finish_with_slash()?;
    Ok((Verb::of_path(method)?, RequestTarget::NonResource { path }, canonical))
}

/// Verb and name of a get without a name in its path.
fn read_list(query: &Query<'_>) -> Result<(Verb, Option<String>), Flaw> {
    let text = |name: &'static str| query.first(name).map(std::str::from_utf8).transpose();
    let verb = match text("watch") {
        Ok(None | Some("0")) => Verb::List,
        Ok(Some("" | "1")) => Verb::Watch,
        Ok(Some(value)) if value.eq_ignore_ascii_case("false") => Verb::List,
        Ok(Some(value)) if value.eq_ignore_ascii_case("true") => Verb::Watch,
        // Kubernetes takes anything else for true; others do not.
        _ => return Err("watch is neither true nor false; write watch=true or leave it out".into()),
    };
    let selector = text("fieldSelector").map_err(|_| "the field selector is not UTF-8")?.unwrap_or_default();
    let name = selector::exact_name(selector)?;
    if name.is_some() {
        // The apiserver ignores the name if it cannot read the other options.
        for option in ["limit", "timeoutSeconds"] {
            if !text(option).is_ok_and(|value| value.is_none_or(|value| value.parse::<i64>().is_ok())) {
                return Err("limit or timeoutSeconds is not a whole number".into());
            }
        }
        let labels = text("labelSelector").map_err(|_| "the label selector is not UTF-8")?.unwrap_or_default();
        if !labels.is_empty() && !selector::is_label_selector(labels) {
            return Err("the label selector cannot be read; write key, !key, key=value, key!=value, key in (a,b) or \
                        key notin (a,b), separated by commas"
                .into());
        }
    }
    Ok((verb, name))
}
