//! Nobody gives more than they have: what of a change widens, and whether whoever makes it has that themselves.
//!
//! Users whose flag says that they administer the organisation are its owners, whom nothing here limits. Everybody else
//! acts by a binding ([`Offices`]), and may change what that reaches. What of their change gives somebody something has to
//! be theirs, by the policy as it was before ([`PolicyDocument::may_grant`]). What loosens a denial or a guardrail that is
//! about them is for owners.

use std::collections::HashSet;

use jiff::Timestamp;
use ztka_api::Code;
use ztka_authz::{
    Binding, Clause, Cluster, ClusterSelector, Conditions, Denial, Guardrails, Opening, PolicyDocument, Role, Scope,
    Subject,
};
use ztka_core::{Attributes, GroupName, OrgId, Principal};
use ztka_identity::{Caller, User};

use super::Offices;
use crate::{
    Controller,
    api::{Answer, ApiError},
    store::{PolicyEdit, ResourceKind},
};

/// Begins the names that a binding or role under consideration has, which no real one can have.
const CONSIDERED: char = '\u{1}';

/// Why somebody may not change something; what to do about it is behind the last semicolon.
type Refused = String;

impl Controller {
    /// Whether somebody may make this change of a policy.
    pub(crate) async fn may_change(
        &self,
        caller: &Caller,
        org: &OrgId,
        before: &PolicyDocument,
        after: &PolicyDocument,
        edits: &[PolicyEdit],
    ) -> Answer<()> {
        if caller.administers(org) || edits.is_empty() {
            return Ok(());
        }
        let who = self.principal(&caller.user).await?;
        let giver = Giver { before, who: &who, now: self.now(), offices: Offices::of(before, &who, self.now()) };
        giver.check(after, edits).map_err(forbidden)
    }

    /// Whether somebody may put users into this group of their sessions, and take them out.
    pub(crate) async fn may_fill(&self, caller: &Caller, org: &OrgId, group: &GroupName) -> Answer<()> {
        if caller.administers(org) {
            return Ok(());
        }
        let ((_, policy), who) = (self.policy(org).await?, self.principal(&caller.user).await?);
        let giver =
            Giver { before: &policy, who: &who, now: self.now(), offices: Offices::of(&policy, &who, self.now()) };
        giver.fills(&policy, group, &HashSet::new()).map_err(forbidden)
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
        let ((_, policy), who) = (self.policy(org).await?, self.principal(&caller.user).await?);
        let new = User { attributes: attributes.clone(), ..user.clone() };
        let (old, new) = (self.principal(user).await?, self.principal(&new).await?);
        let giver =
            Giver { before: &policy, who: &who, now: self.now(), offices: Offices::of(&policy, &who, self.now()) };
        giver.describes(&old, &new).map_err(forbidden)
    }

    /// Whether somebody may come to be `user`, by a credential of theirs.
    pub(crate) async fn may_become(&self, caller: &Caller, org: &OrgId, user: &User) -> Answer<()> {
        if caller.administers(org) || caller.user.id == user.id {
            return Ok(());
        }
        let ask = "ask an owner of the organisation, who was made with `--admin org`";
        if user.admin.is_some() {
            return Err(forbidden(format!("user \"{}\" is an owner of the organisation; {ask}", user.name)));
        }
        let (_, policy) = self.policy(org).await?;
        let (who, other) = (self.principal(&caller.user).await?, self.principal(user).await?);
        let giver =
            Giver { before: &policy, who: &who, now: self.now(), offices: Offices::of(&policy, &who, self.now()) };
        let theirs = |binding: &&Binding| policy.names(&binding.subjects, &other) && is_for(&binding.when, &other);
        for binding in policy.bindings.iter().filter(theirs) {
            giver.may_give(&policy, &considered(binding)).map_err(forbidden)?;
        }
        let spared =
            policy.denials.iter().find(|denial| is_about(&policy, denial, &who) && !is_about(&policy, denial, &other));
        match spared {
            Some(denial) => {
                let text =
                    format!("denial {:?} is about you, and not about user \"{}\"; {ask}", denial.name, user.name);
                Err(forbidden(text))
            }
            None => Ok(()),
        }
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

fn is_about(policy: &PolicyDocument, denial: &Denial, who: &Principal) -> bool {
    (denial.subjects.is_empty() || policy.names(&denial.subjects, who))
        && !policy.names(&denial.except, who)
        && is_for(&denial.when, who)
}

/// True if attributes are not in the way, as far as that can be known.
fn is_for(when: &Clause<Conditions>, who: &Principal) -> bool {
    when.known().is_none_or(|when| when.is_for(who.attributes()))
}

/// Somebody who changes a policy by what they hold in it.
struct Giver<'a> {
    before: &'a PolicyDocument,
    who: &'a Principal,
    now: Timestamp,
    offices: Offices<'a>,
}

impl Giver<'_> {
    fn check(&self, after: &PolicyDocument, edits: &[PolicyEdit]) -> Result<(), Refused> {
        for edit in edits {
            self.reaches(after, edit)?;
        }
        self.widens(after, edits)
    }

