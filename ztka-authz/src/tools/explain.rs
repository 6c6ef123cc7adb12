//! Why: every part of a policy that is about somebody, in the order in which it was looked at.

use std::{collections::HashSet, fmt};

use serde::Serialize;
use ztka_core::{ClusterId, Principal};

use crate::{Action, Facts, PolicySet, Rule, Verdict, condition::Request, matcher::Asked, policy::Answer};

/// A decision with everything that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What was looked at, in order.
    pub steps: Vec<Step>,
    /// True if it is allowed.
    pub allowed: bool,
    /// The decision in a sentence.
    pub decision: String,
}

/// One part of a policy that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Step {
    /// `denial "freeze"`, `binding "developers", role "view"`.
    pub what: String,
    /// What it says.
    pub finding: Finding,
    /// The rules that were looked at in it, in order, each with what it says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Looked>,
}

/// A rule that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Looked {
    /// `get,list pods,services`.
    pub rule: String,
    /// True if it covers what is asked.
    pub covers: bool,
    /// `covers it`, `is about other verbs`.
    pub why: &'static str,
}

/// What a part of a policy says to a question.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Finding {
    /// It allows it.
    Allows,
    /// It denies it.
    Denies,
    /// It is about something else.
    Elsewhere(String),
    /// It would allow it but for this.
    Not(String),
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { what, finding, rules } in &self.steps {
            match finding {
                Finding::Allows => writeln!(f, "  + {what}: allows it")?,
                Finding::Denies => writeln!(f, "  ! {what}: denies it")?,
                Finding::Elsewhere(why) | Finding::Not(why) => writeln!(f, "  - {what}: {why}")?,
            }
            for Looked { rule, why, .. } in rules {
                writeln!(f, "      {rule}: {why}")?;
            }
        }
        writeln!(f, "{}: {}", if self.allowed { "allowed" } else { "denied" }, self.decision)
    }
}

/// Who is in several groups that one names is told of it once.
fn once(numbers: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
    let mut seen = HashSet::new();
    numbers.filter(move |number| seen.insert(*number))
}

fn looked(rule: &Rule, action: &Action<'_>) -> Looked {
    let why = rule.passes_over(action);
    let few = |words: &[String]| match words {
        [a, b, c, d, _, ..] => format!("{a},{b},{c},{d},…"),
        few => few.join(","),
    };
    let what = if rule.non_resource_urls.is_empty() { &rule.resources } else { &rule.non_resource_urls };
    let mut text = format!("{} {}", few(&rule.verbs), few(what));
    if !rule.resource_names.is_empty() {
        text.push_str(&format!(" named {}", few(&rule.resource_names)));
    }
    if rule.api_groups.iter().any(|group| !group.is_empty()) {
        let groups =
            rule.api_groups.iter().map(|group| if group.is_empty() { "core".to_owned() } else { group.clone() });
        text.push_str(&format!(" of {}", few(&groups.collect::<Vec<_>>())));
    }
    Looked { rule: text, covers: why.is_none(), why: why.unwrap_or("covers it") }
}

impl PolicySet {
    /// Decides one question as [`Self::weigh`] does, and says why: all denials and bindings that name the user there.
    pub fn explain(&self, who: &Principal, cluster: &ClusterId, action: &Action<'_>, facts: &Facts<'_>) -> Explanation {
        let mut steps = Vec::new();
        let step = |what: String, finding| Step { what, finding, rules: Vec::new() };
        if let (Some(number), Some(found)) = (self.number(who, cluster), self.cluster(cluster)) {
            let asked = Asked::new(&self.index.words, action);
            let request = Request { who, action, asked: &asked, cluster: found, facts };
            if let Some(closed) = self.is_closed(action) {
                steps.push(step("the agent's own".into(), Finding::Not(self.refusal(&closed, who, cluster, action))));
            }
            for denial in
                once(self.index.denied_to.of_whom(who, number)).filter_map(|at| self.index.denials.get(at as usize))
            {
                let finding = match denial.is_about(number, &request, &self.index.by_who) {
                    true => Finding::Denies,
                    false => Finding::Elsewhere("is not about this".into()),
                };
                steps.push(step(format!("denial {:?}", denial.name), finding));
            }
            if let Some(protected) = self.protected(number, &request) {
                let why = self.refusal(&protected, who, cluster, action);
                steps.push(step("protected namespaces".into(), Finding::Not(why)));
            }
            let numbers = once(self.index.by_who.of_whom(who, number));
            for bound in self.those_reaching(numbers, number) {
                let role = &bound.role;
                let finding = match self.answer(bound, number, &request, asked.gate()) {
                    Answer::Gives(_) => Finding::Allows,
                    Answer::Not(reason) => Finding::Not(self.refusal(&reason, who, cluster, action)),
                    Answer::Elsewhere if !bound.within.has(number, &asked) => {
                        Finding::Elsewhere(format!("counts elsewhere ({})", bound.describe(self)))
                    }
                    Answer::Elsewhere => {
                        Finding::Elsewhere(format!("none of the {} rules of the role covers it", role.role.rules.len()))
                    }
                };
                // As a role is asked: up to the first rule that covers it.
                let within = bound.within.has(number, &asked);
                let mut rules: Vec<_> =
                    role.role.rules.iter().filter(|_| within).map(|rule| looked(rule, action)).collect();
                let first = rules.iter().position(|rule| rule.covers).map_or(rules.len(), |first| first + 1);
                rules.truncate(first);
                let what = format!("binding {:?}, role {:?}", bound.name, role.name);
                steps.push(Step { what, finding, rules });
            }
        }
        let (allowed, decision) = match self.weigh(who, cluster, action, facts) {
            Verdict::Allow { grant, obligations } => {
                let due = if obligations.is_none() { "" } else { ", with obligations" };
                (true, format!("by binding {:?}, role {:?}{due}", grant.binding(), grant.role()))
            }
            Verdict::Deny { reason } => (false, self.refusal(&reason, who, cluster, action)),
        };
        Explanation { steps, allowed, decision }
    }
}
