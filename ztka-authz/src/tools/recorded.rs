//! Requests that were decided, as audit events tell of them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    io::{self, BufRead},
    net::IpAddr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::SourceError;
use crate::{Action, Labels, Port, Target};

/// A request that was decided, as the audit log has it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Recorded {
    /// The user's name.
    pub user: String,
    /// The user's groups then.
    pub groups: Vec<String>,
    /// The user's attributes then.
    pub attributes: Labels,
    /// The cluster's id.
    pub cluster: String,
    /// The verb.
    pub verb: String,
    /// The path, where it was no resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Resource.
    pub resource: String,
    /// Subresource.
    pub subresource: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: Option<String>,
    /// Words of the command of an exec, as far as they are on record; none if nothing is.
    pub command: Option<Vec<String>>,
    /// Ports of a port-forward; each is asked about.
    pub ports: Vec<u16>,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub source: Option<IpAddr>,
    /// What was decided.
    pub allowed: bool,
}

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// A line is no event.
    #[error("not audit events")]
    Event(#[source] SourceError),
}

/// The requests of a log of audit events (`audit.k8s.io/v1`, one to a line, as servers write them and
/// `ztka audit tail -o json` prints them), each once. Events without a decision of policy are passed over.
///
/// # Errors
/// What cannot be read, with its line.
pub fn recorded(lines: impl BufRead) -> Result<Vec<Recorded>, EventsError> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for (line, number) in lines.lines().zip(1..) {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let event: Event<'_> = serde_json::from_str(&line)
            .map_err(|error| EventsError::Event(SourceError::new(number, error.to_string())))?;
        // What lasts is told of twice.
        if event.fact("decision").is_some() && !event.verb.is_empty() && seen.insert(event.audit_id.to_string()) {
            all.push(event.recorded());
        }
    }
    Ok(all)
}

/// Of an audit event, what a decision depends on.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(rename = "auditID", borrow)]
    audit_id: Cow<'a, str>,
    #[serde(rename = "requestURI", borrow)]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow)]
    user: User<'a>,
    #[serde(rename = "sourceIPs", default)]
    source_ips: Vec<IpAddr>,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    request_received_timestamp: Timestamp,
    #[serde(borrow, default)]
    annotations: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    username: Cow<'a, str>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct ObjectRef {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
    api_group: String,
    subresource: Option<String>,
}

impl Event<'_> {
    fn fact(&self, name: &str) -> Option<&str> {
        self.annotations.get(format!("ztka.dev/{name}").as_str()).map(|fact| &**fact)
    }

    fn recorded(self) -> Recorded {
        let text = |name| self.fact(name).unwrap_or_default();
        let ports = text("ports").split(',').filter_map(|port| port.parse().ok()).collect();
        let command = self.fact("command").and_then(|words| serde_json::from_str(words).ok());
        let (cluster, allowed) = (text("cluster").to_owned(), text("decision") == "allow");
        let path = || self.request_uri.split('?').next().unwrap_or_default().to_owned();
        let path = self.object_ref.is_none().then(path);
        let object = self.object_ref.unwrap_or_default();
        let extra = self.user.extra.into_iter();
        let attributes = extra.filter_map(|(key, values)| Some((key, values.into_iter().next()?))).collect();
        Recorded {
            user: self.user.username.into_owned(),
            groups: self.user.groups,
            attributes,
            cluster,
            verb: self.verb.into_owned(),
            path,
            group: object.api_group,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            command,
            ports,
            at: self.request_received_timestamp,
            source: self.source_ips.first().copied(),
            allowed,
        }
    }
}

impl Recorded {
    /// What was asked, once for each port.
    pub(super) fn actions(&self) -> impl Iterator<Item = Action<'_>> {
        let target = match &self.path {
            Some(path) => Target::Path(path),
            None => Target::Resource {
                group: &self.group,
                resource: &self.resource,
                subresource: self.subresource.as_deref(),
                namespace: self.namespace.as_deref(),
                name: self.name.as_deref(),
            },
        };
        // A port-forward without ports named none that could have been reached.
        let forward = self.subresource.as_deref() == Some("portforward");
        let none = self.ports.is_empty().then_some(if forward { Port::Later } else { Port::Unknown });
        let ports = none.into_iter().chain(self.ports.iter().copied().map(Port::Is));
        ports.map(move |port| Action::new(&self.verb, target).on_port(port))
    }

    pub(super) fn describe(&self) -> String {
        match (&self.path, &self.namespace) {
            (Some(path), _) => format!("{} {path}", self.verb),
            (None, namespace) => {
                let dot = if self.group.is_empty() { "" } else { "." };
                let sub = self.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
                let place = namespace.as_ref().map(|name| format!(" -n {name}")).unwrap_or_default();
                format!("{} {}{dot}{}{sub}{place}", self.verb, self.resource, self.group)
            }
        }
    }
}
