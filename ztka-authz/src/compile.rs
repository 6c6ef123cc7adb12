//! From the document as written down to the index that is asked.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{
    ClusterSelector, Guardrails, InvalidPolicy, Labels, PolicyDocument, ProtectedAccess, Scope,
    builtin::{BASIC, builtin_roles},
    candidates::{ByWho, Those, exactly},
    cedar,
    condition::Terms,
    document::carries,
    groups::Groups,
    matcher::{Asked, Matcher, Packed, Rules},
    names::Names,
    validate::Strictness,
    words::{self, NONE, Words},
};

/// A hash table asked once or more in a decision.
pub(crate) type Table<K, V> = HashMap<K, V, RandomState>;

/// Of an entry of a binding, the number of its role; above it what has to be asked of the binding itself.
pub(crate) const ROLE: u32 = (1 << 29) - 1;
/// Whether it reaches the cluster.
pub(crate) const REACH: u32 = 1 << 31;
/// Whether it counts in the namespace.
pub(crate) const WITHIN: u32 = 1 << 30;
/// Its terms and obligations.
pub(crate) const TERMS: u32 = 1 << 29;

/// A binding as it is asked: who is meant is in the tables that lead to it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) name: Arc<str>,
    pub(crate) role: Arc<Rules>,
    pub(crate) reach: Reach,
    pub(crate) within: Within,
    pub(crate) terms: Option<Box<Terms>>,
    pub(crate) duties: Option<Box<crate::Clause<crate::Obligations>>>,
}

/// A denial as it is asked.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(crate) name: Box<str>,
    pub(crate) reason: Box<str>,
    pub(crate) except: Those,
    pub(crate) rules: Box<[Matcher]>,
    pub(crate) reach: Reach,
    pub(crate) within: Within,
    pub(crate) terms: Option<Box<Terms>>,
}

/// A namespace that is closed to everybody but some.
#[derive(Debug)]
pub(crate) struct Protected {
    pub(crate) namespaces: Box<[u32]>,
    pub(crate) access: ProtectedAccess,
    pub(crate) reach: Reach,
    pub(crate) except: Those,
}

/// On which clusters, by their numbers; selectors that say the same share one list.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    All,
    Some(Arc<[u32]>),
}

impl Reach {
    pub(crate) fn has(&self, cluster: u32) -> bool {
        match self {
            Self::All => true,
            Self::Some(clusters) => words::has(clusters, cluster),
        }
    }
}

/// Namespaces by cluster.
pub(crate) type Known = Table<u32, Box<[u32]>>;

/// In which part of a cluster.
#[derive(Debug)]
pub(crate) enum Within {
    Cluster,
    AllNamespaces,
    Namespaces(Box<[u32]>),
    /// By cluster, those that are known to carry the labels; scopes that say the same share one table.
    Labelled(Arc<Known>),
}

impl Within {
    /// True if the question is about something in it.
    pub(crate) fn has(&self, cluster: u32, asked: &Asked<'_>) -> bool {
        let namespace = asked.namespace();
        match self {
            Self::Cluster => true,
            _ if namespace == NONE => false,
            Self::AllNamespaces => true,
            Self::Namespaces(namespaces) => words::has(namespaces, namespace),
            Self::Labelled(known) => known.get(&cluster).is_some_and(|names| words::has(names, namespace)),
        }
    }

    /// True if the question may be about something in it: also by asking across namespaces.
    pub(crate) fn touches(&self, cluster: u32, asked: &Asked<'_>) -> bool {
        let across = asked.namespace() == NONE && asked.object().is_some() && asked.is_wide();
        across || self.has(cluster, asked)
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) words: Words,
    /// Of clusters, by their ids.
    pub(crate) numbers: Names,
    pub(crate) roles: Packed,
    pub(crate) by_who: ByWho,
    pub(crate) bindings: Vec<Bound>,
    pub(crate) denied_to: ByWho,
    pub(crate) denials: Vec<Denied>,
    pub(crate) protected: Vec<Protected>,
    /// The number of the role that whoever is bound has.
    pub(crate) basic: u32,
    /// True if an answer depends on the time.
    pub(crate) timed: bool,
    /// True if an answer depends on the command of an exec.
    pub(crate) commands: bool,
}

