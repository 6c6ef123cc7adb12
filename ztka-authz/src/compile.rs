//! From the document as written down to the index that is asked.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::fast::RandomState;
use ztka_core::{ClusterId, GroupName, UserName};

use crate::{
    ClusterSelector, Guardrails, InvalidPolicy, PolicyDocument, ProtectedAccess, Scope, Subject,
    builtin::{BASIC, builtin_roles},
    cedar,
    condition::Terms,
    document::carries,
    matcher::{Asked, Matcher, Rules},
    validate::Strictness,
    words::{self, NONE, Words},
};

/// A hash table asked once or more in a decision.
pub(crate) type Table<K, V> = HashMap<K, V, RandomState>;

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
    pub(crate) except: Box<[Subject]>,
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
    pub(crate) except: Box<[Subject]>,
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

/// In which part of a cluster.
#[derive(Debug)]
pub(crate) enum Within {
    Cluster,
    AllNamespaces,
    Namespaces(Box<[u32]>),
    /// By cluster, those that are known to carry the labels.
    Labelled(Box<Table<u32, Box<[u32]>>>),
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

/// The bindings, or denials, that name one subject.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// Those of few clusters, by cluster, in the order of the document.
    listed: Vec<(u32, u32)>,
    /// All others.
    wide: Vec<u32>,
    /// Both again by where they count: by cluster, or [`ANYWHERE`], and by namespace, or [`ANYWHERE`].
    placed: Vec<(u32, u32, u32)>,
}

/// A binding of more clusters, or namespaces, is looked at wherever somebody asks.
const FEW: usize = 16;

/// No cluster has this number, and no namespace is this word.
const ANYWHERE: u32 = NONE;

impl Candidates {
    fn add(&mut self, number: u32, reach: &Reach, within: &Within) {
        let namespaces: &[u32] = match within {
            Within::Namespaces(names) if names.len() <= FEW => names,
            _ => &[ANYWHERE],
        };
        let clusters: &[u32] = match reach {
            Reach::Some(clusters) if clusters.len() <= FEW => {
                self.listed.extend(clusters.iter().map(|cluster| (*cluster, number)));
                clusters
            }
            _ => {
                self.wide.push(number);
                &[ANYWHERE]
            }
        };
        let places =
            clusters.iter().flat_map(|cluster| namespaces.iter().map(move |namespace| (*cluster, *namespace, number)));
        self.placed.extend(places);
    }

    fn finish(&mut self) {
        self.listed.sort_unstable();
        self.listed.dedup();
        self.listed.shrink_to_fit();
        self.placed.sort_unstable();
        self.placed.dedup();
        self.placed.shrink_to_fit();
        self.wide.dedup();
        self.wide.shrink_to_fit();
    }

    pub(crate) fn on(&self, cluster: u32) -> impl Iterator<Item = u32> + '_ {
        let from = self.listed.partition_point(|(other, _)| *other < cluster);
        let listed = self.listed.get(from..).unwrap_or_default().iter();
        let listed = listed.take_while(move |(other, _)| *other == cluster).map(|(_, number)| *number);
        listed.chain(self.wide.iter().copied())
    }

    /// Of [`Self::on`], in the same order, those that may count in `namespace` ([`NONE`]: outside of all).
    pub(crate) fn at(&self, cluster: u32, namespace: u32) -> impl Iterator<Item = u32> + '_ {
        // As wide ones come last there.
        [cluster, ANYWHERE].into_iter().flat_map(move |cluster| {
            let everywhere = self.run(cluster, ANYWHERE);
            let here: &[_] = if namespace == ANYWHERE { &[] } else { self.run(cluster, namespace) };
            merged(everywhere, here)
        })
    }

    fn run(&self, cluster: u32, namespace: u32) -> &[(u32, u32, u32)] {
        let from = self.placed.partition_point(|(of, at, _)| (*of, *at) < (cluster, namespace));
        let rest = self.placed.get(from..).unwrap_or_default();
        let length = rest.iter().take_while(|(of, at, _)| (*of, *at) == (cluster, namespace)).count();
        rest.get(..length).unwrap_or_default()
    }
}

