//! Proxies and their join tokens.

use axum::extract::State;
use jiff::SignedDuration;
use ztka_api::{CreateToken, EnrolmentToken, Proxy};
use ztka_core::ProxyId;
use ztka_pki::Enrollee;

use super::answer::{Answer, ApiError, Created, Json};
use crate::{Controller, store};

/// Life of a token that was not asked for otherwise: an hour.
const DEFAULT: u32 = 3600;
/// A week.
const LONGEST: u32 = 7 * 24 * 3600;

impl Controller {
    /// Makes a one-time token, of which the store keeps a hash.
    pub(super) async fn token(&self, enrollee: Enrollee, ttl_seconds: Option<u32>) -> Answer<EnrolmentToken> {
        let ttl = ttl_seconds.unwrap_or(DEFAULT);
        if !(1..=LONGEST).contains(&ttl) {
            return Err(ApiError::invalid("a token lives between a second and a week; ask for less"));
        }
        if let Enrollee::Agent { org, .. } = &enrollee {
            self.0.authorities.ensure_org(org).await.map_err(ApiError::failed)?;
        }
        let proxy = match &enrollee {
            Enrollee::Proxy { proxy } => Some(proxy.clone()),
            Enrollee::Agent { .. } => None,
        };
        let pin = self.hierarchy().pin();
        let life = SignedDuration::from_secs(ttl.into());
        let made = ztka_pki::EnrolmentToken::generate(enrollee, pin, self.now(), life);
        let (token, record) = made.map_err(ApiError::failed)?;
        let expires = record.expires;
        self.0.stores.enrolment.add_token(record).await.map_err(ApiError::failed)?;
        let enrol_at = self.0.settings.enrol_at.clone();
        Ok(EnrolmentToken { token: token.to_text().to_string(), expires, enrol_at, proxy })
    }
}

pub(super) async fn list(State(controller): State<Controller>) -> Answer<Json<Vec<Proxy>>> {
    let proxies = controller.0.stores.resources.proxies().await?;
    let wire = |proxy: store::Proxy| Proxy { id: proxy.id, created: proxy.created, not_after: proxy.not_after };
    Ok(Json(proxies.into_iter().map(wire).collect()))
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Json(asked): Json<CreateToken>,
) -> Answer<Created<EnrolmentToken>> {
    let proxy = store::Proxy { id: ProxyId::generate(), created: controller.now(), not_after: None };
    controller.0.stores.resources.create_proxy(&proxy).await?;
    Ok(Created(controller.token(Enrollee::Proxy { proxy: proxy.id }, asked.ttl_seconds).await?))
}