impl Index {
    /// True for what whoever is bound may ask.
    #[inline]
    pub(crate) fn is_basic(&self, asked: &Asked<'_>) -> bool {
        self.roles.covers(self.basic, asked).is_some()
    }
}

/// Everything that is needed again and again while an index is made.
struct Compiler<'a> {
    document: &'a PolicyDocument,
    words: Words,
    cedar: cedar::Conditions,
    reaches: HashMap<&'a ClusterSelector, Reach>,
    labelled: HashMap<(&'a ClusterSelector, &'a Labels), Arc<Known>>,
    groups: Groups<'a>,
    by_id: HashMap<&'a str, u32>,
    by_name: HashMap<&'a str, u32>,
}

/// Builds the index of a document that means something definite.
pub(crate) fn index(document: &PolicyDocument) -> Result<Index, InvalidPolicy> {
    document.check(Strictness::Received)?;
    let number = |(number, _): (usize, &crate::Cluster)| u32::try_from(number).unwrap_or(NONE);
    let each = || document.clusters.iter().enumerate();
    let mut compiler = Compiler {
        document,
        words: Words::default(),
        cedar: cedar::Conditions::default(),
        reaches: HashMap::new(),
        labelled: HashMap::new(),
        groups: Groups::of(document),
        by_id: each().map(|at| (at.1.id.as_str(), number(at))).collect(),
        by_name: each().map(|at| (at.1.name.as_str(), number(at))).collect(),
    };
    let (mut roles, mut numbers) = (Packed::default(), HashMap::new());
    // A role of the document comes before a built-in one that a later version has brought.
    for role in document.roles.iter().cloned().chain(builtin_roles(&document.settings)) {
        if !numbers.contains_key(&role.name) {
            let name = role.name.clone();
            numbers.insert(name, roles.add(Arc::new(Rules::new(&mut compiler.words, role))));
        }
    }
    roles.finish();
    let role = |name: &str| {
        let found = numbers.get(name).and_then(|number| Some((*number, roles.role(*number)?.clone())));
        found.filter(|(number, _)| *number <= ROLE).ok_or_else(|| InvalidPolicy::new("roles", name, "is not there"))
    };
    let (basic, _) = role(BASIC)?;
    let (mut by_who, mut bindings) = (ByWho::of(&compiler.groups), Vec::with_capacity(document.bindings.len()));
    for binding in &document.bindings {
        let reach = compiler.reach(&binding.clusters);
        let terms = Terms::new(
            &mut compiler.words,
            &mut compiler.cedar,
            binding.valid_from,
            binding.valid_until,
            &binding.when,
        );
        let within = compiler.within(&binding.clusters, &binding.scope);
        let duties = (!binding.obligations.is_empty()).then(|| Box::new(binding.obligations.clone()));
        let (number, role) = role(&binding.role)?;
        let (reaches, counts) = exactly(&reach, &within);
        let asks = [(!reaches, REACH), (!counts, WITHIN), (terms.is_some() || duties.is_some(), TERMS)];
        let what = asks.into_iter().fold(number, |what, (asks, flag)| if asks { what | flag } else { what });
        by_who.add((next(&bindings), what), &reach, &within, &binding.subjects);
        bindings.push(Bound { name: binding.name.as_str().into(), role, reach, within, terms, duties });
    }
    // Most are about everybody, whose groups nobody asks for then.
    let mut denied_to = match document.denials.iter().all(|denial| denial.subjects.is_empty()) {
        true => ByWho::default(),
        false => ByWho::of(&compiler.groups),
    };
    let mut denials = Vec::new();
    for denial in &document.denials {
        let reach = compiler.reach(&denial.clusters);
        let within = compiler.within(&denial.clusters, &denial.scope);
        let rules: Box<[_]> = denial.rules.iter().map(|rule| Matcher::new(&mut compiler.words, rule)).collect();
        let verbs = rules.iter().fold(0, |bits, rule| bits | rule.bits());
        match denial.subjects.is_empty() {
            true => denied_to.add_for_everybody((next(&denials), verbs), &reach, &within),
            false => denied_to.add((next(&denials), verbs), &reach, &within, &denial.subjects),
        }
        let terms =
            Terms::new(&mut compiler.words, &mut compiler.cedar, denial.valid_from, denial.valid_until, &denial.when);
        denials.push(Denied {
            name: denial.name.as_str().into(),
            reason: denial.reason.as_str().into(),
            except: Those::of(&compiler.groups, &denial.except),
            rules,
            reach,
            within,
            terms,
        });
    }
    let protected = compiler.protected(&document.guardrails);
    by_who.finish();
    denied_to.finish();
    let terms = bindings.iter().map(|bound| &bound.terms).chain(denials.iter().map(|denied| &denied.terms));
    let terms: Vec<_> = terms.flatten().collect();
    let timed = terms.iter().any(|terms| terms.is_timed());
    let commands = terms.iter().any(|terms| terms.looks_at_commands());
    let mut numbers = Names::default();
    each().for_each(|at| numbers.insert(at.1.id.as_str(), number(at)));
    Ok(Index {
        words: compiler.words,
        numbers,
        roles,
        by_who,
        bindings,
        denied_to,
        denials,
        protected,
        basic,
        timed,
        commands,
    })
}