/// The numbers of both, in order.
fn merged<'a>(mut a: &'a [(u32, u32, u32)], mut b: &'a [(u32, u32, u32)]) -> impl Iterator<Item = u32> + 'a {
    std::iter::from_fn(move || {
        let next = match (a.first(), b.first()) {
            (Some((_, _, one)), Some((_, _, other))) if other < one => &mut b,
            (Some(_), _) => &mut a,
            (None, _) => &mut b,
        };
        let ((_, _, number), rest) = next.split_first()?;
        *next = rest;
        Some(*number)
    })
}

/// Candidates by who is meant.
#[derive(Debug, Default)]
pub(crate) struct ByWho {
    pub(crate) users: Table<UserName, Candidates>,
    pub(crate) groups: Table<GroupName, Candidates>,
    pub(crate) everybody: Candidates,
}

impl ByWho {
    fn add(&mut self, number: u32, reach: &Reach, within: &Within, subjects: &BTreeSet<Subject>) {
        for subject in subjects {
            let candidates = match subject {
                Subject::User(name) => self.users.entry(name.clone()).or_default(),
                Subject::Group(name) => self.groups.entry(name.clone()).or_default(),
            };
            candidates.add(number, reach, within);
        }
    }

    fn finish(&mut self) {
        self.users.values_mut().chain(self.groups.values_mut()).for_each(Candidates::finish);
        self.everybody.finish();
        self.users.shrink_to_fit();
        self.groups.shrink_to_fit();
    }

    /// Numbers of those that name the user, the user's own first, then those of groups, then those of everybody.
    pub(crate) fn of(&self, who: &ztka_core::Principal, cluster: u32) -> impl Iterator<Item = u32> {
        self.naming(who).flat_map(move |candidates| candidates.on(cluster))
    }

    /// The same without those that count in other namespaces alone.
    pub(crate) fn at(&self, who: &ztka_core::Principal, cluster: u32, namespace: u32) -> impl Iterator<Item = u32> {
        self.naming(who).flat_map(move |candidates| candidates.at(cluster, namespace))
    }

    fn naming(&self, who: &ztka_core::Principal) -> impl Iterator<Item = &Candidates> {
        let user = self.users.get(who.name());
        let groups = who.groups().iter().filter_map(|group| self.groups.get(group));
        user.into_iter().chain(groups).chain(std::iter::once(&self.everybody))
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) words: Words,
    pub(crate) numbers: Table<ClusterId, u32>,
    pub(crate) by_who: ByWho,
    pub(crate) bindings: Vec<Bound>,
    pub(crate) denied_to: ByWho,
    pub(crate) denials: Vec<Denied>,
    pub(crate) protected: Vec<Protected>,
    pub(crate) basic: Arc<Rules>,
    /// True if an answer depends on the time.
    pub(crate) timed: bool,
    /// True if an answer depends on the command of an exec.
    pub(crate) commands: bool,
}

