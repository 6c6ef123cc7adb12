//! Rules and questions by number; what they mean is what [`Rule::covers`] says, in fewer steps.

mod packed;

pub(crate) use self::packed::Packed;
use crate::{
    Action, Gate, Port, Ports, Role, Rule, Settings, Target,
    words::{
        self, ADMISSION, API_REGISTRATION, APPROVAL, APPROVE, ATTACH, AnyOf, BIND, Bits, CERTIFICATES, CREATE, CSRS,
        DELETE_COLLECTION, EMPTY, EPHEMERAL, ESCALATE, EXEC, GET, IMPERSONATE, LIST, LOG, NODES, NONE, PODS,
        PORT_FORWARD, PROXY, SECRETS, SERVICE_ACCOUNTS, SIGN, STAR, STATUS, TOKEN, UNKNOWN, WATCH, Word, Words,
    },
};

/// A question, translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) verb: Word,
    /// Of the verb.
    pub(crate) bit: Bits,
    pub(crate) target: Aim<'a>,
    pub(crate) port: Port,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim<'a> {
    Resource(Object),
    Path(&'a str),
}

/// What an API request is about; [`NONE`] where it says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub(crate) group: Word,
    pub(crate) resource: Word,
    pub(crate) subresource: Word,
    pub(crate) namespace: Word,
    pub(crate) name: Word,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(words: &Words, action: &Action<'a>) -> Self {
        let verb = words.find(action.verb);
        let find = |word: Option<&str>| word.map_or(NONE, |word| words.find(word));
        let target = match action.target {
            Target::Path(path) => Aim::Path(path),
            Target::Resource { group, resource, subresource, namespace, name } => Aim::Resource(Object {
                group: words.find(group),
                resource: words.find(resource),
                subresource: find(subresource),
                namespace: find(namespace),
                name: if words.name_objects { find(name) } else { name.map_or(NONE, |_| UNKNOWN) },
            }),
        };
        Self { verb, bit: words::bit(verb), target, port: action.port }
    }

    pub(crate) fn object(&self) -> Option<&Object> {
        match &self.target {
            Aim::Resource(object) => Some(object),
            Aim::Path(_) => None,
        }
    }

    pub(crate) fn namespace(&self) -> Word {
        self.object().map_or(NONE, |object| object.namespace)
    }

    pub(crate) fn reads(&self) -> bool {
        [GET, LIST, WATCH].contains(&self.verb)
    }

    /// True for what touches any number of objects at once.
    pub(crate) fn is_wide(&self) -> bool {
        [LIST, WATCH, DELETE_COLLECTION].contains(&self.verb)
    }

    /// True for exec, attach, port-forward and the proxies.
    pub(crate) fn is_stream(&self) -> bool {
        let streams = |object: &Object| [EXEC, ATTACH, PORT_FORWARD, PROXY].contains(&object.subresource);
        self.verb == PROXY || self.object().is_some_and(streams)
    }

    /// True for what lasts until somebody ends it; also every log, as what is asked does not say whether it is followed.
    pub(crate) fn is_lasting(&self) -> bool {
        self.verb == WATCH || self.is_stream() || self.object().is_some_and(|object| object.subresource == LOG)
    }

    /// True for what a session recording would show.
    pub(crate) fn is_session(&self) -> bool {
        self.object().is_some_and(|object| [EXEC, ATTACH].contains(&object.subresource))
    }

    pub(crate) fn is_exec(&self) -> bool {
        self.object().is_some_and(|object| (object.group, object.resource, object.subresource) == (EMPTY, PODS, EXEC))
    }

    /// True for the secrets of all namespaces in one answer.
    pub(crate) fn is_everybodys_secrets(&self) -> bool {
        self.object().is_some_and(|object| (object.group, object.resource, object.namespace) == (EMPTY, SECRETS, NONE))
    }

    /// The gate that this has to pass.
    pub(crate) fn gate(&self) -> Option<Gate> {
        match self.verb {
            ESCALATE => return Some(Gate::Escalate),
            BIND => return Some(Gate::Bind),
            IMPERSONATE => return Some(Gate::Impersonate),
            APPROVE => return Some(Gate::Approve),
            SIGN => return Some(Gate::Sign),
            _ => {}
        }
        let object = self.object().filter(|_| !self.reads())?;
        match (object.group, object.resource, object.subresource) {
            (EMPTY, SERVICE_ACCOUNTS, TOKEN) => Some(Gate::Token),
            (CERTIFICATES, CSRS, APPROVAL) => Some(Gate::Approve),
            (CERTIFICATES, CSRS, STATUS) => Some(Gate::Sign),
            _ => None,
        }
    }

    /// True for what a read-only role may reach at all, if its rules say so.
    pub(crate) fn is_for_looking(&self, settings: &Settings) -> bool {
        let object = match &self.target {
            Aim::Path(path) => return self.verb == GET && !is_confidential(path),
            Aim::Resource(object) => object,
        };
        if self.is_exec() {
            return settings.view_exec && self.verb == CREATE;
        }
        let shut = match (object.group, object.resource) {
            (EMPTY, SECRETS) => !settings.view_secrets,
            (EMPTY, SERVICE_ACCOUNTS) => object.subresource == TOKEN,
            // The log, the debug pages and the checkpoints of a kubelet.
            (EMPTY, NODES) => ![NONE, STATUS].contains(&object.subresource),
            (ADMISSION | API_REGISTRATION, _) => true,
            _ => false,
        };
        self.reads() && !shut && !self.is_stream() && object.subresource != EPHEMERAL
    }

    /// True for what is left in a namespace that is protected but may be looked at.
    pub(crate) fn is_harmless(&self) -> bool {
        self.is_for_looking(&Settings::default())
    }
}

