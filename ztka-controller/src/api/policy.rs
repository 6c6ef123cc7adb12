//! Roles and bindings, and every other object of a policy by itself.

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use ztka_api::{Binding, Code, CreateBinding, CreateRole, PolicyChanged, Role};
use ztka_authz::{Guardrails, PolicyDocument, Settings, builtin_roles};
use ztka_core::{BindingName, OrgId, RoleName};
use ztka_identity::{Caller, StoreError};

use super::{
    answer::{Answer, ApiError, Created, Json},
    paging::Paging,
    policy_whole::wire_change,
    precondition::Expected,
};
use crate::{
    Controller,
    policy::{Offices, put},
    store::{Paged, PolicyEdit, ResourceKind},
};

/// From the policy's own form to the wire's and back, which are the same JSON.
pub(super) fn convert<T: DeserializeOwned>(from: &impl Serialize) -> Answer<T> {
    let json = serde_json::to_value(from).map_err(ApiError::failed)?;
    serde_json::from_value(json).map_err(ApiError::failed)
}

fn wire_role(role: &ztka_authz::Role, built_in: bool) -> Answer<Role> {
    let name = role.name.parse().map_err(ApiError::failed)?;
    Ok(Role { name, rules: convert(&role.rules)?, read_only: role.read_only, built_in })
}

pub(super) async fn roles(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let Paged { items, next } = controller.0.stores.pages.roles_page(&org, paging.page()).await?;
    // Beside the first page, which they come before.
    let built_in = match paging.is_first() {
        true => builtin_roles(&controller.policy(&org).await?.document.settings),
        false => Vec::new(),
    };
    let built_in = built_in.iter().map(|role| wire_role(role, true));
    let stored = items.iter().map(|role| wire_role(role, false));
    Ok(paging.answer(Paged { items: built_in.chain(stored).collect::<Answer<Vec<_>>>()?, next }))
}

pub(super) async fn create_role(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateRole>,
) -> Answer<Created<Role>> {
    let (name, rules, read_only) = (asked.name.to_string(), convert(&asked.rules)?, asked.read_only);
    let role = ztka_authz::Role { name, rules, read_only };
    let act = format!("create role {}", asked.name);
    let made = role.clone();
    let created = controller.change_policy(&caller, &org, &act, expected.of_object(), move |policy| {
        if policy.roles.iter().any(|known| known.name == made.name) {
            return Err(StoreError::exists("role", &made.name).into());
        }
        policy.roles.push(made.clone());
        Ok(())
    });
    created.await.map_err(ApiError::of_one)?;
    Ok(Created(wire_role(&role, false)?))
}