/// Everything that is needed again and again while an index is made.
struct Compiler<'a> {
    document: &'a PolicyDocument,
    words: Words,
    cedar: cedar::Conditions,
    reaches: HashMap<&'a ClusterSelector, Reach>,
    members: HashMap<&'a GroupName, BTreeSet<Subject>>,
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
        members: members(document),
        by_id: each().map(|at| (at.1.id.as_str(), number(at))).collect(),
        by_name: each().map(|at| (at.1.name.as_str(), number(at))).collect(),
    };
    let mut roles: HashMap<String, Arc<Rules>> = HashMap::new();
    // A role of the document comes before a built-in one that a later version has brought.
    for role in document.roles.iter().cloned().chain(builtin_roles(&document.settings)) {
        if !roles.contains_key(&role.name) {
            let name = role.name.clone();
            roles.insert(name, Arc::new(Rules::new(&mut compiler.words, role)));
        }
    }
    let role = |name: &str| roles.get(name).cloned().ok_or_else(|| InvalidPolicy::new("roles", name, "is not there"));
    let basic = role(BASIC)?;
    let (mut by_who, mut bindings) = (ByWho::default(), Vec::with_capacity(document.bindings.len()));
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
        by_who.add(next(&bindings), &reach, &within, &compiler.expand(&binding.subjects));
        bindings.push(Bound {
            name: binding.name.as_str().into(),
            role: role(&binding.role)?,
            reach,
            within,
            terms,
            duties: (!binding.obligations.is_empty()).then(|| Box::new(binding.obligations.clone())),
        });
    }
    let (mut denied_to, mut denials) = (ByWho::default(), Vec::new());
    for denial in &document.denials {
        let reach = compiler.reach(&denial.clusters);
        let within = compiler.within(&denial.clusters, &denial.scope);
        match denial.subjects.is_empty() {
            true => denied_to.everybody.add(next(&denials), &reach, &within),
            false => denied_to.add(next(&denials), &reach, &within, &compiler.expand(&denial.subjects)),
        }
        let terms =
            Terms::new(&mut compiler.words, &mut compiler.cedar, denial.valid_from, denial.valid_until, &denial.when);
        denials.push(Denied {
            name: denial.name.as_str().into(),
            reason: denial.reason.as_str().into(),
            except: compiler.expand(&denial.except).into_iter().collect(),
            rules: denial.rules.iter().map(|rule| Matcher::new(&mut compiler.words, rule)).collect(),
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
    let numbers = each().map(|at| (at.1.id.clone(), number(at))).collect();
    Ok(Index {
        words: compiler.words,
        numbers,
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

    fn within(&mut self, clusters: &'a ClusterSelector, scope: &Scope) -> Within {
        match scope {
            Scope::Cluster => Within::Cluster,
            Scope::AllNamespaces => Within::AllNamespaces,
            Scope::Namespaces(names) => {
                Within::Namespaces(words::sorted(names.iter().map(|name| self.words.add(name)).collect()))
            }
            Scope::NamespaceLabels(wanted) => {
                let reach = self.reach(clusters);
                let mut known = Table::default();
                for (cluster, number) in self.document.clusters.iter().zip(0..).filter(|(_, at)| reach.has(*at)) {
                    let names = cluster.namespaces.iter().filter(|(_, labels)| carries(labels, wanted));
                    let names: Vec<u32> = names.map(|(name, _)| self.words.add(name)).collect();
                    if !names.is_empty() {
                        known.insert(number, words::sorted(names));
                    }
                }
                Within::Labelled(Box::new(known))
            }
        }
    }

    fn protected(&mut self, guardrails: &'a Guardrails) -> Vec<Protected> {
        let of = |rail: &'a crate::ProtectedNamespaces| Protected {
            namespaces: words::sorted(rail.namespaces.iter().map(|name| self.words.add(name)).collect()),
            access: rail.access,
            reach: self.reach(&rail.clusters),
            except: self.expand(&rail.except).into_iter().collect(),
        };
        guardrails.protected_namespaces.iter().map(of).collect()
    }

    fn expand(&self, subjects: &[Subject]) -> BTreeSet<Subject> {
        expand(&self.members, subjects)
    }
}

/// The subjects, and the members of those that are groups of the document.
pub(crate) fn expand(members: &HashMap<&GroupName, BTreeSet<Subject>>, subjects: &[Subject]) -> BTreeSet<Subject> {
    let mut all: BTreeSet<_> = subjects.iter().cloned().collect();
    for subject in subjects {
        if let Subject::Group(name) = subject
            && let Some(members) = members.get(name)
        {
            all.extend(members.iter().cloned());
        }
    }
    all
}

/// Each group of the document with its members, those of groups within it included.
pub(crate) fn members(document: &PolicyDocument) -> HashMap<&GroupName, BTreeSet<Subject>> {
    let direct: HashMap<_, _> = document.groups.iter().map(|group| (&group.name, &group.members)).collect();
    let all = |group: &crate::Group| {
        let (mut found, mut open) = (BTreeSet::new(), vec![&group.name]);
        while let Some(name) = open.pop() {
            for member in direct.get(name).into_iter().copied().flatten() {
                // What was found before is not opened again: circles end here.
                if found.insert(member.clone())
                    && let Subject::Group(inner) = member
                {
                    open.push(inner);
                }
            }
        }
        found
    };
    document.groups.iter().map(|group| (&group.name, all(group))).collect()
}
