//! The keys that what is stored is sealed under: looked at, and replaced.

use axum::extract::{Path, State};
use http::StatusCode;
use ztka_api::{DataKey, DataKeys, MasterKey, MasterKeys};
use ztka_core::OrgId;

use super::answer::{Answer, ApiError, Created, Json};
use crate::{
    Controller,
    store::{JobKind, StoreError},
};

impl Controller {
    /// How far a job is: what it has dealt with, and why it could not go on.
    async fn progress(&self, kind: JobKind, subject: &str) -> Answer<Option<ztka_api::Progress>> {
        let jobs = self.0.stores.jobs.jobs().await?;
        let job = jobs.into_iter().find(|job| job.kind == kind && job.subject == subject);
        Ok(job.map(|job| ztka_api::Progress { since: job.created, done: job.done, failed: job.failed }))
    }

    async fn data_keys(&self, org: &OrgId) -> Answer<DataKeys> {
        let keys = self.0.stores.jobs.data_keys(Some(org)).await?;
        let wire = |key: crate::store::DataKey| DataKey { created: key.created, master: key.master };
        let sealing = self.progress(JobKind::Seal, org.as_str()).await?;
        Ok(DataKeys { keys: keys.into_iter().map(wire).collect(), sealing })
    }

    async fn master_keys(&self) -> Answer<MasterKeys> {
        let keys = self.0.stores.jobs.master_keys().await?;
        let wire = |key: crate::store::MasterKey| MasterKey {
            id: key.id,
            current: key.current,
            configured: key.configured,
            data_keys: key.data_keys,
        };
        let rewrapping = self.progress(JobKind::Rewrap, "").await?;
        Ok(MasterKeys { keys: keys.into_iter().map(wire).collect(), rewrapping })
    }
}

pub(super) async fn list(State(controller): State<Controller>, Path(org): Path<OrgId>) -> Answer<Json<DataKeys>> {
    Ok(Json(controller.data_keys(&org).await?))
}

/// What is written from now on is under a new data key; what there is follows by itself.
pub(super) async fn rotate(State(controller): State<Controller>, Path(org): Path<OrgId>) -> Answer<Created<DataKeys>> {
    if controller.progress(JobKind::Seal, org.as_str()).await?.is_some() {
        let message = "the data key was replaced a short while ago, and what is under the one before is still being sealed; \
                       wait until that is done";
        return Err(ApiError::from(StoreError::Refused(message.into())));
    }
    controller.0.stores.jobs.rotate_data_key(Some(&org), controller.now()).await?;
    Ok(Created(controller.data_keys(&org).await?))
}

pub(super) async fn masters(State(controller): State<Controller>) -> Answer<Json<MasterKeys>> {
    Ok(Json(controller.master_keys().await?))
}

/// Data keys that are under another master key than the current one are wrapped anew, beginning now.
pub(super) async fn rewrap(State(controller): State<Controller>) -> Answer<(StatusCode, Json<MasterKeys>)> {
    controller.0.stores.jobs.rewrap(controller.now()).await?;
    Ok((StatusCode::ACCEPTED, Json(controller.master_keys().await?)))
}
