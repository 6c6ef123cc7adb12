//! Proxies.

use axum::{extract::State, response::Response};
use ztka_api::{CreateToken, EnrolmentToken, Proxy};
use ztka_core::ProxyId;
use ztka_pki::{Enrollee, RenewalStatus};

use super::{
    answer::{Answer, ApiError, Created, Json},
    paging::Paging,
    tokens,
};
use crate::{Controller, store};

pub(super) async fn list(State(controller): State<Controller>, paging: Paging) -> Answer<Response> {
    let proxies = controller.0.stores.pages.proxies_page(paging.page()).await?;
    let now = controller.now();
    let wire = |proxy: store::Proxy| {
        let store::Proxy { id, created, not_after, renewed } = proxy;
        let status = renewed.zip(not_after).map(|(issued, not_after)| RenewalStatus::new(issued, not_after, now));
        Proxy { id, created, not_after, renewed, overdue: status.is_some_and(|status| status.overdue) }
    };
    Ok(paging.answer(proxies.map(wire)))
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Json(asked): Json<CreateToken>,
) -> Answer<Created<EnrolmentToken>> {
    if asked.approval {
        return Err(ApiError::invalid("tokens of proxies are not approved; ask for one without approval"));
    }
    tokens::validate(&asked)?;
    let proxy = store::Proxy { id: ProxyId::generate(), created: controller.now(), not_after: None, renewed: None };
    controller.0.stores.resources.create_proxy(&proxy).await?;
    Ok(Created(controller.token(Enrollee::Proxy { proxy: proxy.id }, asked).await?))
}
