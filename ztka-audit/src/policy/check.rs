//! What is no audit policy, beside what does not have its shape (`k8s.io/apiserver/pkg/apis/audit/validation`).

use super::{Policy, Resources, Rule};

/// A policy that has the shape of one, and cannot be meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{problem}")]
pub struct InvalidPolicy {
    /// JSON pointer.
    at: String,
    problem: String,
}

impl InvalidPolicy {
    /// The part that is wrong, as a JSON pointer.
    pub fn pointer(&self) -> &str {
        &self.at
    }
}

/// Most rules: each request is compared with them one by one.
const MAX_RULES: usize = 1000;

impl Policy {
    /// Checks what Kubernetes checks.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let refuse = |at: &str, problem: &str| Err(InvalidPolicy { at: at.into(), problem: problem.into() });
        if self.api_version != "audit.k8s.io/v1" {
            return refuse("/apiVersion", "apiVersion has to be audit.k8s.io/v1");
        }
        if self.kind != "Policy" {
            return refuse("/kind", "kind has to be Policy");
        }
        if self.rules.is_empty() {
            return refuse("/rules", "rules: name at least one; a policy without any records next to nothing");
        }
        if self.rules.len() > MAX_RULES {
            return refuse("/rules", "rules: more than 1,000");
        }
        for (number, rule) in self.rules.iter().enumerate() {
            rule.check()
                .map_err(|(field, problem)| InvalidPolicy { at: format!("/rules/{number}/{field}"), problem })?;
        }
        Ok(())
    }
}

type Problem = (String, String);

fn problem(field: impl Into<String>, problem: impl Into<String>) -> Problem {
    (field.into(), problem.into())
}

impl Rule {
    fn check(&self) -> Result<(), Problem> {
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_resources && !self.non_resource_urls.is_empty() {
            return Err(problem(
                "nonResourceURLs",
                "a rule is about resources and namespaces, or about nonResourceURLs; make it two",
            ));
        }
        for (number, url) in self.non_resource_urls.iter().enumerate() {
            let path = url.strip_suffix('*').unwrap_or(url);
            if url != "*" && !url.starts_with('/') || path.contains('*') {
                let text = "a path begins with / and has a * at its end alone";
                return Err(problem(format!("nonResourceURLs/{number}"), text));
            }
        }
        for (number, resources) in self.resources.iter().enumerate() {
            let at = |(field, text)| problem(format!("resources/{number}/{field}"), text);
            resources.check().map_err(at)?;
        }
        Ok(())
    }
}

impl Resources {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.group.contains('/') {
            return Err(("group", format!("{:?} is no API group; leave out the version", self.group)));
        }
        if self.resources.is_empty() && !self.resource_names.is_empty() {
            return Err(("resourceNames", "resourceNames need the resources that they are names of".into()));
        }
        let parts = |spec: &String| spec.split('/').count() > 2 || spec.split('/').any(str::is_empty);
        match self.resources.iter().find(|spec| parts(spec)) {
            Some(spec) => {
                Err(("resources", format!("{spec:?} is no resource; write pods, pods/log, pods/*, */log or *")))
            }
            None => Ok(()),
        }
    }
}
