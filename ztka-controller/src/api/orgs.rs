//! Organisations.

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::SignedDuration;
use ztka_api::{CreateOrg, Deletion, Org, UpdateOrg};
use ztka_core::OrgId;
use ztka_identity::Caller;

use super::{
    answer::{Answer, ApiError, Created, Json},
    paging::Paging,
    precondition::Expected,
};
use crate::{Controller, store::Paged};

pub(super) fn wire(org: ztka_identity::Org) -> Org {
    let longest = org.longest_credential.and_then(|longest| u32::try_from(longest.as_secs()).ok());
    Org { id: org.id, name: org.name, created: org.created, longest_credential_seconds: longest }
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    paging: Paging,
) -> Answer<Response> {
    let orgs = match caller.is_system_admin() {
        true => controller.0.stores.pages.orgs_page(paging.page()).await?,
        false => {
            let own = controller.directory().store().org(&caller.user.org).await?;
            Paged { items: own.into_iter().collect(), next: None }
        }
    };
    Ok(paging.answer(orgs.map(wire)))
}

pub(super) async fn create(State(controller): State<Controller>, Json(asked): Json<CreateOrg>) -> Answer<Created<Org>> {
    let org = controller.directory().create_org(asked.name).await?;
    // Made again when they are needed, should this fail.
    controller.0.authorities.ensure_org(&org.id).await.map_err(ApiError::failed)?;
    Ok(Created(wire(org)))
}

pub(super) async fn update(
    State(controller): State<Controller>,
    expected: Expected,
    Path(org): Path<OrgId>,
    Json(asked): Json<UpdateOrg>,
) -> Answer<Json<Org>> {
    let longest = asked.longest_credential_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
    expected.directory(&controller).limit_credentials(&org, longest).await?;
    let changed = controller.directory().store().org(&org).await?;
    Ok(Json(wire(changed.ok_or_else(|| ApiError::not_found("organisation", &org))?)))
}

/// Cuts it off at once; what it has is removed afterwards.
pub(super) async fn delete(
    State(controller): State<Controller>,
    expected: Expected,
    Path(org): Path<OrgId>,
) -> Answer<StatusCode> {
    controller.record_authorities(&org).await?;
    expected.directory(&controller).store().delete_org(&org, controller.now()).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn deletions(State(controller): State<Controller>, paging: Paging) -> Answer<Response> {
    let wire = |deletion: crate::store::Deletion| Deletion {
        org: deletion.org,
        since: deletion.since,
        finished: deletion.finished,
        removed: deletion.removed,
        failed: deletion.failed,
    };
    let deletions = controller.0.stores.pages.deletions_page(paging.page()).await?;
    Ok(paging.answer(deletions.map(wire)))
}
