//! Nobody gives more than they have.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
};

use jiff::Timestamp;
use ztka_core::{ClusterId, Principal};

use crate::{
    Binding, Cluster, ClusterSelector, Labels, Membership, PolicyDocument, Ports, Requirement, Role, Rule, Scope,
    builtin_roles, document::carries,
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
    Id(&'a ClusterId),
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

/// Words that are compared in all questions to one [`Holdings`], which takes tenths of a second: roles are multiplied out into
/// verbs, groups, resources and names, and these with clusters, namespaces and what somebody has.
const MOST: usize = 1 << 26;

/// What somebody has by the bindings of a policy, which is what they may give on.
#[derive(Debug)]
pub struct Holdings<'p> {
    who: Principal,
    own: Vec<&'p Binding>,
    has: Roles<'p>,
    gives: Roles<'p>,
    clusters: KnownClusters<'p>,
    now: Timestamp,
    left: Cell<usize>,
    /// Roles that are covered by others where paths count, or where they do not.
    covered: RefCell<HashSet<Covered<'p>>>,
}

/// A role, by its name, and those that cover it.
type Covered<'p> = (String, bool, Vec<&'p str>);

/// The roles of a policy, the built-in ones included.
#[derive(Debug)]
struct Roles<'p> {
    own: HashMap<&'p str, &'p Role>,
    builtin: Vec<Role>,
}

impl<'p> Roles<'p> {
    fn of(document: &'p PolicyDocument) -> Self {
        let own = document.roles.iter().map(|role| (role.name.as_str(), role)).collect();
        Self { own, builtin: builtin_roles(&document.settings) }
    }

    fn find(&self, name: &str) -> Option<&Role> {
        self.own.get(name).copied().or_else(|| self.builtin.iter().find(|role| role.name == name))
    }
}

/// The clusters of a policy, for comparing where bindings count.
#[derive(Debug)]
pub struct KnownClusters<'p>(HashMap<&'p ClusterId, &'p Cluster>);

impl<'p> KnownClusters<'p> {
    /// Those of this policy.
    pub fn of(document: &'p PolicyDocument) -> Self {
        Self(document.clusters.iter().map(|cluster| (&cluster.id, cluster)).collect())
    }

    /// True if `own` counts wherever `other` does, on the clusters that there are and on those to come.
    pub fn is_as_wide(&self, own: &Binding, other: &Binding) -> bool {
        parts(&other.clusters).all(|part| self.reaches(&own.clusters, &part))
            && places(&other.scope).all(|place| extends(&own.scope, &place))
    }

