//! Expectations of a policy in a file, tried out one by one; JUnit for machines.

use std::{fmt::Write as _, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use ztka_core::source::Source;

use super::{Question, SourceError};
use crate::{Facts, Labels, Mfa, MfaStrength, PolicySet, Supported, Verdict};

/// What a policy is expected to say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    tests: Vec<Expectation>,
}

/// What somebody is expected to be able to do somewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expectation {
    name: String,
    user: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    attributes: Labels,
    /// The cluster's name.
    cluster: String,
    #[serde(default)]
    can: Vec<String>,
    #[serde(default)]
    cannot: Vec<String>,
    /// Obligations that come with all of `can`, as in a binding.
    #[serde(default)]
    obligations: Option<crate::Obligations>,
    /// Part of the reason of all of `cannot`.
    #[serde(default)]
    because: Option<String>,
    #[serde(default)]
    at: Option<Timestamp>,
    #[serde(default)]
    source: Option<IpAddr>,
    #[serde(default)]
    mfa: Option<GivenMfa>,
    /// Of each question of `can`, then of `cannot`.
    #[serde(skip)]
    lines: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenMfa {
    /// How long ago.
    age: SignedDuration,
    #[serde(default)]
    strength: MfaStrength,
}

/// How one expectation came out.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Outcome {
    /// The line of the question, counted from 1.
    pub line: usize,
    /// The name of the test, and what was asked.
    pub name: String,
    /// What was said instead; none if it is as expected.
    pub failure: Option<String>,
}

impl Expectations {
    /// Reads a file of expectations.
    ///
    /// # Errors
    /// The first problem, with its line.
    pub fn from_yaml(text: &str) -> Result<Self, SourceError> {
        let source = Source::read(text)?;
        let mut read: Self = source.to()?;
        for (number, test) in read.tests.iter_mut().enumerate() {
            for (list, questions) in [("can", &test.can), ("cannot", &test.cannot)] {
                for (at, question) in questions.iter().enumerate() {
                    let line = source.line(&format!("/tests/{number}/{list}/{at}"));
                    question.parse::<Question>().map_err(|invalid| SourceError::new(line, invalid.to_string()))?;
                    test.lines.push(line);
                }
            }
        }
        Ok(read)
    }

    /// Asks `policy` everything; `now` is for tests that do not say when.
    pub fn run(&self, policy: &PolicySet, now: Timestamp) -> Vec<Outcome> {
        self.tests.iter().flat_map(|test| test.run(policy, now)).collect()
    }
}

impl Expectation {
    fn run(&self, policy: &PolicySet, now: Timestamp) -> Vec<Outcome> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let who = policy.somebody_with(&self.user, &groups, &self.attributes);
        let cluster = policy.clusters.iter().find(|known| known.name == self.cluster).map(|known| &known.id);
        let now = self.at.unwrap_or(now);
        let mfa =
            self.mfa.map(|given| Mfa { at: now.saturating_sub(given.age).unwrap_or(now), strength: given.strength });
        let facts = Facts::at(now).from_source(self.source).with_mfa(mfa).supporting(Supported::ALL);
        let questions = self.can.iter().map(|text| (text, true)).chain(self.cannot.iter().map(|text| (text, false)));
        let mut outcomes = Vec::new();
        for ((text, expected), line) in questions.zip(&self.lines) {
            let name = format!("{}: {} {text}", self.name, if expected { "can" } else { "cannot" });
            let failure = match (&who, cluster, text.parse::<Question>()) {
                (None, _, _) => Some(format!("{:?} or one of its groups is not the name of one", self.user)),
                (_, None, _) => Some(format!("there is no cluster {:?}", self.cluster)),
                (_, _, Err(invalid)) => Some(invalid.to_string()),
                (Some(who), Some(cluster), Ok(question)) => {
                    let (action, command) = (question.action(), question.command());
                    let facts = if command.is_empty() { facts } else { facts.running(&command) };
                    match policy.weigh(who, cluster, &action, &facts) {
                        Verdict::Allow { obligations, .. } if expected => self
                            .obligations
                            .filter(|wanted| *wanted != obligations)
                            .map(|_| format!("allowed, but with other obligations: {obligations:?}")),
                        Verdict::Deny { reason } if !expected => {
                            let said = policy.refusal(&reason, who, cluster, &action);
                            let other = self.because.as_ref().filter(|wanted| !said.contains(*wanted));
                            other.map(|_| format!("denied, but because: {said}"))
                        }
                        _ => Some(policy.explain(who, cluster, &action, &facts).to_string()),
                    }
                }
            };
            outcomes.push(Outcome { line: *line, name, failure });
        }
        outcomes
    }
}

/// The outcomes of each file as JUnit writes them.
pub fn junit<N: AsRef<str>>(suites: &[(N, Vec<Outcome>)]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for (suite, outcomes) in suites {
        let (suite, tests) = (escaped(suite.as_ref()), outcomes.len());
        let failures = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
        let _ = writeln!(xml, "<testsuite name=\"{suite}\" tests=\"{tests}\" failures=\"{failures}\">");
        for Outcome { line, name, failure } in outcomes {
            let case = format!("  <testcase classname=\"{suite}\" name=\"{}\" line=\"{line}\"", escaped(name));
            let _ = match failure {
                None => writeln!(xml, "{case}/>"),
                Some(failure) => writeln!(
                    xml,
                    "{case}><failure message=\"not as expected\">{}</failure></testcase>",
                    escaped(failure)
                ),
            };
        }
        xml.push_str("</testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// For text and attributes alike; what XML cannot say at all is a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
