//! Nobody gives more than they have: what of a change widens, and whether whoever makes it has that themselves.
//!
//! Users whose flag says that they administer the organisation are its owners, whom nothing here limits. Everybody else
//! acts by a binding ([`Offices`]), and may change what that reaches. What of their change gives somebody something has to
//! be theirs, by the policy as it was before ([`Holdings::may_grant`]). What loosens a denial or a guardrail that is
//! about them is for owners.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use ztka_api::Code;
use ztka_authz::{
    Binding, Clause, Cluster, ClusterSelector, Conditions, Denial, Guardrails, Holdings, Membership, Opening,
    PolicyDocument, ProtectedNamespaces, Scope, Subject,
};
use ztka_core::{Attributes, GroupName, OrgId, Principal};
use ztka_identity::{Caller, User};

use super::Offices;
use crate::{
    Controller,
    api::{Answer, ApiError},
    store::{PolicyEdit, ResourceKind},
};

/// Begins the names that a binding under consideration has, which no real one can have.
const CONSIDERED: char = '\u{1}';

/// Why somebody may not change something; what to do about it is behind the last semicolon.
type Refused = String;

const ASK: &str = "ask an owner of the organisation, who was made with `--admin org`";

impl Controller {
    /// Whether somebody may put users into this group of their sessions, and take them out.
    pub(crate) async fn may_fill(&self, caller: &Caller, org: &OrgId, group: &GroupName) -> Answer<()> {
        if caller.administers(org) {
            return Ok(());
        }
        let (known, who) = (self.policy(org).await?, self.principal(&caller.user).await?);
        let (group, now) = (group.clone(), self.now());
        let filled = spawn_blocking(move || {
            let giver = Giver::new(&known.document, &known.document, &who, now);
            giver.fills(&[group], &HashSet::new()).map_err(forbidden)
        });
        filled.await.map_err(ApiError::failed)?
    }

    /// Whether somebody may put these in place of the attributes of `user`.
    pub(crate) async fn may_describe(
        &self,
        caller: &Caller,
        org: &OrgId,
        user: &User,
        attributes: &Attributes,
    ) -> Answer<()> {
        if caller.administers(org) {
            return Ok(());
        }
        let (known, who, now) = (self.policy(org).await?, self.principal(&caller.user).await?, self.now());
        let new = User { attributes: attributes.clone(), ..user.clone() };
        let (old, new) = (self.principal(user).await?, self.principal(&new).await?);
        let described = spawn_blocking(move || {
            Giver::new(&known.document, &known.document, &who, now).describes(&old, &new).map_err(forbidden)
        });
        described.await.map_err(ApiError::failed)?
    }

    /// Whether somebody may come to be `user`, by a credential of theirs.
    pub(crate) async fn may_become(&self, caller: &Caller, org: &OrgId, user: &User) -> Answer<()> {
        if caller.administers(org) || caller.user.id == user.id {
            return Ok(());
        }
        if user.admin.is_some() {
            return Err(forbidden(format!("user \"{}\" is an owner of the organisation; {ASK}", user.name)));
        }
        let known = self.policy(org).await?;
        let (who, other, now) = (self.principal(&caller.user).await?, self.principal(user).await?, self.now());
        let became = spawn_blocking(move || {
            Giver::new(&known.document, &known.document, &who, now).becomes(&other).map_err(forbidden)
        });
        became.await.map_err(ApiError::failed)?
    }
}

fn forbidden(text: Refused) -> ApiError {
    match text.rsplit_once("; ") {
        Some((detail, action)) => ApiError::new(Code::Forbidden, detail, action),
        None => ApiError::new(Code::Forbidden, text, "ask an administrator of the organisation"),
    }
}

/// The same binding under another name, so that it does not stand for itself.
fn considered(binding: &Binding) -> Binding {
    Binding { name: format!("{CONSIDERED}{}", binding.name), ..binding.clone() }
}

fn is_about(denial: &Denial, who: &Membership<'_>) -> bool {
    (denial.subjects.is_empty() || who.is_among(&denial.subjects))
        && !who.is_among(&denial.except)
        && is_for(&denial.when, who.who())
}

