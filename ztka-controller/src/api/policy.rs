//! Roles and bindings.

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use ztka_api::{Binding, CreateBinding, CreateRole, Role};
use ztka_authz::{PolicyDocument, Settings, builtin_roles};
use ztka_core::{BindingName, OrgId, RoleName};

use super::{
    answer::{Answer, ApiError, Created, Json},
    paging::Paging,
    precondition::Expected,
};
use crate::{Controller, store::Paged};

/// From the policy's own form to the wire's and back, which are the same JSON.
fn convert<T: DeserializeOwned>(from: &impl Serialize) -> Answer<T> {
    let json = serde_json::to_value(from).map_err(ApiError::failed)?;
    serde_json::from_value(json).map_err(ApiError::failed)
}

fn wire_role(role: &ztka_authz::Role, built_in: bool) -> Answer<Role> {
    let name = role.name.parse().map_err(ApiError::failed)?;
    Ok(Role { name, rules: convert(&role.rules)?, built_in })
}

pub(super) async fn roles(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let Paged { items, next } = controller.0.stores.pages.roles_page(&org, paging.page()).await?;
    // Beside the first page, which they come before.
    let built_in = if paging.is_first() { builtin_roles(&Settings::default()) } else { Vec::new() };
    let built_in = built_in.iter().map(|role| wire_role(role, true));
    let stored = items.iter().map(|role| wire_role(role, false));
    Ok(paging.answer(Paged { items: built_in.chain(stored).collect::<Answer<Vec<_>>>()?, next }))
}

pub(super) async fn create_role(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateRole>,
) -> Answer<Created<Role>> {
    if asked.rules.is_empty() {
        return Err(ApiError::invalid("a role without rules allows nothing; give it a rule"));
    }
    let role =
        ztka_authz::Role { name: asked.name.to_string(), rules: convert(&asked.rules)?, ..ztka_authz::Role::default() };
    let alone = PolicyDocument { roles: vec![role.clone()], ..PolicyDocument::default() };
    alone.validate().map_err(|error| ApiError::invalid(error.to_string()))?;
    controller.0.stores.resources.create_role(&org, &asked.name, &role).await?;
    Ok(Created(wire_role(&role, false)?))
}

pub(super) async fn delete_role(
    State(controller): State<Controller>,
    expected: Expected,
    Path((org, role)): Path<(OrgId, RoleName)>,
) -> Answer<StatusCode> {
    expected.resources(&controller).delete_role(&org, &role).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn bindings(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let Paged { items, next } = controller.0.stores.pages.bindings_page(&org, paging.page()).await?;
    let items = items.iter().map(convert::<Binding>).collect::<Answer<Vec<_>>>()?;
    Ok(paging.answer(Paged { items, next }))
}

pub(super) async fn create_binding(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateBinding>,
) -> Answer<Created<Binding>> {
    if asked.subjects.is_empty() {
        return Err(ApiError::invalid("a binding without subjects gives nothing; name a user or a group"));
    }
    let selector = &asked.clusters;
    if !selector.all && selector.ids.is_empty() && selector.names.is_empty() && selector.match_labels.is_none() {
        return Err(ApiError::invalid("the binding selects no cluster; use all, ids, names or matchLabels"));
    }
    let binding: ztka_authz::Binding = convert(&asked)?;
    let resources = &controller.0.stores.resources;
    let stored = resources.roles(&org).await?;
    let is_stored = stored.iter().any(|role| role.name == asked.role.as_str());
    let alone = PolicyDocument { roles: stored, bindings: vec![binding.clone()], ..PolicyDocument::default() };
    alone.validate().map_err(|error| ApiError::invalid(error.to_string()))?;
    resources.create_binding(&org, &asked.name, &binding, is_stored.then_some(&asked.role)).await?;
    Ok(Created(convert(&binding)?))
}

pub(super) async fn delete_binding(
    State(controller): State<Controller>,
    expected: Expected,
    Path((org, binding)): Path<(OrgId, BindingName)>,
) -> Answer<StatusCode> {
    expected.resources(&controller).delete_binding(&org, &binding).await?;
    Ok(StatusCode::NO_CONTENT)
}
