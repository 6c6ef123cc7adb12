//! One expression: read, checked against a schema, evaluated on what it mentions.

mod plain;

use std::sync::LazyLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, EvalResult, Policy, PolicySet,
    RestrictedExpression, Schema, ValidationMode, Validator, eval_expression,
};

use self::plain::{Plain, Set, Value};
use crate::{
    Labels, MfaStrength, Target, Unmet,
    condition::{Holds, Request, has_command},
};

/// What an expression may look at. What a request may lack is optional; what may not be *known* of it is not, as an
/// expression that mentions it is not evaluated then.
const SCHEMA: &str = "
entity User tags String;
entity Cluster tags String;
action request appliesTo {
  principal: [User],
  resource: [Cluster],
  context: {
    user: String, groups: Set<String>, cluster: String, verb: String,
    apiGroup?: String, resource?: String, subresource?: String, namespace?: String, name?: String, path?: String,
    command?: String, now: datetime, source: ipaddr, mfaAge: Long, mfaStrength: String,
  },
};
";

/// Longer ones are programs.
const LONGEST: usize = 4096;

/// What is within more brackets than that takes too much stack to be read by Cedar.
const DEEPEST: usize = 16;

/// Attributes of the context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fact {
    User,
    Groups,
    Cluster,
    Verb,
    ApiGroup,
    Resource,
    Subresource,
    Namespace,
    Name,
    Path,
    Command,
    Now,
    Source,
    MfaAge,
    MfaStrength,
}

const FACTS: [(&str, Fact); 15] = [
    ("user", Fact::User),
    ("groups", Fact::Groups),
    ("cluster", Fact::Cluster),
    ("verb", Fact::Verb),
    ("apiGroup", Fact::ApiGroup),
    ("resource", Fact::Resource),
    ("subresource", Fact::Subresource),
    ("namespace", Fact::Namespace),
    ("name", Fact::Name),
    ("path", Fact::Path),
    ("command", Fact::Command),
    ("now", Fact::Now),
    ("source", Fact::Source),
    ("mfaAge", Fact::MfaAge),
    ("mfaStrength", Fact::MfaStrength),
];

/// What does not depend on a request.
struct Fixed {
    validator: Validator,
    user: EntityTypeName,
    cluster: EntityTypeName,
    action: EntityUid,
    nobody: EntityUid,
    nowhere: EntityUid,
}

static FIXED: LazyLock<Option<Fixed>> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).ok()?;
    let (user, cluster): (EntityTypeName, EntityTypeName) = ("User".parse().ok()?, "Cluster".parse().ok()?);
    let uid = |of: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id));
    let (action, nobody, nowhere) = (uid(&"Action".parse().ok()?, "request"), uid(&user, ""), uid(&cluster, ""));
    Some(Fixed { validator: Validator::new(schema), user, cluster, action, nobody, nowhere })
});

/// An expression, and how it is evaluated.
#[derive(Debug)]
pub(super) struct Expression {
    /// What of a request it mentions that nobody may know.
    doubtful: Box<[Fact]>,
    how: How,
}

#[derive(Debug)]
enum How {
    Plain(Plain),
    Cedar(Box<Cedar>),
}

/// An expression for Cedar, and what of a request has to be told to it.
#[derive(Debug)]
struct Cedar {
    expression: cedar_policy::Expression,
    facts: Vec<Fact>,
    /// It names the user or the cluster.
    entities: bool,
    /// It looks at the tags of the user, or of the cluster.
    tags: (bool, bool),
}