/// True if attributes are not in the way, as far as that can be known.
fn is_for(when: &Clause<Conditions>, who: &Principal) -> bool {
    when.known().is_none_or(|when| when.is_for(who.attributes()))
}

/// More clusters, projects and namespaces than may be written down in one binding.
const LONGEST: usize = 4_000;

/// How many clusters, projects and namespaces it names.
fn places(binding: &Binding) -> usize {
    let ClusterSelector { ids, names, projects, .. } = &binding.clusters;
    let namespaces = if let Scope::Namespaces(names) = &binding.scope { names.len() } else { 0 };
    ids.len() + names.len() + projects.len() + namespaces
}

type ByName<'a> = HashMap<&'a str, &'a Binding>;

/// Somebody who changes a policy by what they hold in it.
pub(super) struct Giver<'a> {
    before: &'a PolicyDocument,
    after: &'a PolicyDocument,
    who: Membership<'a>,
    offices: Offices<'a>,
    holdings: Holdings<'a>,
}

impl<'a> Giver<'a> {
    /// Somebody who makes the policy `after` of the one `before`.
    pub(super) fn new(
        before: &'a PolicyDocument,
        after: &'a PolicyDocument,
        who: &'a Principal,
        now: Timestamp,
    ) -> Self {
        let offices = Offices::of(before, who, now);
        let who = before.membership(who);
        let holdings = Holdings::of(before, after, &who, now);
        Self { before, after, who, offices, holdings }
    }

    /// What is changed is theirs to change.
    pub(super) fn reach(&self, edits: &[PolicyEdit]) -> Answer<()> {
        if self.offices.whole() {
            return Ok(());
        }
        let by_name = |policy: &'a PolicyDocument| -> ByName<'a> {
            policy.bindings.iter().map(|binding| (binding.name.as_str(), binding)).collect()
        };
        let bindings = [by_name(self.before), by_name(self.after)];
        edits.iter().try_for_each(|edit| self.reaches(&bindings, edit)).map_err(forbidden)
    }

    /// What is given by the change is theirs to give.
    pub(super) fn widen(&self, edits: &[PolicyEdit]) -> Answer<()> {
        self.widens(edits).map_err(forbidden)
    }

