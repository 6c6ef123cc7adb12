//! A policy as a whole: read, replaced, as it was, and asked.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    extract::{Path, RawQuery, State},
};
use ztka_api::{
    AskPolicy, PolicyAnswer, PolicyChanged, PolicyHistoryQuery, PolicyObject, PolicyPermissions, PolicyQuery,
    PolicyState, PolicyVersion, RollBack, WhoCan, WriteQuery,
};
use ztka_authz::{
    Facts, PolicyDocument, PolicySet, Subject,
    tools::{Question, compare},
};
use ztka_core::{Attributes, ClusterId, OrgId, Principal, Session, UserId, UserName};
use ztka_identity::{Caller, StoreError};

use super::{
    answer::{Answer, ApiError, Json, query},
    precondition::Expected,
};
use crate::{
    Controller,
    policy::{Changed, Known, put},
    store::{self, PolicyEdit, ResourceKind},
};

/// Entries of the history in one answer.
const ENTRIES: u32 = 100;
/// Users and groups, times clusters, of which it is listed what they gain and lose: the list takes seconds beyond.
const COMPARED: usize = 100_000;
/// Permissions that one of them gains or loses are listed up to this number.
const LISTED: usize = 100;

fn wire_object((kind, name, action): (ResourceKind, String, store::Action)) -> PolicyObject {
    PolicyObject { kind: kind.to_string(), name, action: action.to_string() }
}

/// What was changed, or would be, and who gains and loses what by it.
pub(super) fn wire_change(
    changed: &Changed,
    dry_run: bool,
    permissions: Option<Vec<PolicyPermissions>>,
) -> Answer<PolicyChanged> {
    let object = |edit: &PolicyEdit| wire_object((edit.kind, edit.name.clone(), edit.action()));
    let objects = changed.edits.iter().map(object).collect();
    Ok(PolicyChanged { version: changed.version, dry_run, objects, permissions })
}

/// Who gains and loses what; none if there are too many to say.
async fn permissions(org: &OrgId, changed: &Changed) -> Answer<Option<Vec<PolicyPermissions>>> {
    let old = &changed.before.document;
    let people = |policy: &PolicyDocument| {
        let members = policy.groups.iter().map(|group| group.members.len()).sum::<usize>();
        members + policy.bindings.iter().map(|binding| binding.subjects.len()).sum::<usize>()
    };
    let clusters = old.clusters.len().max(changed.after.clusters.len());
    if (people(old) + people(&changed.after)).saturating_mul(clusters) > COMPARED {
        return Ok(None);
    }
    let (org, before, after) = (org.clone(), changed.before.clone(), changed.after.clone());
    let compared = tokio::task::spawn_blocking(move || {
        let (before, after) = (before.compiled(&org)?, PolicySet::candidate(org.clone(), after)?);
        Ok::<_, ztka_authz::InvalidPolicy>(compare(before, &after, &[]))
    });
    let compared = compared.await.map_err(ApiError::failed)?.map_err(ApiError::failed)?;
    let list = |list: &[ztka_authz::tools::Permission]| {
        let mut said: Vec<_> = list.iter().take(LISTED).map(ToString::to_string).collect();
        if list.len() > LISTED {
            said.push(format!("and {} more", list.len() - LISTED));
        }
        said
    };
    let wire = |one: &ztka_authz::tools::Change| PolicyPermissions {
        who: one.who.clone(),
        gained: list(&one.gained),
        lost: list(&one.lost),
    };
    Ok(Some(compared.iter().map(wire).collect()))
}

impl Controller {
    /// The policy as it was at `version`, or the newest at that time. Clusters are those that there are now, with what
    /// policy looked at in them then.
    async fn policy_at(&self, org: &OrgId, version: u64) -> Answer<PolicyDocument> {
        let known = self.policy(org).await?;
        let (now, mut policy) = (known.version(), known.document.clone());
        if version > now {
            let text = format!("the policy is at version {now}, and was never at {version}");
            return Err(ApiError::new(ztka_api::Code::NotFound, text, "see `ztka policy history`"));
        }
        let clusters: Vec<String> = policy.clusters.iter().map(|cluster| cluster.id.to_string()).collect();
        for edit in self.0.stores.policy.policy_back(org, now, version).await? {
            if edit.kind != ResourceKind::Cluster || clusters.contains(&edit.name) {
                put(&mut policy, edit.kind, &edit.name, edit.after.as_deref()).map_err(ApiError::failed)?;
            }
        }
        Ok(policy)
    }
}

