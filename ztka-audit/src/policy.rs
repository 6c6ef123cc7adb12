//! How much of which request is recorded: Kubernetes' own audit policy (`audit.k8s.io/v1` `Policy`).

mod check;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
#[cfg(feature = "policy-file")]
use ztka_core::source::{Source, SourceError};
use ztka_core::{Principal, RequestAttributes, RequestTarget};

pub use self::check::InvalidPolicy;
use crate::{Level, Stage};

/// An audit policy: the first rule that matches a request says how much of it is recorded
/// (`k8s.io/apiserver/pkg/audit/policy/checker.go`). A request that no rule matches is of level `None`.
///
/// What level `None` means here, and what no policy can leave out, is said at [`Levels`](crate::Levels).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Policy {
    api_version: String,
    kind: String,
    /// Names and labels, which mean nothing here.
    #[serde(skip_serializing)]
    metadata: IgnoredAny,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// Stages that are left out of what every rule records.
    #[serde(deserialize_with = "stages", skip_serializing_if = "Vec::is_empty")]
    pub omit_stages: Vec<Stage>,
    /// True if bodies are recorded without `managedFields`, unless a rule says otherwise.
    pub omit_managed_fields: bool,
}

/// Which requests, and how much of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// How much of a request that matches.
    pub level: Level,
    /// By these users; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// By a member of one of these groups; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_groups: Vec<String>,
    /// With these verbs; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// For these resources; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resources>,
    /// In these namespaces, `""` for none; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// For these paths that are no resources, perhaps with a `*` at the end.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Stages that are left out.
    #[serde(default, deserialize_with = "stages", skip_serializing_if = "Vec::is_empty")]
    pub omit_stages: Vec<Stage>,
    /// True if bodies are recorded without `managedFields`, false if with them; otherwise as the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omit_managed_fields: Option<bool>,
}

/// Resources of one API group.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Resources {
    /// The API group; empty for the core group.
    pub group: String,
    /// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`; all of the group if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Objects of these names; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
}

/// What a policy says about one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Said {
    pub(crate) level: Level,
    pub(crate) omit_started: bool,
    pub(crate) omit_managed_fields: bool,
}

impl Said {
    pub(crate) const METADATA: Self = Self { level: Level::Metadata, omit_started: false, omit_managed_fields: false };
    const NONE: Self = Self { level: Level::None, ..Self::METADATA };
}

/// Kubernetes' `Policy` and `Rule` spell stages as events do.
fn stages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Stage>, D::Error> {
    Option::<Vec<Stage>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Policy {
    /// Reads a policy from YAML, or JSON, in Kubernetes' own format, and checks it.
    ///
    /// # Errors
    /// The first problem, with its line; a field that is not known is one.
    #[cfg(feature = "policy-file")]
    pub fn from_yaml(text: &str) -> Result<Self, SourceError> {
        let source = Source::read(text)?;
        let policy: Self = source.to()?;
        let located = |invalid: InvalidPolicy| SourceError::new(source.line(invalid.pointer()), invalid.to_string());
        policy.check().map_err(located)?;
        Ok(policy)
    }

    /// What the file asks for and is not done, in words for a log. `ResponseStarted` alone can be left out.
    pub fn not_followed(&self) -> Option<&'static str> {
        let kept = |stages: &[Stage]| stages.iter().any(|stage| *stage != Stage::ResponseStarted);
        (kept(&self.omit_stages) || self.rules.iter().any(|rule| kept(&rule.omit_stages))).then_some(
            "omitStages leaves out ResponseStarted alone: what a request was begun with is what makes it certain to be on \
             record, and its end says how it went",
        )
    }

    /// How much this policy has recorded of a request, in Kubernetes' own word.
    pub fn says(&self, who: &Principal, asked: &RequestAttributes) -> &'static str {
        self.say(who, asked).level.as_str()
    }

    pub(crate) fn say(&self, who: &Principal, asked: &RequestAttributes) -> Said {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(who, asked)) else { return Said::NONE };
        let omits = |stages: &[Stage]| stages.contains(&Stage::ResponseStarted);
        Said {
            level: rule.level,
            omit_started: omits(&rule.omit_stages) || omits(&self.omit_stages),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|one| one == text)
}

impl Rule {
    fn matches(&self, who: &Principal, asked: &RequestAttributes) -> bool {
        if !self.users.is_empty() && !has(&self.users, who.name().as_str()) {
            return false;
        }
        let mut groups = who.groups().iter();
        if !self.user_groups.is_empty() && !groups.any(|group| has(&self.user_groups, group.as_str())) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, asked.verb().as_str()) {
            return false;
        }
        let about_resources = !self.namespaces.is_empty() || !self.resources.is_empty();
        match asked.target() {
            RequestTarget::Resource { .. } if about_resources => self.matches_resource(asked.target()),
            RequestTarget::NonResource { path } if !about_resources && !self.non_resource_urls.is_empty() => {
                self.non_resource_urls.iter().any(|spec| path_matches(spec, path))
            }
            // A rule about the other sort of request.
            _ => !about_resources && self.non_resource_urls.is_empty(),
        }
    }

    fn matches_resource(&self, target: &RequestTarget) -> bool {
        let RequestTarget::Resource { group, namespace, resource, subresource, name, .. } = target else {
            return false;
        };
        if !self.namespaces.is_empty() && !has(&self.namespaces, namespace.as_deref().unwrap_or_default()) {
            return false;
        }
        let (name, subresource) = (name.as_deref().unwrap_or_default(), subresource.as_deref());
        self.resources.is_empty()
            || self.resources.iter().any(|resources| resources.match_one(group, resource, subresource, name))
    }
}

impl Resources {
    fn match_one(&self, group: &str, resource: &str, subresource: Option<&str>, name: &str) -> bool {
        let named = || self.resource_names.is_empty() || has(&self.resource_names, name);
        let spelt = |spec: &str| match (spec.split_once('/'), subresource) {
            _ if spec == "*" => true,
            (None, None) => spec == resource,
            (Some((of, "*")), _) => of == resource,
            (Some((of, sub)), Some(subresource)) => sub == subresource && (of == "*" || of == resource),
            (None, Some(_)) | (Some(_), None) => false,
        };
        self.group == group && (self.resources.is_empty() || self.resources.iter().any(|spec| spelt(spec)) && named())
    }
}

fn path_matches(spec: &str, path: &str) -> bool {
    match spec.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => spec == path,
    }
}
