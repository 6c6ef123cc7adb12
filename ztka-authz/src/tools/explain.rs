//! Why: every part of a policy that is about somebody, in the order in which it was looked at.

use std::fmt;

use serde::Serialize;
use ztka_core::{ClusterId, Principal};

use crate::{Action, Facts, PolicySet, Verdict, condition::Request, matcher::Asked, policy::Answer};

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
        for Step { what, finding } in &self.steps {
            match finding {
                Finding::Allows => writeln!(f, "  + {what}: allows it")?,
                Finding::Denies => writeln!(f, "  ! {what}: denies it")?,
                Finding::Elsewhere(why) | Finding::Not(why) => writeln!(f, "  - {what}: {why}")?,
            }
        }
        writeln!(f, "{}: {}", if self.allowed { "allowed" } else { "denied" }, self.decision)
    }
}

impl PolicySet {
    /// Decides one question as [`Self::weigh`] does, and says why: all denials and bindings that name the user there.
    pub fn explain(&self, who: &Principal, cluster: &ClusterId, action: &Action<'_>, facts: &Facts<'_>) -> Explanation {
        let mut steps = Vec::new();
        let step = |what: String, finding| Step { what, finding };
        if let (Some(number), Some(found)) = (self.number(who, cluster), self.cluster(cluster)) {
            let asked = Asked::new(&self.index.words, action);
            let request = Request { who, action, asked: &asked, cluster: found, facts };
            if let Some(closed) = self.is_closed(action) {
                steps.push(step("the agent's own".into(), Finding::Not(self.refusal(&closed, who, cluster, action))));
            }
            for denial in self.index.denied_to.of(who, number).filter_map(|at| self.index.denials.get(at as usize)) {
                let finding = match denial.is_about(number, &request) {
                    true => Finding::Denies,
                    false => Finding::Elsewhere("is not about this".into()),
                };
                steps.push(step(format!("denial {:?}", denial.name), finding));
            }
            if let Some(protected) = self.protected(number, &request) {
                let why = self.refusal(&protected, who, cluster, action);
                steps.push(step("protected namespaces".into(), Finding::Not(why)));
            }
            for bound in self.bound_on(who, number) {
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
                steps.push(step(format!("binding {:?}, role {:?}", bound.name, role.name), finding));
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
