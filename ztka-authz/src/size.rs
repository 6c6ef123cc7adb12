//! How large a compiled policy gets, found out before anything is built: what is short to write may be long to keep.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use crate::{
    Binding, Cluster, ClusterSelector, Denial, InvalidPolicy, Labels, PolicyDocument, Scope, Subject,
    candidates::FEW,
    document::carries,
    groups::{Groups, Member},
    validate::Step,
};

/// Users and groups in groups of the policy, by however many others: 8 MiB of numbers.
const MEMBERSHIPS: usize = 1 << 21;
/// Steps from group to group to find them.
const STEPS: usize = 1 << 24;
/// Entries by which bindings and denials are found, one for each subject, cluster and namespace, and where these are: 72 MiB.
const ENTRIES: usize = 1 << 22;
/// Clusters that selectors reach, and namespaces that labels do: 16 MiB of numbers each.
const REACHED: usize = 1 << 22;
/// Labels, names and projects that are compared to find these.
const COMPARED: usize = 1 << 25;

/// What was counted until now.
struct Sizes<'a> {
    document: &'a PolicyDocument,
    by_id: HashMap<&'a str, &'a Cluster>,
    by_name: HashMap<&'a str, &'a Cluster>,
    reached: HashMap<&'a ClusterSelector, usize>,
    labelled: HashSet<(&'a ClusterSelector, &'a Labels)>,
    compared: usize,
    clusters: usize,
    namespaces: usize,
    entries: usize,
}

/// What there is too much of, and what to do.
type Excess = &'static str;

const SELECTORS: Excess = "this selector, with those before it, takes more comparing with clusters than a policy may; use fewer \
                           different selectors by label and project, or smaller ones";
const CLUSTERS: Excess = "this selector, with those before it, reaches more clusters one by one than a policy may; use fewer \
                          different selectors by label and project, or all";
const NAMESPACES: Excess = "this scope, with those before it, looks at more labels of namespaces than a policy may; use fewer \
                            different scopes by label, or write down the labels of fewer namespaces";
const PLACES: Excess = "its subjects, each on its clusters and in its namespaces, are with those before it more than a policy \
                        may have; name a group in place of many users, or fewer clusters and namespaces by themselves";

/// Checks that the policy can be kept compiled, in memory that grows with what is written down and not with its square.
///
/// # Errors
/// The first object with which it gets too large.
pub(crate) fn check(document: &PolicyDocument) -> Result<(), InvalidPolicy> {
    check_memberships(document)?;
    let mut sizes = Sizes {
        document,
        by_id: document.clusters.iter().map(|cluster| (cluster.id.as_str(), cluster)).collect(),
        by_name: document.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster)).collect(),
        reached: HashMap::new(),
        labelled: HashSet::new(),
        compared: 0,
        clusters: 0,
        namespaces: 0,
        entries: 0,
    };
    for (number, Binding { name, subjects, clusters, scope, .. }) in document.bindings.iter().enumerate() {
        let flaw = |excess| flaw("bindings", number, format!("binding {name:?}"), excess);
        sizes.add(subjects, clusters, scope).map_err(flaw)?;
    }
    for (number, Denial { name, subjects, clusters, scope, .. }) in document.denials.iter().enumerate() {
        let flaw = |excess| flaw("denials", number, format!("denial {name:?}"), excess);
        sizes.add(subjects, clusters, scope).map_err(flaw)?;
    }
    for (number, rail) in document.guardrails.protected_namespaces.iter().enumerate() {
        sizes.reach(&rail.clusters).map(drop).map_err(|excess| {
            let path = vec![Step::Field("guardrails"), Step::Field("protectedNamespaces"), Step::Number(number)];
            InvalidPolicy::at(path, "protected namespaces".into(), excess)
        })?;
    }
    Ok(())
}

fn flaw(list: &'static str, number: usize, place: String, excess: Excess) -> InvalidPolicy {
    InvalidPolicy::at(vec![Step::Field(list), Step::Number(number)], place, excess)
}

