//! Organisations.

use axum::{Extension, extract::State};
use ztka_api::{CreateOrg, Org};
use ztka_identity::Caller;

use super::answer::{Answer, ApiError, Created, Json};
use crate::Controller;

pub(super) fn wire(org: ztka_identity::Org) -> Org {
    Org { id: org.id, name: org.name, created: org.created }
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Vec<Org>>> {
    let store = controller.directory().store();
    let orgs = match caller.is_system_admin() {
        true => store.orgs().await?,
        false => store.org(&caller.user.org).await?.into_iter().collect(),
    };
    Ok(Json(orgs.into_iter().map(wire).collect()))
}

pub(super) async fn create(State(controller): State<Controller>, Json(asked): Json<CreateOrg>) -> Answer<Created<Org>> {
    let org = controller.directory().create_org(asked.name).await?;
    // Made again when they are needed, should this fail.
    controller.0.authorities.ensure_org(&org.id).await.map_err(ApiError::failed)?;
    Ok(Created(wire(org)))
}