    fn reaches(&self, own: &ClusterSelector, part: &Part<'_>) -> bool {
        own.all
            || match part {
                Part::All => false,
                Part::Id(id) => own.ids.contains(id) || self.0.get(*id).is_some_and(|cluster| own.selects(cluster)),
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
}

impl PolicyDocument {
    /// Whether `who` may make `binding` (a new one, or in place of one) at `now`; see [`Holdings::may_grant`].
    ///
    /// # Errors
    /// The first thing that they do not have themselves.
    pub fn may_grant(&self, who: &Principal, binding: &Binding, now: Timestamp) -> Result<(), Excess> {
        Holdings::of(self, self, &self.membership(who), now).may_grant(binding)
    }
}

impl<'p> Holdings<'p> {
    /// What somebody has at `now` by the policy `before`, for giving what roles are in the policy `after`.
    pub fn of(before: &'p PolicyDocument, after: &'p PolicyDocument, who: &Membership<'_>, now: Timestamp) -> Self {
        let has = Roles::of(before);
        let mut own: Vec<_> = before.bindings.iter().filter(|binding| who.is_among(&binding.subjects)).collect();
        own.retain(|binding| has.find(&binding.role).is_some());
        let (gives, clusters) = (Roles::of(after), KnownClusters::of(before));
        Self {
            who: who.who().clone(),
            own,
            has,
            gives,
            clusters,
            now,
            left: Cell::new(MOST),
            covered: RefCell::default(),
        }
    }

    /// Whether they may make `binding` (a new one, or in place of one): each thing that its role allows they have to have by
    /// bindings of their own, wherever and as long as it would count, under no other conditions, and with no more to see
    /// to.
    ///
    /// It is about what bindings give: denials and protected namespaces hold for whoever they are about, and who is kept
    /// from something by one that names them alone can still give it on. Who may write bindings at all, and denials, is
    /// for the caller to know.
    ///
    /// # Errors
    /// The first thing that they do not have themselves; or that it takes more comparing than anybody is given time for.
    pub fn may_grant(&self, binding: &Binding) -> Result<(), Excess> {
        let missing = || Excess(format!("there is no role {:?}", binding.role));
        let given = self.gives.find(&binding.role).ok_or_else(missing)?;
        self.spend(self.own.len())?;
        // What is replaced no longer counts when the new one does.
        let own =
            self.own.iter().filter(|own| own.name != binding.name && own.stands_for(binding, &self.who, self.now));
        let own: Vec<&'p Binding> = own.copied().collect();
        for part in parts(&binding.clusters) {
            self.spend(own.iter().map(|own| words_of(&own.clusters)).sum())?;
            let here = own.iter().copied().filter(|own| self.clusters.reaches(&own.clusters, &part));
            let here: Vec<&'p Binding> = here.collect();
            // Whoever is bound on a cluster may ask what there is.
            if here.is_empty() {
                return Err(Excess("you have no role yourself on all of the clusters that the binding names".into()));
            }
            let scopes = here.iter().map(|own| places(&own.scope).count()).sum::<usize>();
            for place in places(&binding.scope) {
                self.spend(scopes)?;
                let there = here.iter().filter(|own| extends(&own.scope, &place));
                let mut roles: Vec<&'p str> = there.map(|own| own.role.as_str()).collect();
                roles.sort_unstable();
                roles.dedup();
                self.cover(given, matches!(place, Place::Cluster), roles)?;
            }
        }
        Ok(())
    }

    /// Whether these roles allow all that one allows, in places where paths count or do not.
    fn cover(&self, given: &Role, paths: bool, roles: Vec<&'p str>) -> Result<(), Excess> {
        let key = (given.name.clone(), paths, roles);
        if self.covered.borrow().contains(&key) {
            return Ok(());
        }
        let own: Vec<&Role> = key.2.iter().filter_map(|name| self.has.find(name)).collect();
        // Looking is all that a read-only role is good for.
        let own: Vec<&Role> = own.into_iter().filter(|own| given.read_only || !own.read_only).collect();
        // Whoever has every verb on every resource needs no comparing of resources.
        let all = own.iter().any(|own| own.is_unlimited());
        let rules = given.rules.iter().filter(|rule| !all || !rule.non_resource_urls.is_empty());
        for atom in rules.flat_map(atoms) {
            // Paths count cluster-wide alone.
            if matches!(atom.about, About::Path(_)) && !paths {
                continue;
            }
            let mut compared = 1;
            let has = own.iter().flat_map(|role| &role.rules).any(|rule| {
                compared += rule.verbs.len() + rule.api_groups.len() + rule.resources.len();
                compared += rule.resource_names.len() + rule.non_resource_urls.len() + rule.ports.len();
                covers(rule, &atom)
            });
            self.spend(compared)?;
            if !has {
                return Err(Excess(format!(
                    "role {:?} gives {atom}, which you do not have yourself in all of the places that the binding names; \
                     leave it out, or ask somebody who has it",
                    given.name
                )));
            }
        }
        self.covered.borrow_mut().insert(key);
        Ok(())
    }

    fn spend(&self, words: usize) -> Result<(), Excess> {
        let left = self.left.get().checked_sub(words.max(1));
        self.left.set(left.unwrap_or_default());
        let text = "this is too much to compare with what you have; make it smaller, or ask an owner";
        left.map(drop).ok_or_else(|| Excess(text.into()))
    }
}

/// How many words a selector compares at most with those of a cluster.
fn words_of(selector: &ClusterSelector) -> usize {
    let values: usize = selector.match_expressions.iter().map(|one| 1 + one.values.len()).sum();
    let labels = selector.match_labels.as_ref().map_or(0, Labels::len);
    1 + selector.ids.len() + selector.names.len() + selector.projects.len() + labels + values
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

/// Each thing that a rule allows, one after the other: all of them at once may be more than there is room for.
fn atoms(rule: &Rule) -> impl Iterator<Item = Atom<'_>> {
    let ports = rule.ports.as_slice();
    rule.verbs.iter().flat_map(move |verb| {
        let resources = rule.api_groups.iter().flat_map(move |group| {
            rule.resources.iter().flat_map(move |resource| {
                let unnamed = rule.resource_names.is_empty().then_some(None);
                let names = unnamed.into_iter().chain(rule.resource_names.iter().map(|name| Some(name.as_str())));
                names.map(move |name| About::Resource { group, resource, name, ports })
            })
        });
        resources
            .chain(rule.non_resource_urls.iter().map(|path| About::Path(path)))
            .map(move |about| Atom { verb, about })
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

fn places(scope: &Scope) -> impl Iterator<Item = Place<'_>> {
    let (one, names) = match scope {
        Scope::Cluster => (Some(Place::Cluster), Default::default()),
        Scope::AllNamespaces => (Some(Place::AllNamespaces), Default::default()),
        Scope::Namespaces(names) => (None, names.as_slice()),
        Scope::NamespaceLabels(labels) => (Some(Place::Labelled(labels)), Default::default()),
    };
    one.into_iter().chain(names.iter().map(|name| Place::Namespace(name)))
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
