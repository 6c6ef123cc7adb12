//! Conditions on requests, in small typed pieces.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::{SignedDuration, civil::Time, tz::Offset};
use serde::{Deserialize, Serialize};
use ztka_core::Cidr;

use super::{Labels, Rule};

/// What a request has to fulfil; all that is set. What is not known of a request fulfils nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Conditions {
    /// The time of day and the day of the week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// The user's address is in one of these ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Cidr>,
    /// The user has proved more than a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfa: Option<MfaDemand>,
    /// The cluster carries all of these labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub cluster_labels: Labels,
    /// The namespace carries all of these labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub namespace_labels: Labels,
    /// Each of these attributes of the user has one of its values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, Vec<String>>,
    /// One of these rules covers what is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request: Vec<Rule>,
    /// The command of an exec is one of these; nothing else than an exec has a command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<CommandPattern>,
    /// Expressions of Cedar, all of which have to be true; they need the feature `cedar`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cedar: Option<String>,
}

/// From one time of day to another, at a fixed distance from UTC.
///
/// Time zones by name are left out on purpose: which rules of summer time a machine knows would change decisions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hours {
    /// Days of the week; none is every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// From then on, `09:00`.
    pub from: Time,
    /// Until then, which does not belong to it; later than `from`.
    pub until: Time,
    /// What to add to UTC, `+01:00`.
    #[serde(default)]
    pub utc_offset: UtcOffset,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the days' own")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A distance from UTC of whole minutes, `+01:00`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct UtcOffset(i16);

/// A text that is not what it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidClause(&'static str);

impl UtcOffset {
    pub(crate) fn offset(self) -> Offset {
        Offset::from_seconds(i32::from(self.0) * 60).unwrap_or(Offset::UTC)
    }
}

impl FromStr for UtcOffset {
    type Err = InvalidClause;

    fn from_str(text: &str) -> Result<Self, InvalidClause> {
        const RULE: InvalidClause = InvalidClause("a distance from UTC is written as +01:00 or -05:30, up to 14 hours");
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(RULE),
        };
        let two = |text: &str| match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<i16>().map_err(|_| RULE),
            false => Err(RULE),
        };
        let (hours, minutes) = rest.split_once(':').ok_or(RULE)?;
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        match minutes < 60 && hours * 60 + minutes <= 14 * 60 {
            true => Ok(Self(sign * (hours * 60 + minutes))),
            false => Err(RULE),
        }
    }
}

impl TryFrom<String> for UtcOffset {
    type Error = InvalidClause;

    fn try_from(text: String) -> Result<Self, InvalidClause> {
        text.parse()
    }
}

impl From<UtcOffset> for String {
    fn from(offset: UtcOffset) -> Self {
        offset.to_string()
    }
}

impl fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minutes) = if self.0 < 0 { ('-', -self.0) } else { ('+', self.0) };
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// How a user has to have proved who they are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MfaDemand {
    /// Not longer ago than this, `15m`; without it, whenever the session began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<SignedDuration>,
    /// By this or by something stronger.
    pub strength: MfaStrength,
}

/// What a second factor is good for; later ones are stronger.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MfaStrength {
    /// Any second factor.
    #[default]
    Any,
    /// One that cannot be given away to whoever asks for it: a passkey, a certificate on a token.
    PhishingResistant,
}

/// The words of a command: each stands for itself, a last `*` for any words or none. `tail -n 10 *`.
///
/// It says which program is started with which words, not what that program does: `sh` does anything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandPattern(String);

impl CommandPattern {
    /// True if `command`, program first, is meant.
    pub fn matches(&self, command: &[&str]) -> bool {
        let mut words = self.0.split(' ').peekable();
        let mut rest = command.iter();
        while let Some(word) = words.next() {
            if word == "*" && words.peek().is_none() {
                return true;
            }
            if rest.next().is_none_or(|asked| *asked != word) {
                return false;
            }
        }
        rest.next().is_none()
    }
}

impl TryFrom<String> for CommandPattern {
    type Error = InvalidClause;

    fn try_from(text: String) -> Result<Self, InvalidClause> {
        let inner = text.strip_suffix(" *").unwrap_or(&text);
        if inner.split(' ').any(|word| word.is_empty() || word.contains('*')) || text.chars().any(char::is_control) {
            return Err(InvalidClause(
                "a command is the program and its words with one space between, as `tail -n 10 *`; * stands for any \
                 words and comes last and alone",
            ));
        }
        Ok(Self(text))
    }
}

impl From<CommandPattern> for String {
    fn from(pattern: CommandPattern) -> Self {
        pattern.0
    }
}