/// Logs and debug pages of the apiserver.
fn is_confidential(path: &str) -> bool {
    ["/logs", "/debug"]
        .iter()
        .any(|shut| path.strip_prefix(shut).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// A rule, translated.
#[derive(Debug)]
pub(crate) struct Matcher {
    verbs: AnyOf,
    about: About,
}

#[derive(Debug)]
enum About {
    Resources { groups: AnyOf, resources: Resources, names: AnyOf, ports: Box<[Ports]> },
    Paths(Box<[Box<str>]>),
}

#[derive(Debug)]
enum Resources {
    Any,
    /// Words without a slash, and both parts of those with one.
    Of {
        whole: Box<[Word]>,
        parts: Box<[(Word, Word)]>,
    },
}

impl Resources {
    fn new(words: &mut Words, texts: &[String]) -> Self {
        if texts.iter().any(|text| text == "*") {
            return Self::Any;
        }
        let whole = words::sorted(texts.iter().map(|text| words.add(text)).collect());
        let parts = texts.iter().filter_map(|text| text.split_once('/'));
        let mut parts: Vec<_> = parts.map(|(of, sub)| (words.add(of), words.add(sub))).collect();
        parts.sort_unstable();
        parts.dedup();
        Self::Of { whole, parts: parts.into() }
    }

    fn has(&self, object: &Object) -> bool {
        match self {
            Self::Any => true,
            Self::Of { whole, .. } if object.subresource == NONE => words::has(whole, object.resource),
            Self::Of { parts, .. } => {
                let has = |of| match parts.len() {
                    0..=8 => parts.contains(&(of, object.subresource)),
                    _ => parts.binary_search(&(of, object.subresource)).is_ok(),
                };
                object.subresource != UNKNOWN && (has(object.resource) || has(STAR))
            }
        }
    }
}

impl Matcher {
    pub(crate) fn new(words: &mut Words, rule: &Rule) -> Self {
        let verbs = AnyOf::of(words, &rule.verbs, true);
        let about = match rule.non_resource_urls.is_empty() {
            false => About::Paths(rule.non_resource_urls.iter().map(|path| path.as_str().into()).collect()),
            true => About::Resources {
                groups: AnyOf::of(words, &rule.api_groups, true),
                resources: Resources::new(words, &rule.resources),
                names: match rule.resource_names.is_empty() {
                    true => AnyOf::Any,
                    false => {
                        words.name_objects = true;
                        AnyOf::of(words, &rule.resource_names, false)
                    }
                },
                ports: rule.ports.clone().into(),
            },
        };
        Self { verbs, about }
    }

    /// The bits of its verbs.
    pub(crate) fn bits(&self) -> Bits {
        self.verbs.bits()
    }

    /// True if the rule allows what is asked.
    pub(crate) fn covers(&self, asked: &Asked<'_>) -> bool {
        if !self.verbs.has(asked.verb) {
            return false;
        }
        match (&self.about, &asked.target) {
            (About::Resources { groups, resources, names, ports }, Aim::Resource(object)) => {
                groups.has(object.group)
                    && resources.has(object)
                    && names.has(object.name)
                    && asked.port.is_within(ports)
            }
            (About::Paths(paths), Aim::Path(path)) => paths.iter().any(|word| crate::rule::is_path(word, path)),
            _ => false,
        }
    }

    /// True if the rule may be about what is asked, as far as that can be known.
    pub(crate) fn touches(&self, asked: &Asked<'_>) -> bool {
        if !self.verbs.has(asked.verb) {
            return false;
        }
        match (&self.about, &asked.target) {
            (About::Resources { groups, resources, names, ports }, Aim::Resource(object)) => {
                let port = match asked.port {
                    Port::Unknown => true,
                    // Each port is asked about before it is reached.
                    Port::Later => ports.is_empty(),
                    Port::Is(_) => asked.port.is_within(ports),
                };
                groups.has(object.group)
                    && resources.has(object)
                    && (object.name == NONE || names.has(object.name))
                    && port
            }
            _ => self.covers(asked),
        }
    }
}

/// A role, translated.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) role: Role,
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) unlimited: bool,
    matchers: Box<[Matcher]>,
}

impl Rules {
    pub(crate) fn new(words: &mut Words, role: Role) -> Self {
        let matchers = role.rules.iter().map(|rule| Matcher::new(words, rule)).collect();
        Self { name: role.name.as_str().into(), unlimited: role.is_unlimited(), matchers, role }
    }

    /// True if one of its rules allows what is asked.
    pub(crate) fn covers(&self, asked: &Asked<'_>) -> bool {
        self.matchers.iter().any(|matcher| matcher.covers(asked))
    }
}
