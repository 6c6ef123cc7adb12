//! Clusters and the enrolment of their agents.

use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use ztka_api::{Cluster, CreateCluster, CreateManifest, CreateToken, Instance};
use ztka_core::{ClusterId, OrgId};
use ztka_identity::Caller;
use ztka_pki::{Enrollee, RenewalStatus};

use super::{
    answer::{Answer, ApiError, Created, Json},
    labels,
    paging::Paging,
    precondition::Expected,
};
use crate::{
    Controller, manifest,
    store::{self, Paged},
};

impl Controller {
    /// The TLS server name of a cluster.
    pub(super) fn server_name(&self, cluster: &ClusterId) -> String {
        format!("{cluster}.kube.{}", self.domain())
    }

    pub(super) async fn cluster_of(&self, org: &OrgId, id: &ClusterId) -> Answer<store::Cluster> {
        let found = self.0.stores.resources.cluster(id).await?.filter(|cluster| cluster.org == *org);
        found.ok_or_else(|| ApiError::not_found("cluster", id))
    }

    /// A page of the clusters that somebody may see, which says nothing of those that they may not.
    async fn seen_page(&self, org: &OrgId, caller: &Caller, paging: &Paging) -> Answer<Paged<store::Cluster>> {
        // By name, as the whole list is.
        let visible = self.visible(&caller.user).await?;
        let Paged { items, next } = paging.part_of(visible, |cluster| &cluster.name);
        let mut clusters = Vec::with_capacity(items.len());
        for seen in items {
            // What was deleted meanwhile is left out.
            let found = self.0.stores.resources.cluster(&seen.id).await?;
            clusters.extend(found.filter(|cluster| cluster.org == *org));
        }
        Ok(Paged { items: clusters, next })
    }

    async fn wire_cluster(&self, cluster: store::Cluster) -> Answer<Cluster> {
        let instances = self.0.stores.resources.instances(&cluster.id, self.now()).await?;
        let now = self.now();
        let wire = |instance: store::Instance| {
            let store::Instance { id, not_after, renewed, .. } = instance;
            let overdue = renewed.is_some_and(|issued| RenewalStatus::new(issued, not_after, now).overdue);
            Instance { id, not_after, renewed, overdue }
        };
        Ok(Cluster {
            server_name: self.server_name(&cluster.id),
            id: cluster.id,
            name: cluster.name,
            labels: cluster.labels,
            created: cluster.created,
            instances: instances.into_iter().map(wire).collect(),
        })
    }
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    let Paged { items: clusters, next } = match caller.administers(&org) {
        true => controller.0.stores.pages.clusters_page(&org, paging.page()).await?,
        false => controller.seen_page(&org, &caller, &paging).await?,
    };
    let mut listed = Vec::with_capacity(clusters.len());
    for cluster in clusters {
        listed.push(controller.wire_cluster(cluster).await?);
    }
    Ok(paging.answer(Paged { items: listed, next }))
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<CreateCluster>,
) -> Answer<Created<Cluster>> {
    if org == OrgId::installation() {
        let message = "the organisation \"installation\" has administrators only; create the cluster in another one";
        return Err(ApiError::invalid(message));
    }
    labels::validate(&asked.labels)?;
    if !asked.labels.is_empty() && !caller.administers(&org) {
        // Whom the labels give something is looked at where they are set.
        let text = "only an owner of the organisation makes a cluster with labels";
        let action = "make it without, then set its labels by `PUT …/policy/clusters/{cluster}`";
        return Err(ApiError::new(ztka_api::Code::Forbidden, text, action));
    }
    let cluster = store::Cluster {
        id: ClusterId::generate(),
        org,
        name: asked.name,
        labels: asked.labels,
        created: controller.now(),
    };
    controller.0.stores.resources.create_cluster(&cluster).await?;
    Ok(Created(controller.wire_cluster(cluster).await?))
}

pub(super) async fn read(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, ClusterId)>,
) -> Answer<Json<Cluster>> {
    let cluster = controller.cluster_of(&org, &id).await?;
    Ok(Json(controller.wire_cluster(cluster).await?))
}

pub(super) async fn delete(
    State(controller): State<Controller>,
    expected: Expected,
    Path((org, id)): Path<(OrgId, ClusterId)>,
) -> Answer<StatusCode> {
    expected.resources(&controller).delete_cluster(&org, &id, controller.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn create_manifest(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, ClusterId)>,
    Json(asked): Json<CreateManifest>,
) -> Answer<Response> {
    let cluster = controller.cluster_of(&org, &id).await?.id;
    manifest::validate(&asked).map_err(ApiError::invalid)?;
    let policy = controller.policy(&org).await?;
    let access =
        Controller::agent_access(&asked, &policy.document).map_err(|error| ApiError::invalid(error.to_string()))?;
    let CreateManifest { ttl_seconds, approval, .. } = asked;
    let wanted = CreateToken { ttl_seconds, sources: asked.sources.clone(), approval };
    let token = controller.token(Enrollee::Agent { org, cluster }, wanted).await?;
    let yaml = manifest::render(&controller.manifest(&asked, access, &token.token));
    let kind = [(header::CONTENT_TYPE, "application/yaml"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, kind, yaml).into_response())
}
