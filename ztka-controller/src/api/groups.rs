//! Groups and their members.

use std::collections::HashMap;

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use ztka_api::{CreateGroup, Group, Member};
use ztka_core::{GroupName, OrgId, UserId, UserName};
use ztka_identity::Caller;

use super::{
    answer::{Answer, Created, Json},
    paging::Paging,
    precondition::Expected,
};
use crate::Controller;

pub(super) async fn list(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let groups = controller.0.stores.pages.groups_page(&org, paging.page()).await?;
    let users = controller.directory().store().users(&org).await?;
    let names: HashMap<UserId, UserName> = users.into_iter().map(|user| (user.id, user.name)).collect();
    let wire = |group: ztka_identity::Group| {
        let member = |id: UserId| names.get(&id).cloned().map(|name| Member { id, name });
        let mut members: Vec<_> = group.members.into_iter().filter_map(member).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Group { name: group.name, members }
    };
    Ok(paging.answer(groups.map(wire)))
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateGroup>,
) -> Answer<Created<Group>> {
    controller.directory().create_group(&org, &asked.name).await?;
    Ok(Created(Group { name: asked.name, members: Vec::new() }))
}

pub(super) async fn add(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, group, user)): Path<(OrgId, GroupName, UserId)>,
) -> Answer<StatusCode> {
    controller.may_fill(&caller, &org, &group).await?;
    expected.directory(&controller).store().add_member(&org, &group, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, group, user)): Path<(OrgId, GroupName, UserId)>,
) -> Answer<StatusCode> {
    controller.may_fill(&caller, &org, &group).await?;
    expected.directory(&controller).store().remove_member(&org, &group, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}
