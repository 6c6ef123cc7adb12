//! Who may administer what through the API: by a flag of the user, or by a binding to one of the built-in administrative
//! roles.
//!
//! | role | by the API |
//! |---|---|
//! | `org-admin`, bound on all clusters, cluster-wide | everything of the organisation, within what they have themselves |
//! | `project-admin`, bound cluster-wide | clusters that the binding reaches and their enrolment; roles; bindings there |
//! | `infrastructure-admin`, bound cluster-wide | clusters that the binding reaches and their enrolment |
//! | `namespace-admin` | bindings where the binding reaches |
//! | a `-read-only` twin | to look at the same |
//! | `recording-viewer`, bound on all clusters, cluster-wide | recordings of sessions, which no read-only role shows |
//!
//! Who may change bindings hands on no office but those that they have themselves, as widely and for as long ([`Offices::give`]).
//!
//! A binding counts in its term; one with conditions or obligations gives nothing here, since those are about requests to
//! clusters.

use std::cell::{LazyCell, OnceCell};

use jiff::Timestamp;
use ztka_authz::{Binding, Cluster, KnownClusters, PolicyDocument, Scope};
use ztka_core::Principal;

/// What an administrative role is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Office {
    Org,
    Project,
    Infrastructure,
    Namespace,
    Recordings,
}

impl Office {
    /// The office that a role gives, and whether it changes anything.
    fn of(role: &str) -> Option<(Self, bool)> {
        let office = |name: &str| {
            Some(match name {
                "org" => Self::Org,
                "project" => Self::Project,
                "infrastructure" => Self::Infrastructure,
                "namespace" => Self::Namespace,
                _ => return None,
            })
        };
        if role == "recording-viewer" {
            return Some((Self::Recordings, false));
        }
        match role.strip_suffix("-admin") {
            Some(name) => office(name).map(|office| (office, true)),
            None => role.strip_suffix("-read-only").and_then(office).map(|office| (office, false)),
        }
    }

    /// The office that a binding of a policy gives in its term, and whether it changes anything.
    fn given(document: &PolicyDocument, binding: &Binding) -> Option<(Self, bool)> {
        let (office, writes) = Self::of(&binding.role)?;
        // Older than the built-in role of this name, and something else.
        let own = || document.roles.iter().any(|role| role.name == binding.role);
        let plain = binding.when.is_empty() && binding.obligations.is_empty();
        let wide = match office {
            Self::Org | Self::Recordings => binding.clusters.all && binding.scope == Scope::Cluster,
            Self::Project | Self::Infrastructure => binding.scope == Scope::Cluster,
            Self::Namespace => true,
        };
        (plain && wide && !own()).then_some((office, writes))
    }

    /// True if who has this may do all that the other may, where both count; `all` if the other counts on every cluster.
    fn includes(self, other: Self, all: bool) -> bool {
        match (self, other) {
            (Self::Org, _) | (Self::Project, Self::Project | Self::Namespace) => true,
            // On all clusters it is for making new ones as well, which a project's administrator does not.
            (Self::Project, Self::Infrastructure) => !all,
            (own, other) => own == other,
        }
    }
}

/// What a route needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach<'a> {
    /// The organisation as a whole.
    Org,
    /// One cluster; none is every cluster there will be.
    Cluster(Option<&'a Cluster>),
    /// Some of the policy; the change itself says which.
    Policy,
    /// What was recorded of sessions.
    Recordings,
}

/// What somebody holds in an organisation at a moment.
#[derive(Debug)]
pub(crate) struct Offices<'p> {
    document: &'p PolicyDocument,
    held: Vec<(Office, bool, &'p Binding)>,
    /// Looked up for those who hold something, once.
    clusters: OnceCell<KnownClusters<'p>>,
}

impl<'p> Offices<'p> {
    /// What `who` holds by `document` at `now`.
    pub(crate) fn of(document: &'p PolicyDocument, who: &Principal, now: Timestamp) -> Self {
        let who = LazyCell::new(|| document.membership(who));
        let held = document.bindings.iter().filter_map(|binding| {
            let (office, writes) = Office::given(document, binding)?;
            let begun = binding.valid_from.is_none_or(|from| from <= now);
            let lasts = binding.valid_until.is_none_or(|until| now < until);
            (begun && lasts && who.is_among(&binding.subjects)).then_some((office, writes, binding))
        });
        Self { document, held: held.collect(), clusters: OnceCell::new() }
    }

    fn is_as_wide(&self, own: &Binding, other: &Binding) -> bool {
        self.clusters.get_or_init(|| KnownClusters::of(self.document)).is_as_wide(own, other)
    }

    /// True if the office that `binding` gives by the policy `after`, whenever its term is, is theirs to give: they have it
    /// themselves, or one that includes it, as widely and for as long.
    pub(crate) fn give(&self, after: &PolicyDocument, binding: &Binding) -> bool {
        let Some((office, writes)) = Office::given(after, binding) else { return true };
        self.held.iter().any(|(held, may_write, own)| {
            let lasts = match (own.valid_until, binding.valid_until) {
                (None, _) => true,
                (Some(ours), theirs) => theirs.is_some_and(|theirs| theirs <= ours),
            };
            // What is replaced no longer counts when the new one does.
            own.name != binding.name
                && (*may_write || !writes)
                && lasts
                && held.includes(office, binding.clusters.all)
                && self.is_as_wide(own, binding)
        })
    }

    /// True if this may be looked at, or with `writes` changed.
    pub(crate) fn allow(&self, reach: Reach<'_>, writes: bool) -> bool {
        self.held.iter().filter(|(_, may_write, _)| *may_write || !writes).any(|(office, may_write, binding)| {
            match (office, reach) {
                // Who only looks at the organisation does not look over its users' shoulders.
                (Office::Org, Reach::Recordings) => *may_write,
                (Office::Recordings, reach) => reach == Reach::Recordings,
                (Office::Org, _) => true,
                (Office::Project | Office::Infrastructure, Reach::Cluster(Some(cluster))) => {
                    binding.clusters.selects(cluster)
                }
                (Office::Infrastructure, Reach::Cluster(None)) => binding.clusters.all,
                (_, Reach::Policy) => true,
                _ => false,
            }
        })
    }

    /// True if the organisation as a whole may be changed.
    pub(crate) fn whole(&self) -> bool {
        self.allow(Reach::Org, true)
    }

    /// True if bindings that count where this one does may be made and taken away.
    pub(crate) fn manages(&self, binding: &Binding) -> bool {
        self.whole()
            || self.held.iter().any(|(office, writes, own)| {
                *writes && matches!(office, Office::Project | Office::Namespace) && self.is_as_wide(own, binding)
            })
    }

    /// True if roles may be made.
    pub(crate) fn makes_roles(&self) -> bool {
        self.whole() || self.held.iter().any(|(office, writes, _)| *writes && *office == Office::Project)
    }

    /// True if what this binding gives may be seen.
    pub(crate) fn sees(&self, binding: &Binding) -> bool {
        self.allow(Reach::Org, false)
            || self.held.iter().any(|(office, _, own)| {
                matches!(office, Office::Project | Office::Namespace) && self.is_as_wide(own, binding)
            })
    }
}