fn check_memberships(document: &PolicyDocument) -> Result<(), InvalidPolicy> {
    let groups = Groups::of(document);
    let (mut memberships, mut steps) = (0_usize, 0_usize);
    // By number, in how many groups each is, itself included.
    let mut depths: Vec<usize> = Vec::new();
    let counted = groups.each(|member, around, gone| {
        memberships += around.len();
        steps += gone;
        // The document's own come first.
        if matches!(member, Member::Group(_)) && depths.len() < document.groups.len() {
            depths.push(around.len());
        }
        match memberships > MEMBERSHIPS || steps > STEPS {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    if counted.is_continue() {
        return Ok(());
    }
    // That whose members are in the most groups by way of it.
    let weights = document.groups.iter().zip(&depths).map(|(group, depth)| group.members.len().max(1) * depth);
    let heaviest = weights.enumerate().max_by_key(|(_, weight)| *weight).map_or(0, |(number, _)| number);
    let name = document.groups.get(heaviest).map_or("", |group| group.name.as_str());
    let problem = format!(
        "users and groups are in groups of the policy, by however many others, more than {MEMBERSHIPS} times, most of them by \
         way of this one; put fewer groups within each other, or name fewer members"
    );
    let path = vec![Step::Field("groups"), Step::Number(heaviest), Step::Field("members")];
    Err(InvalidPolicy::at(path, format!("group {name:?}"), &problem))
}

impl<'a> Sizes<'a> {
    /// One more binding or denial.
    fn add(&mut self, subjects: &[Subject], clusters: &'a ClusterSelector, scope: &'a Scope) -> Result<(), Excess> {
        let reached = self.reach(clusters)?;
        let namespaces = match scope {
            Scope::Namespaces(names) if names.len() <= FEW => names.len(),
            Scope::NamespaceLabels(labels) => {
                self.label(clusters, labels)?;
                1
            }
            _ => 1,
        };
        let each = match reached {
            Some(reached) if reached <= FEW => reached * (namespaces + 1),
            _ => namespaces + 1,
        };
        self.entries = self.entries.saturating_add(subjects.len().max(1).saturating_mul(each));
        within(self.entries, ENTRIES, PLACES)
    }

    /// How many clusters it names; none for all of them.
    fn reach(&mut self, selector: &'a ClusterSelector) -> Result<Option<usize>, Excess> {
        if selector.all {
            return Ok(None);
        }
        if is_simple(selector) {
            return Ok(Some(self.named(selector).map(|cluster| &cluster.id).collect::<HashSet<_>>().len()));
        }
        if let Some(known) = self.reached.get(selector) {
            return Ok(Some(*known));
        }
        let values: usize = selector.match_expressions.iter().map(|one| 1 + one.values.len()).sum();
        let labels = selector.match_labels.as_ref().map_or(0, |labels| labels.len());
        let words = 1 + selector.ids.len() + selector.names.len() + selector.projects.len() + labels + values;
        self.compared = self.compared.saturating_add(words.saturating_mul(self.document.clusters.len()));
        within(self.compared, COMPARED, SELECTORS)?;
        let clusters = self.document.clusters.iter().filter(|cluster| selector.selects(cluster)).count();
        self.clusters += clusters;
        within(self.clusters, REACHED, CLUSTERS)?;
        self.reached.insert(selector, clusters);
        Ok(Some(clusters))
    }

    /// Those that it names one by one.
    fn named(&self, selector: &ClusterSelector) -> impl Iterator<Item = &'a Cluster> {
        let ids = selector.ids.iter().filter_map(|id| self.by_id.get(id.as_str()));
        let names = selector.names.iter().filter_map(|name| self.by_name.get(name.as_str()));
        ids.chain(names).copied()
    }

    fn label(&mut self, selector: &'a ClusterSelector, wanted: &'a Labels) -> Result<(), Excess> {
        if !self.labelled.insert((selector, wanted)) {
            return Ok(());
        }
        let clusters: Vec<&Cluster> = match is_simple(selector) && !selector.all {
            true => self.named(selector).collect(),
            false => {
                let words = 1 + selector.ids.len() + selector.names.len() + selector.projects.len();
                self.compared = self.compared.saturating_add(words.saturating_mul(self.document.clusters.len()));
                within(self.compared, COMPARED, SELECTORS)?;
                self.document.clusters.iter().filter(|cluster| selector.selects(cluster)).collect()
            }
        };
        for cluster in clusters {
            self.compared = self.compared.saturating_add(wanted.len().saturating_mul(cluster.namespaces.len()));
            within(self.compared, COMPARED, NAMESPACES)?;
            self.namespaces += cluster.namespaces.values().filter(|labels| carries(labels, wanted)).count();
            within(self.namespaces, REACHED, NAMESPACES)?;
        }
        Ok(())
    }
}

/// True if it names clusters one by one, which takes no comparing.
fn is_simple(selector: &ClusterSelector) -> bool {
    selector.projects.is_empty() && !selector.is_by_label()
}

fn within(count: usize, most: usize, excess: Excess) -> Result<(), Excess> {
    if count > most { Err(excess) } else { Ok(()) }
}