    /// What is changed is theirs to change.
    fn reaches(&self, after: &PolicyDocument, edit: &PolicyEdit) -> Result<(), Refused> {
        if self.offices.whole() {
            return Ok(());
        }
        let name = &edit.name;
        let elsewhere = |what: &str| {
            Err(format!(
                "{what} {name:?} is about more than what you administer; ask an administrator of the organisation"
            ))
        };
        match edit.kind {
            ResourceKind::Binding => {
                let versions = [self.before, after].map(|policy| policy.bindings.iter().find(|one| one.name == *name));
                match versions.into_iter().flatten().all(|binding| self.offices.manages(binding)) {
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
                let (old, new) = (cluster(self.before, name), cluster(after, name));
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

    /// What is given by it is theirs to give.
    fn widens(&self, after: &PolicyDocument, edits: &[PolicyEdit]) -> Result<(), Refused> {
        let names = |kind| edits.iter().filter(move |edit| edit.kind == kind).map(|edit| edit.name.as_str());
        let edited: HashSet<&str> = names(ResourceKind::Binding).collect();
        let roles: HashSet<&str> = names(ResourceKind::Role).collect();
        for binding in &after.bindings {
            match edited.contains(binding.name.as_str()) {
                true => self.may_give(after, binding)?,
                false if roles.contains(binding.role.as_str()) => self.may_give(after, &considered(binding))?,
                false => {}
            }
        }
        for group in names(ResourceKind::PolicyGroup) {
            let group = group.parse::<GroupName>().map_err(|error| error.to_string())?;
            self.fills(after, &group, &edited)?;
        }
        for id in names(ResourceKind::Cluster) {
            if let (Some(old), Some(new)) = (cluster(self.before, id), cluster(after, id)) {
                self.moves(after, old, new, &edited)?;
            }
        }
        for name in names(ResourceKind::Denial) {
            let old = self.before.denials.iter().find(|denial| denial.name == name);
            if old.is_some_and(|denial| is_about(self.before, denial, self.who)) {
                return Err(owners(&format!("denial {name:?} is about you")));
            }
        }
        self.loosens(&self.before.guardrails, &after.guardrails)
    }

    /// Whether they may make `binding`, which gives a role as `after` has it, by what they have in the policy before.
    fn may_give(&self, after: &PolicyDocument, binding: &Binding) -> Result<(), Refused> {
        let given = after.roles.iter().find(|role| role.name == binding.role);
        let known = self.before.roles.iter().find(|role| role.name == binding.role);
        let excess = match given {
            Some(role) if given != known => {
                // What the role gives then, while their own is what it gives now.
                let name = format!("{CONSIDERED}{}", role.name);
                let mut basis = self.before.clone();
                basis.roles.push(Role { name: name.clone(), ..role.clone() });
                basis.may_grant(self.who, &Binding { role: name, ..binding.clone() }, self.now)
            }
            _ => self.before.may_grant(self.who, binding, self.now),
        };
        let name = binding.name.trim_start_matches(CONSIDERED);
        excess.map_err(|excess| format!("binding {name:?}: {}", excess.to_string().replace(CONSIDERED, "")))
    }

    /// Who comes into this group comes to have what its bindings give, and may come out of denials.
    fn fills(&self, after: &PolicyDocument, group: &GroupName, edited: &HashSet<&str>) -> Result<(), Refused> {
        let around: Vec<Subject> = after.groups_around(group).into_iter().map(Subject::Group).collect();
        let named = |subjects: &[Subject]| subjects.iter().any(|subject| around.contains(subject));
        for binding in after.bindings.iter().filter(|binding| !edited.contains(binding.name.as_str())) {
            if named(&binding.subjects) {
                self.may_give(after, &considered(binding))?;
            }
        }
        let denial = after.denials.iter().find(|denial| named(&denial.subjects) || named(&denial.except));
        if let Some(denial) = denial {
            return Err(owners(&format!("denial {:?} goes by group \"{group}\"", denial.name)));
        }
        match after.guardrails.protected_namespaces.iter().any(|rail| named(&rail.except)) {
            true => Err(owners(&format!("protected namespaces go by group \"{group}\""))),
            false => Ok(()),
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
        for binding in self.before.bindings.iter().filter(|binding| self.before.names(&binding.subjects, new)) {
            if unclear(&binding.when) {
                return Err(owners(&format!("binding {:?} may go by attributes of users", binding.name)));
            }
            if is_for(&binding.when, new) && !is_for(&binding.when, old) {
                self.may_give(self.before, &considered(binding))?;
            }
        }
        let comes_out = |denial: &&Denial| {
            is_about(self.before, denial, old) && (unclear(&denial.when) || !is_about(self.before, denial, new))
        };
        match self.before.denials.iter().find(comes_out) {
            Some(denial) => Err(owners(&format!("denial {:?} goes by attributes that are changed", denial.name))),
            None => Ok(()),
        }
    }

    /// A cluster with other labels, or in another project, is under other bindings, and may come out of denials.
    fn moves(
        &self,
        after: &PolicyDocument,
        old: &Cluster,
        new: &Cluster,
        edited: &HashSet<&str>,
    ) -> Result<(), Refused> {
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
                self.may_give(after, &Binding { clusters, ..considered(binding) })?;
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
        let gone =
            old.protected_namespaces.iter().find(|rail| !kept(rail) && !self.before.names(&rail.except, self.who));
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