    fn reaches(&self, bindings: &[ByName<'_>; 2], edit: &PolicyEdit) -> Result<(), Refused> {
        let name = &edit.name;
        let elsewhere = |what: &str| {
            Err(format!(
                "{what} {name:?} is about more than what you administer; ask an administrator of the organisation"
            ))
        };
        match edit.kind {
            ResourceKind::Binding => {
                let [_, after] = bindings;
                if after.get(name.as_str()).is_some_and(|binding| places(binding) > LONGEST) {
                    return Err(format!("binding {name:?} names too many clusters or namespaces; make several of it"));
                }
                let mut versions = bindings.iter().filter_map(|policy| policy.get(name.as_str()));
                match versions.all(|binding| self.offices.manages(binding)) {
                    true => Ok(()),
                    false => elsewhere("binding"),
                }
            }
            ResourceKind::Role => {
                let mut users = self.before.bindings.iter().filter(|binding| binding.role == *name);
                match self.offices.makes_roles() && users.all(|binding| self.offices.manages(binding)) {
                    true => Ok(()),
                    false => elsewhere("role"),
                }
            }
            ResourceKind::Cluster => {
                let (old, new) = (cluster(self.before, name), cluster(self.after, name));
                let own = old.is_some_and(|old| self.offices.allow(super::Reach::Cluster(Some(old)), true));
                match own && old.map(|old| &old.project) == new.map(|new| &new.project) {
                    true => Ok(()),
                    false => elsewhere("cluster"),
                }
            }
            kind => Err(format!(
                "{kind} {name:?} is of the organisation as a whole; ask somebody who has the role org-admin on all clusters"
            )),
        }
    }

    fn widens(&self, edits: &[PolicyEdit]) -> Result<(), Refused> {
        let names = |kind| edits.iter().filter(move |edit| edit.kind == kind).map(|edit| edit.name.as_str());
        let edited: HashSet<&str> = names(ResourceKind::Binding).collect();
        let roles: HashSet<&str> = names(ResourceKind::Role).collect();
        for binding in &self.after.bindings {
            match edited.contains(binding.name.as_str()) {
                true => self.may_give(binding)?,
                false if roles.contains(binding.role.as_str()) => self.may_give(&considered(binding))?,
                false => {}
            }
        }
        let groups: Result<Vec<GroupName>, _> = names(ResourceKind::PolicyGroup).map(str::parse).collect();
        self.fills(&groups.map_err(|error| error.to_string())?, &edited)?;
        for id in names(ResourceKind::Cluster) {
            if let (Some(old), Some(new)) = (cluster(self.before, id), cluster(self.after, id)) {
                self.moves(old, new, &edited)?;
            }
        }
        for name in names(ResourceKind::Denial) {
            let old = self.before.denials.iter().find(|denial| denial.name == name);
            if old.is_some_and(|denial| is_about(denial, &self.who)) {
                return Err(owners(&format!("denial {name:?} is about you")));
            }
        }
        self.loosens(&self.before.guardrails, &self.after.guardrails)
    }

    /// Whether they may make `binding`, which gives a role as it is afterwards, by what they have in the policy before.
    fn may_give(&self, binding: &Binding) -> Result<(), Refused> {
        let name = binding.name.trim_start_matches(CONSIDERED);
        self.holdings.may_grant(binding).map_err(|excess| format!("binding {name:?}: {excess}"))?;
        match self.offices.give(self.after, binding) {
            true => Ok(()),
            false => Err(format!(
                "binding {name:?}: role {:?} is for administering as well, which you do not do yourself everywhere that the \
                 binding counts, or not for as long; give another role, or ask somebody who has it",
                binding.role
            )),
        }
    }

    /// Who comes into one of these groups comes to have what its bindings give, and may come out of denials.
    fn fills(&self, groups: &[GroupName], edited: &HashSet<&str>) -> Result<(), Refused> {
        if groups.is_empty() {
            return Ok(());
        }
        let around = self.after.groups_around(groups);
        let named = |subjects: &'a [Subject]| {
            subjects.iter().find_map(|subject| match subject {
                Subject::Group(name) if around.contains(name) => Some(name),
                _ => None,
            })
        };
        for binding in self.after.bindings.iter().filter(|binding| !edited.contains(binding.name.as_str())) {
            if named(&binding.subjects).is_some() {
                self.may_give(&considered(binding))?;
            }
        }
        for denial in &self.after.denials {
            if let Some(group) = named(&denial.subjects).or_else(|| named(&denial.except)) {
                return Err(owners(&format!("denial {:?} goes by group \"{group}\"", denial.name)));
            }
        }
        match self.after.guardrails.protected_namespaces.iter().find_map(|rail| named(&rail.except)) {
            Some(group) => Err(owners(&format!("protected namespaces go by group \"{group}\""))),
            None => Ok(()),
        }
    }

    /// A user with other attributes is under other bindings, and may come out of denials.
    fn describes(&self, old: &Principal, new: &Principal) -> Result<(), Refused> {
        let (was, is) = (old.attributes(), new.attributes());
        let changed = |key: &String| was.get(key) != is.get(key);
        // What an expression makes of an attribute, or what is not understood, is not weighed here.
        let unclear = |when: &Clause<Conditions>| {
            when.known().is_none_or(|when| when.cedar.as_ref().is_some_and(|text| text.contains("Tag")))
        };
        if !was.keys().chain(is.keys()).any(changed) {
            return Ok(());
        }
        let [before, after] = [old, new].map(|who| self.before.membership(who));
        for binding in self.before.bindings.iter().filter(|binding| after.is_among(&binding.subjects)) {
            if unclear(&binding.when) {
                return Err(owners(&format!("binding {:?} may go by attributes of users", binding.name)));
            }
            if is_for(&binding.when, new) && !is_for(&binding.when, old) {
                self.may_give(&considered(binding))?;
            }
        }
        let comes_out =
            |denial: &&Denial| is_about(denial, &before) && (unclear(&denial.when) || !is_about(denial, &after));
        match self.before.denials.iter().find(comes_out) {
            Some(denial) => Err(owners(&format!("denial {:?} goes by attributes that are changed", denial.name))),
            None => Ok(()),
        }
    }

