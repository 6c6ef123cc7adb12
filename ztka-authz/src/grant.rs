//! Nobody gives more than they have.

use jiff::Timestamp;
use ztka_core::Principal;

use crate::{
    Binding, ClusterSelector, Labels, PolicyDocument, Ports, Requirement, Role, Rule, Scope, Subject, builtin_roles,
    compile::{expand, members},
    document::carries,
};

/// What a binding would give that its maker does not have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Excess(String);

/// One verb on one thing, as rules name it.
struct Atom<'a> {
    verb: &'a str,
    about: About<'a>,
}

enum About<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str>, ports: &'a [Ports] },
    Path(&'a str),
}

/// One way in which a selector reaches clusters.
enum Part<'a> {
    All,
    Id(&'a ztka_core::ClusterId),
    Name(&'a str),
    Project(&'a str),
    Labels(Option<&'a Labels>, &'a [Requirement]),
}

/// One place that a scope reaches.
enum Place<'a> {
    Cluster,
    AllNamespaces,
    Namespace(&'a str),
    Labelled(&'a Labels),
}

impl PolicyDocument {
    /// Whether `who` may make `binding` (a new one, or in place of one) at `now`: each thing that its role allows they
    /// have to have by bindings of their own, wherever and as long as it would count, under no other conditions, and with
    /// no more to see to.
    ///
    /// It is about what bindings give: denials and protected namespaces hold for whoever they are about, and who is kept
    /// from something by one that names them alone can still give it on. Who may write bindings at all, and denials, is
    /// for the caller to know.
    ///
    /// # Errors
    /// The first thing that they do not have themselves.
    pub fn may_grant(&self, who: &Principal, binding: &Binding, now: Timestamp) -> Result<(), Excess> {
        let builtin = builtin_roles(&self.settings);
        let role = |name: &str| self.roles.iter().chain(&builtin).find(|role| role.name == name);
        let given = role(&binding.role).ok_or_else(|| Excess(format!("there is no role {:?}", binding.role)))?;
        let groups = members(self);
        let named = |subjects: &[Subject]| {
            expand(&groups, subjects).iter().any(|subject| match subject {
                Subject::User(name) => name == who.name(),
                Subject::Group(name) => who.groups().contains(name),
            })
        };
        // What is replaced no longer counts when the new one does.
        let own = self.bindings.iter().filter(|own| own.name != binding.name && named(&own.subjects));
        let own = own.filter(|own| own.stands_for(binding, who, now));
        let own: Vec<(&Binding, &Role)> = own.filter_map(|own| Some((own, role(&own.role)?))).collect();
        // Whoever is bound on a cluster may ask what there is.
        if parts(&binding.clusters).any(|part| !own.iter().any(|(own, _)| reaches(self, &own.clusters, &part))) {
            return Err(Excess("you have no role yourself on all of the clusters that the binding names".into()));
        }
        for rule in &given.rules {
            for atom in atoms(rule) {
                for part in parts(&binding.clusters) {
                    for place in places(&binding.scope) {
                        // Paths count cluster-wide alone.
                        if matches!((&atom.about, &place), (About::Path(_), place) if !matches!(place, Place::Cluster))
                        {
                            continue;
                        }
                        let has = |(own, role): &(&Binding, &Role)| {
                            // Looking is all that a read-only role is good for.
                            (given.read_only || !role.read_only)
                                && reaches(self, &own.clusters, &part)
                                && extends(&own.scope, &place)
                                && role.rules.iter().any(|rule| covers(rule, &atom))
                        };
                        if !own.iter().any(has) {
                            return Err(Excess(format!(
                                "role {:?} gives {}, which you do not have yourself in all of the places that the binding \
                                 names; leave it out, or ask somebody who has it",
                                given.name, atom
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl PolicyDocument {
    /// True if `who` is among `subjects`, by name, by a group of their session, or by a group of the policy.
    pub fn names(&self, subjects: &[Subject], who: &Principal) -> bool {
        expand(&members(self), subjects).iter().any(|subject| match subject {
            Subject::User(name) => name == who.name(),
            Subject::Group(name) => who.groups().contains(name),
        })
    }

    /// The groups of the policy that `group` is in, by however many others, and itself.
    pub fn groups_around(&self, group: &ztka_core::GroupName) -> Vec<ztka_core::GroupName> {
        let wanted = Subject::Group(group.clone());
        let members = members(self);
        let around = members.iter().filter(|(_, members)| members.contains(&wanted)).map(|(name, _)| (*name).clone());
        around.chain([group.clone()]).collect()
    }

    /// True if `own` counts wherever `other` does, on the clusters that there are and on those to come.
    pub fn is_as_wide(&self, own: &Binding, other: &Binding) -> bool {
        parts(&other.clusters).all(|part| reaches(self, &own.clusters, &part))
            && places(&other.scope).iter().all(|place| extends(&own.scope, place))
    }
}

impl Binding {
    /// True if what this gives `who` may be given on by `other`: it counts, and `other` counts no longer and under no less.
    ///
    /// Whoever lacks the attributes that it asks for has nothing of it, and nothing to give on.
    fn stands_for(&self, other: &Self, who: &Principal, now: Timestamp) -> bool {
        let begun = self.valid_from.is_none_or(|from| from <= now);
        let lasts = match (self.valid_until, other.valid_until) {
            (None, _) => true,
            (Some(ours), theirs) => now < ours && theirs.is_some_and(|theirs| theirs <= ours),
        };
        begun
            && lasts
            && self.when.known().is_none_or(|when| when.is_for(who.attributes()))
            && (self.when.is_empty() || self.when == other.when)
            && (self.obligations.is_empty() || self.obligations == other.obligations)
    }
}

fn atoms(rule: &Rule) -> impl Iterator<Item = Atom<'_>> {
    let names: Vec<Option<&str>> = match rule.resource_names.is_empty() {
        true => vec![None],
        false => rule.resource_names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let mut about = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            about.extend(names.iter().map(|name| (group, resource, *name)));
        }
    }
    rule.verbs.iter().flat_map(move |verb| {
        let resources: Vec<_> = about
            .iter()
            .map(|(group, resource, name)| About::Resource {
                group: group.as_str(),
                resource: resource.as_str(),
                name: *name,
                ports: &rule.ports,
            })
            .collect();
        let paths = rule.non_resource_urls.iter().map(|path| About::Path(path));
        resources.into_iter().chain(paths).map(move |about| Atom { verb, about })
    })
}

impl std::fmt::Display for Atom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.about {
            About::Path(path) => write!(f, "{} {path}", self.verb),
            About::Resource { group, resource, name, .. } => {
                write!(f, "{} {resource} of group {group:?}", self.verb)?;
                name.map_or(Ok(()), |name| write!(f, " named {name}"))
            }
        }
    }
}

fn covers(rule: &Rule, atom: &Atom<'_>) -> bool {
    let has = |words: &[String], word: &str| words.iter().any(|own| own == "*" || own == word);
    let about = match &atom.about {
        About::Path(path) => rule.non_resource_urls.iter().any(|own| crate::rule::is_path(own, path)),
        About::Resource { group, resource, name, ports } => {
            let star = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            let named = rule.resource_names.is_empty()
                || name.is_some_and(|name| rule.resource_names.iter().any(|own| own == name));
            let forwarded = rule.ports.is_empty()
                || (!ports.is_empty() && ports.iter().all(|port| rule.ports.iter().any(|own| own.covers(*port))));
            has(&rule.api_groups, group)
                && (has(&rule.resources, resource) || rule.resources.iter().any(|own| Some(own) == star.as_ref()))
                && named
                && forwarded
        }
    };
    about && has(&rule.verbs, atom.verb)
}

fn parts(selector: &ClusterSelector) -> impl Iterator<Item = Part<'_>> {
    let all = selector.all.then_some(Part::All);
    let labels = selector.is_by_label();
    let labels = labels.then(|| Part::Labels(selector.match_labels.as_ref(), &selector.match_expressions));
    let names = selector.names.iter().map(|name| Part::Name(name));
    let projects = selector.projects.iter().map(|project| Part::Project(project));
    all.into_iter().chain(labels).chain(selector.ids.iter().map(Part::Id)).chain(names).chain(projects)
}

fn reaches(document: &PolicyDocument, own: &ClusterSelector, part: &Part<'_>) -> bool {
    let known = |is: &dyn Fn(&crate::Cluster) -> bool| {
        document.clusters.iter().find(|cluster| is(cluster)).is_some_and(|cluster| own.selects(cluster))
    };
    own.all
        || match part {
            Part::All => false,
            Part::Id(id) => own.ids.contains(id) || known(&|cluster| cluster.id == **id),
            // Another cluster may come to have the name: it has to be given by name, or not at all.
            Part::Name(name) => own.names.iter().any(|own| own == name),
            Part::Project(project) => own.projects.iter().any(|own| own == project),
            Part::Labels(labels, expressions) => {
                let none = Labels::new();
                own.is_by_label()
                    && own.match_labels.as_ref().is_none_or(|wanted| carries(labels.unwrap_or(&none), wanted))
                    && own.match_expressions.iter().all(|requirement| expressions.contains(requirement))
            }
        }
}

fn places(scope: &Scope) -> Vec<Place<'_>> {
    match scope {
        Scope::Cluster => vec![Place::Cluster],
        Scope::AllNamespaces => vec![Place::AllNamespaces],
        Scope::Namespaces(names) => names.iter().map(|name| Place::Namespace(name)).collect(),
        Scope::NamespaceLabels(labels) => vec![Place::Labelled(labels)],
    }
}

fn extends(own: &Scope, place: &Place<'_>) -> bool {
    match (own, place) {
        (Scope::Cluster, _) => true,
        (_, Place::Cluster) => false,
        (Scope::AllNamespaces, _) => true,
        (Scope::Namespaces(names), Place::Namespace(name)) => names.iter().any(|own| own == name),
        (Scope::NamespaceLabels(wanted), Place::Labelled(labels)) => carries(labels, wanted),
        _ => false,
    }
}
