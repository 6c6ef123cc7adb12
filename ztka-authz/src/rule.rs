//! What a rule covers, exactly as `pkg/apis/rbac/v1/evaluation_helpers.go` of Kubernetes says.

use crate::{Action, Role, Rule, Target};

/// Stands for everything of its kind.
const ALL: &str = "*";

impl Rule {
    /// True if the rule allows `action`, were it bound where the action takes place.
    pub fn covers(&self, action: &Action<'_>) -> bool {
        if !has(&self.verbs, action.verb) {
            return false;
        }
        match action.target {
            Target::Path(path) => self.non_resource_urls.iter().any(|word| is_path(word, path)),
            Target::Resource { group, resource, subresource, name, namespace: _ } => {
                has(&self.api_groups, group)
                    && self.resources.iter().any(|word| is_resource(word, resource, subresource))
                    && (self.resource_names.is_empty()
                        || name.is_some_and(|name| self.resource_names.iter().any(|word| word == name)))
                    && action.port.is_within(&self.ports)
            }
        }
    }

    /// Why the rule does not allow `action`; none if it does.
    #[cfg(feature = "tools")]
    pub(crate) fn passes_over(&self, action: &Action<'_>) -> Option<&'static str> {
        if self.covers(action) {
            return None;
        }
        let Target::Resource { group, resource, subresource, name, .. } = action.target else {
            return Some(if self.non_resource_urls.is_empty() { "is about resources" } else { "is about other paths" });
        };
        let named = name.is_some_and(|name| self.resource_names.iter().any(|word| word == name));
        let differs = [
            (!self.non_resource_urls.is_empty(), "is about paths"),
            (!self.resources.iter().any(|word| is_resource(word, resource, subresource)), "is about other resources"),
            (!has(&self.api_groups, group), "is about other API groups"),
            (!self.has_verb(action.verb), "is about other verbs"),
            (!self.resource_names.is_empty() && !named, "is about other names"),
        ];
        let found = differs.into_iter().find_map(|(differs, why)| differs.then_some(why));
        Some(found.unwrap_or("is about other ports"))
    }

    /// True if the rule allows every verb on every resource.
    fn is_unlimited(&self) -> bool {
        let all = |words: &[String]| words.iter().any(|word| word == ALL);
        all(&self.verbs) && all(&self.api_groups) && all(&self.resources) && self.resource_names.is_empty()
    }

    pub(crate) fn has_verb(&self, verb: &str) -> bool {
        has(&self.verbs, verb)
    }
}

impl Role {
    pub(crate) fn is_unlimited(&self) -> bool {
        self.rules.iter().any(Rule::is_unlimited)
    }
}

fn has(words: &[String], asked: &str) -> bool {
    words.iter().any(|word| word == ALL || word == asked)
}

/// `*` covers subresources too; `*/scale` is that subresource of anything; `pods/*` is nothing special.
fn is_resource(word: &str, resource: &str, subresource: Option<&str>) -> bool {
    if word == ALL {
        return true;
    }
    match subresource {
        None => word == resource,
        Some(asked) => word.split_once('/').is_some_and(|(of, sub)| sub == asked && (of == ALL || of == resource)),
    }
}

pub(crate) fn is_path(word: &str, path: &str) -> bool {
    match word.strip_suffix(ALL) {
        Some(prefix) => path.starts_with(prefix),
        None => word == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_match_as_in_kubernetes() {
        let table = [
            ("*", "pods", None, true),
            ("*", "pods", Some("exec"), true),
            ("pods", "pods", None, true),
            ("pods", "pods", Some("exec"), false),
            ("pods/exec", "pods", Some("exec"), true),
            ("pods/exec", "pods", None, false),
            ("pods/*", "pods", Some("exec"), false),
            ("pods/*", "pods", None, false),
            ("*/scale", "deployments", Some("scale"), true),
            ("*/scale", "deployments", Some("status"), false),
            ("*/scale", "scale", None, false),
        ];
        for (word, resource, subresource, expected) in table {
            assert_eq!(is_resource(word, resource, subresource), expected, "{word} {resource} {subresource:?}");
        }
    }

    #[test]
    fn a_star_in_a_path_counts_at_its_end_only() {
        let table = [
            ("*", "/anything", true),
            ("/api", "/api", true),
            ("/api", "/api/v1", false),
            ("/api/*", "/api/v1", true),
            ("/api/*", "/api", false),
            ("/healthz*", "/healthz/etcd", true),
        ];
        for (word, path, expected) in table {
            assert_eq!(is_path(word, path), expected, "{word} {path}");
        }
    }

    #[test]
    fn names_limit_neither_create_nor_deletecollection_of_the_resource_itself() {
        let rule = Rule {
            verbs: vec!["*".into()],
            api_groups: vec![String::new()],
            resources: vec!["pods".into(), "pods/exec".into()],
            resource_names: vec!["web".into()],
            ..Rule::default()
        };
        let asks = |verb, subresource, name| {
            let target = Target::Resource { group: "", resource: "pods", subresource, namespace: Some("dev"), name };
            rule.covers(&Action::new(verb, target))
        };
        assert!(asks("get", None, Some("web")));
        assert!(asks("list", None, Some("web")));
        assert!(asks("create", Some("exec"), Some("web")));
        assert!(!asks("get", None, Some("other")));
        assert!(!asks("list", None, None));
        assert!(!asks("create", None, Some("web")));
        assert!(!asks("deletecollection", None, Some("web")));
    }
}
