//! One expression: read, checked against a schema, evaluated on what it mentions.

use std::sync::LazyLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, EvalResult, Policy, PolicySet,
    RestrictedExpression, Schema, ValidationMode, Validator, eval_expression,
};

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

/// An expression, and what of a request has to be told to it.
#[derive(Debug)]
pub(super) struct Expression {
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
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes; make it several bindings"));
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
        let facts = FACTS.iter().filter(|(name, _)| has(name)).map(|(_, fact)| *fact).collect();
        let tagged = has("hasTag") || has("getTag");
        let (principal, resource) = (has("principal"), has("resource"));
        let tags = (tagged && principal, tagged && resource);
        Ok(Self { expression, facts, entities: principal || resource, tags })
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
        match self.evaluate(request) {
            Some(EvalResult::Bool(true)) => Holds::Yes,
            Some(EvalResult::Bool(false)) => Holds::No(Unmet::Cedar),
            _ => Holds::Unknown(Unmet::CedarError),
        }
    }

    fn evaluate(&self, request: &Request<'_>) -> Option<EvalResult> {
        let fixed = FIXED.as_ref()?;
        let mut pairs = Vec::with_capacity(self.facts.len());
        for fact in &self.facts {
            match fact.of(request) {
                Known::Is(value) => pairs.push((fact.name().to_owned(), value)),
                Known::Lacks => {}
                Known::Not => return None,
            }
        }
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

/// What there is of a fact.
enum Known {
    Is(RestrictedExpression),
    /// The request has none.
    Lacks,
    /// Nobody knows.
    Not,
}

impl Known {
    fn text(text: &str) -> Self {
        Self::Is(RestrictedExpression::new_string(text.to_owned()))
    }
}

impl Fact {
    fn name(self) -> &'static str {
        FACTS.iter().find(|(_, fact)| *fact == self).map_or("", |(name, _)| name)
    }

    fn of(self, request: &Request<'_>) -> Known {
        let (facts, target) = (request.facts, &request.action.target);
        let known = |value: Option<RestrictedExpression>| value.map_or(Known::Not, Known::Is);
        let number = |number: i64| RestrictedExpression::new_long(number);
        let of_resource = match (self, target) {
            (_, Target::Path(_)) => None,
            (Self::ApiGroup, Target::Resource { group, .. }) => Some(*group),
            (Self::Resource, Target::Resource { resource, .. }) => Some(*resource),
            (Self::Subresource, Target::Resource { subresource, .. }) => *subresource,
            (Self::Namespace, Target::Resource { namespace, .. }) => *namespace,
            (Self::Name, Target::Resource { name, .. }) => *name,
            _ => None,
        };
        match self {
            Self::User => Known::text(request.who.name().as_str()),
            Self::Groups => {
                let groups = request.who.groups().iter();
                let groups = groups.map(|group| RestrictedExpression::new_string(group.to_string()));
                Known::Is(RestrictedExpression::new_set(groups))
            }
            Self::Cluster => Known::text(&request.cluster.name),
            Self::Verb => Known::text(request.action.verb),
            Self::ApiGroup | Self::Resource | Self::Subresource | Self::Namespace | Self::Name => {
                of_resource.map_or(Known::Lacks, Known::text)
            }
            Self::Path => match target {
                Target::Path(path) => Known::text(path),
                Target::Resource { .. } => Known::Lacks,
            },
            Self::Command if !has_command(target) => Known::Lacks,
            Self::Command => match facts.command {
                // Two commands would read alike.
                Some(words) if !words.iter().any(|word| word.contains(' ')) => Known::text(&words.join(" ")),
                _ => Known::Not,
            },
            Self::Now => Known::Is(RestrictedExpression::new_datetime(format!("{:.3}", facts.now))),
            Self::Source => known(facts.source.map(|source| RestrictedExpression::new_ip(source.to_string()))),
            // One from the future was not given yet.
            Self::MfaAge => {
                let age = facts.mfa.map(|mfa| facts.now.duration_since(mfa.at)).filter(|age| !age.is_negative());
                known(age.map(|age| number(age.as_secs())))
            }
            Self::MfaStrength => facts.mfa.map_or(Known::Not, |mfa| {
                Known::text(match mfa.strength {
                    MfaStrength::Any => "any",
                    MfaStrength::PhishingResistant => "phishing-resistant",
                })
            }),
        }
    }
}