impl Expression {
    /// Reads it, as it is received: what it mentions is all that it will be told.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let read = Self::read_for_cedar(text)?;
        Ok(Self { how: Plain::read(text).map_or(read.how, How::Plain), ..read })
    }

    fn read_for_cedar(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes; make it several bindings"));
        }
        if depth(text) > DEEPEST {
            return Err(format!("more than {DEEPEST} brackets within each other; make it several bindings"));
        }
        // So that words say all that is mentioned.
        if text.contains("\\u") || text.contains("\\x") {
            return Err("characters are written as they are, without \\u and \\x".into());
        }
        let expression = text.parse().map_err(|error: cedar_policy::ParseErrors| error.to_string())?;
        let words = words(text);
        let part = |next: Option<&&str>| matches!(next, Some(&"." | &"has"));
        if words.iter().zip(1..).any(|(word, next)| *word == "context" && !part(words.get(next))) {
            return Err("context is looked at by its parts: context.verb, context has namespace".into());
        }
        let has = |word: &str| words.contains(&word);
        let facts: Vec<Fact> = FACTS.iter().filter(|(name, _)| has(name)).map(|(_, fact)| *fact).collect();
        let doubtful = facts.iter().copied().filter(|fact| fact.is_doubtful()).collect();
        let tagged = has("hasTag") || has("getTag");
        let (principal, resource) = (has("principal"), has("resource"));
        let tags = (tagged && principal, tagged && resource);
        let how = How::Cedar(Box::new(Cedar { expression, facts, entities: principal || resource, tags }));
        Ok(Self { doubtful, how })
    }

    /// Reads it, as it is written: also against the schema.
    pub(super) fn check(text: &str) -> Result<(), String> {
        Self::read(text)?;
        let fixed = FIXED.as_ref().ok_or("Cedar is not usable here")?;
        let policy = format!("permit(principal, action, resource) when {{\n{text}\n}};");
        let policy = Policy::parse(None, policy).map_err(|error| error.to_string())?;
        let policies = PolicySet::from_policies([policy]).map_err(|error| error.to_string())?;
        let result = fixed.validator.validate(&policies, ValidationMode::Strict);
        result.validation_errors().next().map_or(Ok(()), |error| {
            let text = error.to_string();
            // Nobody has named a policy.
            Err(text
                .split_once("`, ")
                .filter(|(of, _)| of.starts_with("for policy"))
                .map_or(text.clone(), |(_, rest)| rest.into()))
        })
    }

    pub(super) fn hold(&self, request: &Request<'_>) -> Holds<'static> {
        // What is not known fulfils nothing, whatever the expression makes of it.
        let known = self.doubtful.iter().all(|fact| fact.is_known(request));
        let holds = match &self.how {
            _ if !known => None,
            How::Plain(plain) => plain.holds(request),
            How::Cedar(cedar) => match cedar.evaluate(request) {
                Some(EvalResult::Bool(holds)) => Some(holds),
                _ => None,
            },
        };
        match holds {
            Some(true) => Holds::Yes,
            Some(false) => Holds::No(Unmet::Cedar),
            None => Holds::Unknown(Unmet::CedarError),
        }
    }
}

impl Cedar {
    fn evaluate(&self, request: &Request<'_>) -> Option<EvalResult> {
        let fixed = FIXED.as_ref()?;
        let pairs = self.facts.iter().filter_map(|fact| Some((fact.name().to_owned(), fact.of(request)?)));
        let context = Context::from_pairs(pairs).ok()?;
        let (user, cluster) = match self.entities {
            false => (fixed.nobody.clone(), fixed.nowhere.clone()),
            true => {
                let uid =
                    |of: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id));
                (uid(&fixed.user, request.who.name().as_str()), uid(&fixed.cluster, &request.cluster.name))
            }
        };
        let mut entities = Vec::new();
        if self.tags.0 {
            entities.push(tagged(user.clone(), request.who.attributes())?);
        }
        if self.tags.1 {
            entities.push(tagged(cluster.clone(), &request.cluster.labels)?);
        }
        let entities = match entities.is_empty() {
            true => Entities::empty(),
            false => Entities::from_entities(entities, None).ok()?,
        };
        let asked = cedar_policy::Request::new(user, fixed.action.clone(), cluster, context, None).ok()?;
        eval_expression(&asked, &entities, &self.expression).ok()
    }
}

fn tagged(uid: EntityUid, labels: &Labels) -> Option<Entity> {
    let tags = labels.iter().map(|(key, value)| (key.clone(), RestrictedExpression::new_string(value.clone())));
    Entity::new_with_tags(uid, [], [], tags).ok()
}