fn next<T>(those: &[T]) -> u32 {
    u32::try_from(those.len()).unwrap_or(NONE)
}

impl<'a> Compiler<'a> {
    fn reach(&mut self, selector: &'a ClusterSelector) -> Reach {
        if selector.all {
            return Reach::All;
        }
        let simple = selector.projects.is_empty() && !selector.is_by_label();
        if simple {
            let ids = selector.ids.iter().filter_map(|id| self.by_id.get(id.as_str()));
            let names = selector.names.iter().filter_map(|name| self.by_name.get(name.as_str()));
            return Reach::Some(words::sorted(ids.chain(names).copied().collect()).into());
        }
        // The same labels are looked for again and again, each time among all clusters.
        self.reaches
            .entry(selector)
            .or_insert_with(|| {
                let selected = self.document.clusters.iter().zip(0..).filter(|(cluster, _)| selector.selects(cluster));
                Reach::Some(words::sorted(selected.map(|(_, number)| number).collect()).into())
            })
            .clone()
    }

    fn within(&mut self, clusters: &'a ClusterSelector, scope: &'a Scope) -> Within {
        match scope {
            Scope::Cluster => Within::Cluster,
            Scope::AllNamespaces => Within::AllNamespaces,
            Scope::Namespaces(names) => {
                Within::Namespaces(words::sorted(names.iter().map(|name| self.words.add(name)).collect()))
            }
            Scope::NamespaceLabels(wanted) => Within::Labelled(self.labelled(clusters, wanted)),
        }
    }

    fn labelled(&mut self, clusters: &'a ClusterSelector, wanted: &'a Labels) -> Arc<Known> {
        if let Some(known) = self.labelled.get(&(clusters, wanted)) {
            return known.clone();
        }
        let reach = self.reach(clusters);
        let mut known = Known::default();
        for (cluster, number) in self.document.clusters.iter().zip(0..).filter(|(_, at)| reach.has(*at)) {
            let names = cluster.namespaces.iter().filter(|(_, labels)| carries(labels, wanted));
            let names: Vec<u32> = names.map(|(name, _)| self.words.add(name)).collect();
            if !names.is_empty() {
                known.insert(number, words::sorted(names));
            }
        }
        let known = Arc::new(known);
        self.labelled.insert((clusters, wanted), known.clone());
        known
    }

    fn protected(&mut self, guardrails: &'a Guardrails) -> Vec<Protected> {
        let of = |rail: &'a crate::ProtectedNamespaces| Protected {
            namespaces: words::sorted(rail.namespaces.iter().map(|name| self.words.add(name)).collect()),
            access: rail.access,
            reach: self.reach(&rail.clusters),
            except: Those::of(&self.groups, &rail.except),
        };
        guardrails.protected_namespaces.iter().map(of).collect()
    }
}
