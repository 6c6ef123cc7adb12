//! Users.

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use ztka_api::{AdminRole, Code, CreateUser, UpdateUser, User, WhoAmI};
use ztka_core::{OrgId, UserId};
use ztka_identity::Caller;

use super::{
    answer::{Answer, ApiError, Created, Json},
    attributes,
    guard::Noted,
    orgs,
    paging::Paging,
    precondition::Expected,
};
use crate::{Controller, store::Paged};

fn role(admin: ztka_identity::AdminRole) -> AdminRole {
    match admin {
        ztka_identity::AdminRole::SystemAdmin => AdminRole::SystemAdmin,
        ztka_identity::AdminRole::OrgAdmin => AdminRole::OrgAdmin,
    }
}

/// Somebody else may change the same user meanwhile so often.
const ATTEMPTS: usize = 8;

impl Controller {
    /// The user, if they are of this organisation.
    pub(super) async fn user_of(&self, org: &OrgId, id: &UserId) -> Answer<ztka_identity::User> {
        let found = self.directory().store().user(id).await?.filter(|user| user.org == *org);
        found.ok_or_else(|| ApiError::not_found("user", id))
    }

    async fn wire_user(&self, user: ztka_identity::User) -> Answer<User> {
        let groups = self.directory().store().groups_of(&user.id).await?;
        Ok(User {
            id: user.id,
            org: user.org,
            name: user.name,
            admin: user.admin.map(role),
            groups,
            attributes: user.attributes,
            disabled: user.disabled,
            created: user.created,
        })
    }
}

pub(super) async fn whoami(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<WhoAmI>> {
    let org = controller.directory().store().org(&caller.user.org).await?;
    let org = orgs::wire(org.ok_or_else(|| ApiError::not_found("organisation", &caller.user.org))?);
    let user = controller.wire_user(caller.user).await?;
    Ok(Json(WhoAmI { user, org, credential: caller.credential.id, active_until: caller.active_until }))
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let Paged { items, next } = controller.0.stores.pages.users_page(&org, paging.page()).await?;
    let mut listed = Vec::with_capacity(items.len());
    for user in items {
        listed.push(controller.wire_user(user).await?);
    }
    Ok(paging.answer(Paged { items: listed, next }))
}

/// Owners are made, disabled and enabled by owners alone, and so are their credentials.
pub(super) fn need_owner(caller: &Caller, org: &OrgId, needed: bool) -> Answer<()> {
    match needed && !caller.administers(org) {
        true => {
            let text = "only an owner of the organisation makes, disables or enables another one, or revokes their credentials";
            Err(ApiError::new(Code::Forbidden, text, "ask one, who was made with `--admin org`"))
        }
        false => Ok(()),
    }
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateUser>,
) -> Answer<Created<User>> {
    need_owner(&caller, &org, asked.admin.is_some())?;
    let admin = asked.admin.map(|admin| match admin {
        AdminRole::SystemAdmin => ztka_identity::AdminRole::SystemAdmin,
        AdminRole::OrgAdmin => ztka_identity::AdminRole::OrgAdmin,
    });
    let user = controller.directory().create_user(&org, asked.name, admin).await?;
    Ok(Created(controller.wire_user(user).await?))
}

pub(super) async fn read(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, UserId)>,
) -> Answer<Json<User>> {
    let user = controller.user_of(&org, &id).await?;
    Ok(Json(controller.wire_user(user).await?))
}

pub(super) async fn update(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, id)): Path<(OrgId, UserId)>,
    Json(UpdateUser { attributes: changes }): Json<UpdateUser>,
) -> Answer<(Extension<Noted>, Json<User>)> {
    attributes::validate(&changes)?;
    for _ in 0..ATTEMPTS {
        let user = controller.user_of(&org, &id).await?;
        let after = attributes::changed(user.attributes.clone(), &changes);
        controller.may_describe(&caller, &org, &user, &after).await?;
        // What was looked at a moment ago is what is changed.
        if expected.directory(&controller).describe(&user.id, &user.attributes, &after).await? {
            let user = controller.wire_user(ztka_identity::User { attributes: after, ..user }).await?;
            return Ok((Extension(Noted("attributes", attributes::told(&changes))), Json(user)));
        }
    }
    Err(ApiError::new(Code::Changed, "others change the attributes of this user all the time", "try again"))
}

pub(super) async fn disable(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, id)): Path<(OrgId, UserId)>,
) -> Answer<StatusCode> {
    let user = controller.user_of(&org, &id).await?;
    need_owner(&caller, &org, user.admin.is_some())?;
    expected.directory(&controller).disable(&user.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn enable(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, id)): Path<(OrgId, UserId)>,
) -> Answer<StatusCode> {
    let user = controller.user_of(&org, &id).await?;
    need_owner(&caller, &org, user.admin.is_some())?;
    expected.directory(&controller).enable(&user.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