    /// Whether they may come to be somebody else.
    fn becomes(&self, other: &Principal) -> Result<(), Refused> {
        let is = self.before.membership(other);
        let theirs = |binding: &&Binding| is.is_among(&binding.subjects) && is_for(&binding.when, other);
        for binding in self.before.bindings.iter().filter(theirs) {
            self.may_give(&considered(binding))?;
        }
        let name = other.name();
        let mut denials = self.before.denials.iter();
        if let Some(denial) = denials.find(|denial| is_about(denial, &self.who) && !is_about(denial, &is)) {
            return Err(format!("denial {:?} is about you, and not about user \"{name}\"; {ASK}", denial.name));
        }
        let spared = |rail: &&ProtectedNamespaces| is.is_among(&rail.except) && !self.who.is_among(&rail.except);
        match self.before.guardrails.protected_namespaces.iter().find(spared) {
            Some(rail) => Err(format!(
                "namespace {:?} is protected from you, and not from user \"{name}\"; {ASK}",
                rail.namespaces.first().map_or("", String::as_str)
            )),
            None => Ok(()),
        }
    }

    /// A cluster with other labels, or in another project, is under other bindings, and may come out of denials.
    fn moves(&self, old: &Cluster, new: &Cluster, edited: &HashSet<&str>) -> Result<(), Refused> {
        let after = self.after;
        let by_label = |scope: &Scope, when: &ztka_authz::Clause<ztka_authz::Conditions>| {
            matches!(scope, Scope::NamespaceLabels(_))
                || when.known().is_none_or(|when| {
                    !when.cluster_labels.is_empty() || !when.namespace_labels.is_empty() || when.cedar.is_some()
                })
        };
        for binding in after.bindings.iter().filter(|binding| !edited.contains(binding.name.as_str())) {
            let (was, is) = (binding.clusters.selects(old), binding.clusters.selects(new));
            if is && (!was || by_label(&binding.scope, &binding.when)) {
                let clusters = ClusterSelector { ids: vec![new.id.clone()], ..ClusterSelector::default() };
                self.may_give(&Binding { clusters, ..considered(binding) })?;
            }
        }
        let comes_out = |clusters: &ClusterSelector| clusters.selects(old) != clusters.selects(new);
        let denial = after.denials.iter().find(|denial| {
            comes_out(&denial.clusters) || (denial.clusters.selects(old) && by_label(&denial.scope, &denial.when))
        });
        if let Some(denial) = denial {
            return Err(owners(&format!("denial {:?} goes by what is changed in cluster {:?}", denial.name, new.name)));
        }
        match after.guardrails.protected_namespaces.iter().any(|rail| comes_out(&rail.clusters)) {
            true => Err(owners(&format!("protected namespaces go by what is changed in cluster {:?}", new.name))),
            false => Ok(()),
        }
    }

    /// What is protected stays so, unless they are excepted, and no gate opens.
    fn loosens(&self, old: &Guardrails, new: &Guardrails) -> Result<(), Refused> {
        let kept = |rail| new.protected_namespaces.contains(rail);
        let gone = old.protected_namespaces.iter().find(|rail| !kept(rail) && !self.who.is_among(&rail.except));
        if gone.is_some() {
            return Err(owners("protected namespaces are protected from you"));
        }
        let (was, is) = (old.gates, new.gates);
        let gates = [
            (was.escalate, is.escalate),
            (was.bind, is.bind),
            (was.impersonate, is.impersonate),
            (was.approve, is.approve),
            (was.sign, is.sign),
            (was.token, is.token),
        ];
        match gates.into_iter().any(|(was, is)| openness(is) > openness(was)) {
            true => Err(owners("a gate is opened by it that is closed to you")),
            false => Ok(()),
        }
    }
}

fn openness(opening: Opening) -> u8 {
    match opening {
        Opening::Closed => 0,
        Opening::Admins => 1,
        Opening::Roles => 2,
    }
}

fn cluster<'p>(policy: &'p PolicyDocument, id: &str) -> Option<&'p Cluster> {
    policy.clusters.iter().find(|cluster| cluster.id.as_str() == id)
}

fn owners(why: &str) -> Refused {
    format!("{why}, so only an owner of the organisation may change that; ask one, who was made with `--admin org`")
}