fn state(version: u64, policy: &PolicyDocument) -> Answer<Json<PolicyState>> {
    Ok(Json(PolicyState { version, policy: serde_json::to_value(policy).map_err(ApiError::failed)? }))
}

pub(super) async fn read(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<PolicyState>> {
    let PolicyQuery { version } = query(asked.as_deref())?;
    match version {
        Some(version) => state(version, &controller.policy_at(&org, version).await?),
        None => {
            let known = controller.policy(&org).await?;
            state(known.version(), &known.document)
        }
    }
}

/// Puts a policy in place of the one that there is. Clusters are neither made nor deleted by it; those that it does not say
/// anything of stay as they are.
fn replace(policy: &mut PolicyDocument, new: &PolicyDocument) -> Answer<()> {
    let mut clusters = std::mem::take(&mut policy.clusters);
    let places = clusters.iter().zip(0..).map(|(cluster, place)| (cluster.id.clone(), place));
    let places: HashMap<ClusterId, usize> = places.collect();
    for (number, cluster) in new.clusters.iter().enumerate() {
        let missing = || {
            let text = format!(
                "there is no cluster {:?} with the id {}; make it with `ztka cluster create`, or correct name and id",
                cluster.name, cluster.id
            );
            ApiError::invalid(text).at(format!("/clusters/{number}/id"))
        };
        let place = *places.get(&cluster.id).ok_or_else(missing)?;
        let known = clusters.get_mut(place).filter(|known| known.name == cluster.name);
        *known.ok_or_else(missing)? = cluster.clone();
    }
    *policy = PolicyDocument { clusters, ..new.clone() };
    Ok(())
}

pub(super) async fn write(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
    Json(new): Json<PolicyDocument>,
) -> Answer<Json<PolicyChanged>> {
    let WriteQuery { dry_run } = query(asked.as_deref())?;
    // By itself first, so that what is wrong is said of the policy that was sent, not of what it becomes.
    new.validate().map_err(|invalid| ApiError::invalid(invalid.to_string()).at(invalid.pointer()))?;
    let expecting = expected.of_policy(dry_run);
    let apply = move |policy: &mut PolicyDocument| replace(policy, &new);
    let changed = controller.change_policy(&caller, &org, "apply", expecting, apply).await?;
    let permissions = if dry_run { permissions(&org, &changed).await? } else { None };
    Ok(Json(wire_change(&changed, dry_run, permissions)?))
}

pub(super) async fn roll_back(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path(org): Path<OrgId>,
    Json(asked): Json<RollBack>,
) -> Answer<Json<PolicyChanged>> {
    let RollBack { version, dry_run } = asked;
    let old = controller.policy_at(&org, version).await?;
    let (act, expecting) = (format!("rollback {version}"), expected.of_policy(dry_run));
    let put_back = move |policy: &mut PolicyDocument| replace(policy, &old);
    let changed = controller.change_policy(&caller, &org, &act, expecting, put_back).await?;
    let permissions = if dry_run { permissions(&org, &changed).await? } else { None };
    Ok(Json(wire_change(&changed, dry_run, permissions)?))
}

pub(super) async fn history(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<Vec<PolicyVersion>>> {
    let PolicyHistoryQuery { before, limit } = query(asked.as_deref())?;
    let limit = limit.unwrap_or(ENTRIES).clamp(1, ENTRIES);
    let versions = controller.0.stores.policy.policy_history(&org, before, limit).await?;
    let mut names: HashMap<UserId, Option<UserName>> = HashMap::new();
    let mut listed = Vec::with_capacity(versions.len());
    for version in versions {
        if let Some(author) = version.author.as_ref().filter(|author| !names.contains_key(author)) {
            let user = controller.directory().store().user(author).await?;
            names.insert(author.clone(), user.map(|user| user.name));
        }
        let author_name = version.author.as_ref().and_then(|author| names.get(author).cloned().flatten());
        listed.push(PolicyVersion {
            version: version.version,
            at: version.at,
            author: version.author,
            author_name,
            act: version.act,
            count: version.edits,
            objects: version.first.into_iter().map(wire_object).collect(),
        });
    }
    Ok(Json(listed))
}

/// A question, and the policy that it is put to.
struct Asked {
    org: OrgId,
    policy: Arc<Known>,
    cluster: ClusterId,
    question: Question,
}

impl Asked {
    /// What `put` makes of it, on a thread that may take its time.
    async fn answer<T: Send + 'static>(
        self,
        put: impl FnOnce(&PolicySet, &ClusterId, &Question) -> T + Send + 'static,
    ) -> Answer<T> {
        let asked = tokio::task::spawn_blocking(move || {
            self.policy.compiled(&self.org).map(|policy| put(policy, &self.cluster, &self.question))
        });
        asked.await.map_err(ApiError::failed)?.map_err(|invalid| {
            StoreError::Refused(format!("{invalid}; until that is corrected the policy before is in force")).into()
        })
    }
}

impl Controller {
    async fn asked(&self, org: &OrgId, cluster: &str, question: &str) -> Answer<Asked> {
        let question = question.parse().map_err(|invalid: ztka_authz::tools::InvalidQuestion| {
            ApiError::invalid(invalid.to_string()).at("/question")
        })?;
        let policy = self.policy(org).await?;
        let mut clusters = policy.document.clusters.iter();
        let known = clusters.find(|known| known.name == cluster || known.id.as_str() == cluster);
        let cluster = known.map(|known| known.id.clone()).ok_or_else(|| ApiError::not_found("cluster", cluster))?;
        Ok(Asked { org: org.clone(), policy, cluster, question })
    }

    /// A user as a session of theirs would name them now.
    pub(crate) async fn principal(&self, user: &ztka_identity::User) -> Result<Principal, StoreError> {
        let groups = self.directory().store().groups_of(&user.id).await?;
        let session = Session {
            user: user.id.clone(),
            credential: "none".parse().map_err(StoreError::unavailable)?,
            name: user.name.clone(),
            groups,
            attributes: user.attributes.clone(),
            active_until: jiff::Timestamp::MAX,
        };
        Ok(Principal::new(user.org.clone(), session))
    }
}

pub(super) async fn explain(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<AskPolicy>,
) -> Answer<Json<PolicyAnswer>> {
    let AskPolicy { user, cluster, question, source, at } = asked;
    let user = controller.directory().store().user_named(&org, &user).await?;
    let user = user.ok_or_else(|| ApiError::not_found("user", "of this name"))?;
    let who = controller.principal(&user).await?;
    let now = at.unwrap_or_else(|| controller.now());
    let why = controller.asked(&org, &cluster, &question).await?.answer(move |policy, cluster, question| {
        let facts = Facts::at(now).from_source(source);
        let command = question.command();
        let facts = if command.is_empty() { facts } else { facts.running(&command) };
        policy.explain(&who, cluster, &question.action(), &facts)
    });
    let why = why.await?;
    Ok(Json(PolicyAnswer { allowed: why.allowed, decision: why.decision.clone(), explanation: why.to_string() }))
}

pub(super) async fn who_can(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<ztka_api::AskWhoCan>,
) -> Answer<Json<Vec<WhoCan>>> {
    let ztka_api::AskWhoCan { cluster, question, source, at } = asked;
    let now = at.unwrap_or_else(|| controller.now());
    let users = controller.directory().store().users(&org).await?.into_iter();
    let attributes: HashMap<UserName, Attributes> = users.map(|user| (user.name, user.attributes)).collect();
    let found = controller.asked(&org, &cluster, &question).await?.answer(move |policy, cluster, question| {
        let facts = Facts::at(now).from_source(source);
        let command = question.command();
        let facts = if command.is_empty() { facts } else { facts.running(&command) };
        policy.who_can_of(&attributes, cluster, &question.action(), &facts)
    });
    let wire = |one: ztka_authz::tools::WhoCan| WhoCan {
        subject: match one.subject {
            Subject::User(name) => ztka_api::Subject::User(name),
            Subject::Group(name) => ztka_api::Subject::Group(name),
        },
        binding: one.binding,
        role: one.role,
    };
    Ok(Json(found.await?.into_iter().map(wire).collect()))
}