pub(super) async fn delete_role(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, role)): Path<(OrgId, RoleName)>,
) -> Answer<StatusCode> {
    let act = format!("delete role {role}");
    let deleted = controller.change_policy(&caller, &org, &act, expected.of_object(), move |policy| {
        if let Some(binding) = policy.bindings.iter().find(|binding| binding.role == role.as_str()) {
            let message = format!("the binding {:?} gives the role \"{role}\"; delete the binding first", binding.name);
            return Err(StoreError::Refused(message).into());
        }
        let before = policy.roles.len();
        policy.roles.retain(|known| known.name != role.as_str());
        if policy.roles.len() == before { Err(ApiError::not_found("role", &role)) } else { Ok(()) }
    });
    deleted.await.map_err(ApiError::of_one)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn bindings(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let Paged { items, next } = match caller.administers(&org) {
        true => controller.0.stores.pages.bindings_page(&org, paging.page()).await?,
        false => {
            let (known, who) = (controller.policy(&org).await?, controller.principal(&caller.user).await?);
            let policy = &known.document;
            let offices = Offices::of(policy, &who, controller.now());
            let seen = policy.bindings.iter().filter(|binding| offices.sees(binding)).collect();
            paging.part_of(seen, |binding: &&ztka_authz::Binding| &binding.name).map(Clone::clone)
        }
    };
    let items = items.iter().map(convert::<Binding>).collect::<Answer<Vec<_>>>()?;
    Ok(paging.answer(Paged { items, next }))
}

pub(super) async fn create_binding(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateBinding>,
) -> Answer<Created<Binding>> {
    let binding = serde_json::to_value(&asked).map_err(ApiError::failed)?;
    let binding: ztka_authz::Binding = serde_json::from_value(binding)
        .map_err(|error| ApiError::invalid(format!("the binding is not what is expected: {error}; correct it")))?;
    let act = format!("create binding {}", asked.name);
    let made = binding.clone();
    let created = controller.change_policy(&caller, &org, &act, expected.of_object(), move |policy| {
        if policy.bindings.iter().any(|known| known.name == made.name) {
            return Err(StoreError::exists("binding", &made.name).into());
        }
        policy.bindings.push(made.clone());
        Ok(())
    });
    created.await.map_err(ApiError::of_one)?;
    Ok(Created(convert(&binding)?))
}

pub(super) async fn delete_binding(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, binding)): Path<(OrgId, BindingName)>,
) -> Answer<StatusCode> {
    let act = format!("delete binding {binding}");
    let deleted = controller.change_policy(&caller, &org, &act, expected.of_object(), move |policy| {
        match put(policy, ResourceKind::Binding, binding.as_str(), None).map_err(ApiError::failed)? {
            true => Ok(()),
            false => Err(ApiError::not_found("binding", &binding)),
        }
    });
    deleted.await.map_err(ApiError::of_one)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The word of a path for a kind of object.
pub(super) fn kind(word: &str) -> Option<ResourceKind> {
    Some(match word {
        "projects" => ResourceKind::Project,
        "clusters" => ResourceKind::Cluster,
        "groups" => ResourceKind::PolicyGroup,
        "roles" => ResourceKind::Role,
        "bindings" => ResourceKind::Binding,
        "denials" => ResourceKind::Denial,
        "guardrails" => ResourceKind::Guardrails,
        "settings" => ResourceKind::Settings,
        _ => return None,
    })
}

/// True of what can be the name of an object, or the id of a cluster.
pub(super) fn is_object(text: &str) -> bool {
    text.parse::<BindingName>().is_ok()
}

/// The kind and the name in a path; there is one object each of guardrails and settings.
fn object(word: &str, name: &str) -> Answer<ResourceKind> {
    let kind = kind(word).ok_or_else(|| ApiError::not_found("kind", word))?;
    match kind {
        ResourceKind::Guardrails | ResourceKind::Settings if name != PolicyEdit::ONE => {
            Err(ApiError::not_found(kind.as_str(), name))
        }
        kind => Ok(kind),
    }
}

/// False of what there is one of while it says nothing: then it is not stored.
fn is_there(policy: &PolicyDocument, kind: ResourceKind) -> bool {
    match kind {
        ResourceKind::Guardrails => policy.guardrails != Guardrails::default(),
        ResourceKind::Settings => policy.settings != Settings::default(),
        _ => true,
    }
}

fn gone(kind: ResourceKind, name: &str) -> ApiError {
    let text = format!("the {kind} {name:?} is not there any more, at whatever version");
    ApiError::new(Code::Changed, text, "look at the policy again; to make it anew, leave out the version")
}

pub(super) async fn put_object(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, word, name)): Path<(OrgId, String, String)>,
    Json(mut body): Json<Value>,
) -> Answer<Json<PolicyChanged>> {
    let kind = object(&word, &name)?;
    let Some(fields) = body.as_object_mut() else {
        return Err(ApiError::invalid("the body is no object; send one of this kind as a policy file has it"));
    };
    let own = match kind {
        ResourceKind::Guardrails | ResourceKind::Settings => None,
        ResourceKind::Cluster => Some("id"),
        _ => Some("name"),
    };
    if let Some(own) = own {
        let said = fields.entry(own).or_insert_with(|| name.clone().into());
        if *said != name {
            let text = format!("the body says {said}, and the path \"{name}\"; make a new object, and delete this one");
            return Err(ApiError::invalid(text).at(format!("/{own}")));
        }
    }
    let act = format!("put {kind} {name}");
    let expecting = expected.of_object();
    let changed = controller.change_policy(&caller, &org, &act, expecting, move |policy| {
        let mut body = body.clone();
        if kind == ResourceKind::Cluster {
            let known = policy.clusters.iter().find(|cluster| cluster.id.as_str() == name);
            let known = known.ok_or_else(|| ApiError::not_found("cluster", &name))?;
            if let Some(fields) = body.as_object_mut() {
                fields.insert("name".into(), known.name.clone().into());
            }
        }
        let known = is_there(policy, kind);
        let replaced = put(policy, kind, &name, Some(&body.to_string()))
            .map_err(|error| ApiError::invalid(format!("the {kind} is not what is expected: {error}; correct it")))?;
        // Whoever has seen a version of it means that one, and not to bring it back.
        match expecting.object.is_some() && !(known && replaced) {
            true => Err(gone(kind, &name)),
            false => Ok(()),
        }
    });
    let changed = changed.await.map_err(ApiError::of_one)?;
    Ok(Json(wire_change(&changed, false, None)?))
}

pub(super) async fn delete_object(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, word, name)): Path<(OrgId, String, String)>,
) -> Answer<StatusCode> {
    let kind = object(&word, &name)?;
    if kind == ResourceKind::Cluster {
        let text = "a cluster is not deleted by its policy; delete the cluster, or put one without labels in its place";
        return Err(ApiError::invalid(text));
    }
    let act = format!("delete {kind} {name}");
    let deleted = controller.change_policy(&caller, &org, &act, expected.of_object(), move |policy| {
        match put(policy, kind, &name, None).map_err(ApiError::failed)? {
            true => Ok(()),
            false => Err(ApiError::not_found(kind.as_str(), &name)),
        }
    });
    deleted.await.map_err(ApiError::of_one)?;
    Ok(StatusCode::NO_CONTENT)
}
