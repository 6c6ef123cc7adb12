//! How the installation's own certificates stand.

use axum::extract::State;
use ztka_api::{OwnCertificate, Status};

use super::answer::{Answer, Json};
use crate::{Controller, store::Overdue};

pub(super) async fn status(State(controller): State<Controller>) -> Answer<Json<Status>> {
    let Overdue { agents, proxies } = controller.0.stores.resources.overdue(controller.now()).await?;
    let certificates = controller.own_certificates().into_iter().map(|(name, status)| OwnCertificate {
        name: name.into(),
        renewed: status.issued,
        not_after: status.not_after,
        overdue: status.overdue,
    });
    let (certificates, findings) = (certificates.collect(), controller.findings_of_a_day().await?);
    Ok(Json(Status { certificates, overdue_agents: agents, overdue_proxies: proxies, findings }))
}
