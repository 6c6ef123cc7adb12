//! Limits that a cluster's owner sets at the cluster's own agent: they narrow what policy gives there, and nothing widens them.

use serde::{Deserialize, Serialize};
use ztka_core::{ClusterId, OrgId, Principal, RequestAttributes};

use crate::{
    Action, Clause, Cluster, ClusterSelector, Conditions, Denial, Facts, Hours, InvalidPolicy, PolicyDocument,
    PolicySet, Port, Refused, Rule, Scope, Subject, Target,
    condition::{Request, has_command},
    matcher::Asked,
};

/// Limits as they are written down; all of them hold at once. By default there is none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LocalLimits {
    /// Nobody does anything in other namespaces than these, across namespaces, or outside of them; discovery and questions
    /// about oneself aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Nobody runs anything in containers: no exec, attach, ephemeral containers, and no way to a kubelet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_exec: bool,
    /// Nobody comes in at other hours, and what is open ends with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// What is denied beside, each by its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<LocalDenial>,
}

/// Denies what one of its rules names. What cannot be known is taken for what is denied.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalDenial {
    /// Unlike the name of any other; the refusal names it.
    pub name: String,
    /// What is denied.
    pub rules: Vec<Rule>,
    /// Where: in these namespaces, or everywhere if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Whom it is about; nobody in particular is everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<Subject>,
    /// Who is not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Subject>,
    /// Counts for requests that may fulfil all of this.
    #[serde(default, skip_serializing_if = "Clause::is_empty")]
    pub when: Clause<Conditions>,
    /// What people are told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

// Names by which refusals tell of the limits that have none of their own.
const NAMESPACES: &str = "namespaces";
const HOURS: &str = "hours";
const NO_EXEC: &str = "noExec";

/// Limits that mean something definite, ready to be asked.
#[derive(Debug)]
pub struct Limits {
    written: LocalLimits,
    denials: PolicySet,
}

impl LocalLimits {
    /// True if there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Compiles them.
    ///
    /// # Errors
    /// [`InvalidPolicy`] if they mean nothing definite, or something that this version does not understand.
    pub fn compile(self) -> Result<Limits, InvalidPolicy> {
        // These two are no denials; what is in them is held against the same rules.
        if let Some(namespaces) = &self.namespaces {
            let scope = Scope::Namespaces(namespaces.clone());
            compiled(vec![Denial { name: NAMESPACES.into(), scope, ..denial(everything()) }])?;
        }
        if let Some(hours) = self.hours.clone() {
            let when = Conditions { hours: Some(hours), ..Conditions::default() }.into();
            compiled(vec![Denial { name: HOURS.into(), when, ..denial(everything()) }])?;
        }
        let mut denials: Vec<Denial> = self.deny.iter().map(LocalDenial::denial).collect();
        if self.no_exec {
            denials.push(Denial { name: NO_EXEC.into(), ..denial(runs()) });
        }
        Ok(Limits { denials: compiled(denials)?, written: self })
    }
}

fn compiled(denials: Vec<Denial>) -> Result<PolicySet, InvalidPolicy> {
    // Which cluster it is, and whose, does not matter: the agent has only one.
    let clusters = vec![Cluster::new(ClusterId::generate(), "here")];
    let document = PolicyDocument { clusters, denials, ..PolicyDocument::default() };
    document.validate()?;
    PolicySet::candidate(OrgId::generate(), document)
}

fn denial(rule: Rule) -> Denial {
    let clusters = ClusterSelector { all: true, ..ClusterSelector::default() };
    Denial { rules: vec![rule], clusters, scope: Scope::Cluster, ..Denial::default() }
}

fn rule(groups: &[&str], resources: &[&str]) -> Rule {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Rule { verbs: words(&["*"]), api_groups: words(groups), resources: words(resources), ..Rule::default() }
}

fn everything() -> Rule {
    rule(&["*"], &["*"])
}

/// A kubelet runs commands as well, for whoever reaches it by way of its node.
fn runs() -> Rule {
    rule(&[""], &["pods/exec", "pods/attach", "pods/ephemeralcontainers", "nodes/proxy"])
}

impl LocalDenial {
    fn denial(&self) -> Denial {
        let Self { name, rules, namespaces, subjects, except, when, reason } = self.clone();
        let scope = if namespaces.is_empty() { Scope::Cluster } else { Scope::Namespaces(namespaces) };
        Denial { name, rules, subjects, except, scope, when, reason, ..denial(everything()) }
    }
}

impl Limits {
    /// What was written down.
    pub fn written(&self) -> &LocalLimits {
        &self.written
    }

    /// True if an answer may change while nothing but time passes.
    pub fn is_timed(&self) -> bool {
        self.written.hours.is_some() || self.denials.is_timed()
    }

    /// Why a limit is in the way of a question, in the words that the user is to see. Pure.
    pub fn refusal(&self, who: &Principal, action: &Action<'_>, facts: &Facts<'_>) -> Option<String> {
        let LocalLimits { namespaces, hours, .. } = &self.written;
        if hours.as_ref().is_some_and(|hours| !hours.contain(facts.now)) {
            return Some(said(HOURS, "it lets nobody in at this hour"));
        }
        let asked = Asked::new(&self.denials.index.words, action);
        let within = |namespaces: &[String]| match action.target {
            Target::Resource { namespace, .. } => {
                namespace.is_some_and(|one| namespaces.iter().any(|known| known == one))
            }
            Target::Path(_) => false,
        };
        if let Some(namespaces) = namespaces
            && !within(namespaces)
            && !self.denials.index.is_basic(&asked)
        {
            return Some(said(NAMESPACES, &format!("only these are open to users: {}", namespaces.join(", "))));
        }
        let cluster = self.denials.clusters.first()?;
        let request = Request { who, action, asked: &asked, cluster, facts };
        match self.denials.denied(0, &request)? {
            Refused::Denial { name: NO_EXEC, .. } => Some(said(NO_EXEC, "nothing is run in its containers")),
            Refused::Denial { name, reason: "" } => Some(said(name, "it denies this")),
            Refused::Denial { name, reason } => Some(said(name, reason)),
            _ => Some(said("deny", "it denies this")),
        }
    }

    /// The same for a request, with the command that it would run.
    pub(crate) fn refusal_of(
        &self,
        who: &Principal,
        asked: &RequestAttributes,
        facts: &Facts<'_>,
        port: Port,
    ) -> Option<String> {
        let action = Action::from(asked).on_port(port);
        if !self.denials.index.commands || !has_command(&action.target) {
            return self.refusal(who, &action, facts);
        }
        let command = asked.query("command");
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.refusal(who, &action, &facts.running(&command))
    }
}

fn said(name: &str, why: &str) -> String {
    format!("the cluster's owner has set the local limit {name:?} at its agent: {why}; ask the cluster's owner")
}