/// How many brackets are within each other, those in texts included.
fn depth(text: &str) -> usize {
    let (_, deepest) = text.chars().fold((0_usize, 0), |(now, deepest), next| match next {
        '(' | '[' | '{' => (now + 1, deepest.max(now + 1)),
        ')' | ']' | '}' => (now.saturating_sub(1), deepest),
        _ => (now, deepest),
    });
    deepest
}

/// Words, and every other character by itself; without spaces.
fn words(text: &str) -> Vec<&str> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match in_word(first) {
            true => rest.find(|c| !in_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after.trim_start();
    }
    words
}

impl Fact {
    fn name(self) -> &'static str {
        FACTS.iter().find(|(_, fact)| *fact == self).map_or("", |(name, _)| name)
    }

    /// True if there may be one that nobody knows.
    fn is_doubtful(self) -> bool {
        matches!(self, Self::Command | Self::Source | Self::MfaAge | Self::MfaStrength)
    }

    /// False if there may be one, and nobody knows.
    fn is_known(self, request: &Request<'_>) -> bool {
        let facts = request.facts;
        match self {
            // With a space in a word two commands would read alike.
            Self::Command if has_command(&request.action.target) => {
                facts.command.is_some_and(|words| !words.iter().any(|word| word.contains(' ')))
            }
            Self::Source => facts.source.is_some(),
            Self::MfaAge => mfa_age(request).is_some(),
            Self::MfaStrength => facts.mfa.is_some(),
            _ => true,
        }
    }

    /// What is a text of the request as it is.
    fn text<'a>(self, request: &Request<'a>) -> Option<&'a str> {
        match (self, request.action.target) {
            (Self::User, _) => Some(request.who.name().as_str()),
            (Self::Cluster, _) => Some(&request.cluster.name),
            (Self::Verb, _) => Some(request.action.verb),
            (Self::ApiGroup, Target::Resource { group, .. }) => Some(group),
            (Self::Resource, Target::Resource { resource, .. }) => Some(resource),
            (Self::Subresource, Target::Resource { subresource, .. }) => subresource,
            (Self::Namespace, Target::Resource { namespace, .. }) => namespace,
            (Self::Name, Target::Resource { name, .. }) => name,
            (Self::Path, Target::Path(path)) => Some(path),
            (Self::MfaStrength, _) => request.facts.mfa.map(|mfa| match mfa.strength {
                MfaStrength::Any => "any",
                MfaStrength::PhishingResistant => "phishing-resistant",
            }),
            _ => None,
        }
    }

    /// True if the request has one, as far as that is known.
    fn is_there(self, request: &Request<'_>) -> bool {
        match self {
            Self::Groups | Self::Now | Self::Source | Self::MfaAge => true,
            Self::Command => has_command(&request.action.target),
            text => text.text(request).is_some(),
        }
    }

    /// As it is evaluated here; none where there is none.
    fn value<'a>(self, request: &Request<'a>) -> Option<Value<'a>> {
        match self {
            Self::Groups => Some(Value::Set(Set::Groups(request.who.groups()))),
            Self::MfaAge => mfa_age(request).map(Value::Long),
            text => text.text(request).map(Value::Text),
        }
    }

    /// As Cedar is told of it; none where there is none.
    fn of(self, request: &Request<'_>) -> Option<RestrictedExpression> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        Some(match self {
            Self::Groups => {
                let groups = request.who.groups().iter();
                RestrictedExpression::new_set(groups.map(|group| text(group.as_str())))
            }
            Self::Command if !has_command(&request.action.target) => return None,
            Self::Command => text(&request.facts.command?.join(" ")),
            Self::Now => RestrictedExpression::new_datetime(format!("{:.3}", request.facts.now)),
            Self::Source => RestrictedExpression::new_ip(request.facts.source?.to_string()),
            Self::MfaAge => RestrictedExpression::new_long(mfa_age(request)?),
            other => text(other.text(request)?),
        })
    }
}

/// Seconds since the second factor; one from the future was not given yet.
fn mfa_age(request: &Request<'_>) -> Option<i64> {
    let age = request.facts.now.duration_since(request.facts.mfa?.at);
    (!age.is_negative()).then(|| age.as_secs())
}
