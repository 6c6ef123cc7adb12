//! The same bindings as policies of Cedar, and nothing else: what its own authorizer takes for the same questions.

use std::collections::HashSet;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, Policy, PolicyId, PolicySet, Request,
    RestrictedExpression,
};
use ztka_authz::{PolicyDocument, Role, Scope, Subject};

use super::Question;

/// Nanoseconds of each question, sorted.
pub(super) fn measure(document: &PolicyDocument, questions: &[Question]) -> Vec<u64> {
    let mut policies = PolicySet::new();
    for binding in &document.bindings {
        let role = document.roles.iter().find(|role| role.name == binding.role).unwrap();
        let who = match &binding.subjects[0] {
            Subject::User(name) => format!("principal == User::\"{name}\""),
            Subject::Group(name) => format!("principal in Group::\"{name}\""),
        };
        let clusters = document.clusters.iter().filter(|cluster| binding.clusters.selects(cluster));
        let clusters: Vec<String> = clusters.map(|cluster| format!("{:?}", cluster.id.as_str())).collect();
        let Scope::Namespaces(namespaces) = &binding.scope else { panic!("all are in a namespace") };
        let text = format!(
            "permit({who}, action, resource) when {{ [{}].contains(context.cluster) && {namespaces:?}.contains(context.namespace) \
             && ({}) }};",
            clusters.join(", "),
            rules(role),
        );
        policies.add(Policy::parse(Some(PolicyId::new(&binding.name)), text).unwrap()).unwrap();
    }
    let authorizer = Authorizer::new();
    super::measure(questions, 1, |question| {
        let user: EntityUid = format!("User::\"{}\"", question.who.name()).parse().unwrap();
        let groups: HashSet<EntityUid> =
            question.who.groups().iter().map(|group| format!("Group::\"{group}\"").parse().unwrap()).collect();
        let entities = Entities::from_entities([Entity::new_no_attrs(user.clone(), groups)], None).unwrap();
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let context = Context::from_pairs([
            ("cluster".to_owned(), text(question.cluster.as_str())),
            ("namespace".to_owned(), text(&question.namespace)),
            ("verb".to_owned(), text(question.verb)),
            ("apiGroup".to_owned(), text(question.kind.0)),
            ("resource".to_owned(), text(question.kind.1)),
        ]);
        let (action, resource) = ("Action::\"request\"".parse().unwrap(), "Cluster::\"c\"".parse().unwrap());
        let request = Request::new(user, action, resource, context.unwrap(), None).unwrap();
        authorizer.is_authorized(&request, &policies, &entities).decision() == Decision::Allow
    })
}

fn rules(role: &Role) -> String {
    let rule = |rule: &ztka_authz::Rule| {
        format!(
            "({:?}.contains(context.verb) && {:?}.contains(context.apiGroup) && {:?}.contains(context.resource))",
            rule.verbs, rule.api_groups, rule.resources
        )
    };
    role.rules.iter().map(rule).collect::<Vec<_>>().join(" || ")
}
