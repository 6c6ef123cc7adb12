//! One-time tokens: made, listed, revoked, and their keys approved.

use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ztka_api::{CreateToken, EnrolmentToken, Token, TokenState};
use ztka_core::{ClusterId, KeyId, OrgId, Subject};
use ztka_identity::StoreError;
use ztka_pki::{Enrollee, TokenId, TokenRecord, Verdict};

use super::answer::{Answer, ApiError, Created, Json};
use crate::Controller;

/// Life of a token that was not asked for otherwise: an hour.
const DEFAULT: u32 = 3600;
/// A week.
const LONGEST: u32 = 7 * 24 * 3600;
/// Ranges of addresses of one token.
const SOURCES: usize = 64;

/// What cannot be a token is told before anything is made for it.
pub(super) fn validate(asked: &CreateToken) -> Answer<()> {
    if !(1..=LONGEST).contains(&asked.ttl_seconds.unwrap_or(DEFAULT)) {
        return Err(ApiError::invalid("a token lives between a second and a week; ask for less"));
    }
    if asked.sources.len() > SOURCES {
        return Err(ApiError::invalid("a token has at most 64 ranges of addresses; ask for fewer, wider ones"));
    }
    Ok(())
}

/// A key is named by 64 hexadecimal digits, as [`KeyId`] writes them.
pub(super) fn key(text: &str) -> Option<KeyId> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 64 && text.bytes().all(hex)).then(|| KeyId(text.into()))
}

fn state(record: &TokenRecord, now: Timestamp) -> TokenState {
    let spent = record.spent.as_ref();
    match record.verdict {
        Some(Verdict::Refused) => TokenState::Refused,
        _ if spent.is_some_and(|spent| spent.chain.is_some()) => match record.revoked {
            Some(_) => TokenState::Revoked,
            None => TokenState::Spent,
        },
        _ if record.revoked.is_some() => TokenState::Revoked,
        _ if record.expires <= now => TokenState::Expired,
        _ if spent.is_none() => TokenState::Unused,
        None if record.approval => TokenState::Waiting,
        Some(Verdict::Approved) => TokenState::Approved,
        None => TokenState::Spent,
    }
}

fn wire(record: TokenRecord, now: Timestamp) -> Token {
    let state = state(&record, now);
    let TokenRecord { id, created, expires, sources, approval, spent, .. } = record;
    let (key, instance) = match spent.map(|spent| (spent.key, spent.subject)) {
        Some((key, Subject::Agent { instance, .. })) => (Some(key), Some(instance)),
        Some((key, _)) => (Some(key), None),
        None => (None, None),
    };
    Token { id: id.into(), state, created, expires, sources, approval, key, instance }
}

impl Controller {
    /// Makes a one-time token, of which the store keeps a hash.
    pub(super) async fn token(&self, enrollee: Enrollee, asked: CreateToken) -> Answer<EnrolmentToken> {
        validate(&asked)?;
        if let Enrollee::Agent { org, .. } = &enrollee {
            self.0.authorities.ensure_org(org).await.map_err(ApiError::failed)?;
        }
        let proxy = match &enrollee {
            Enrollee::Proxy { proxy } => Some(proxy.clone()),
            Enrollee::Agent { .. } => None,
        };
        let pin = self.hierarchy().pin();
        let life = SignedDuration::from_secs(asked.ttl_seconds.unwrap_or(DEFAULT).into());
        let made = ztka_pki::EnrolmentToken::generate(enrollee, pin, self.now(), life);
        let (token, record) = made.map_err(ApiError::failed)?;
        let (id, expires) = (record.id.to_string(), record.expires);
        let record = TokenRecord { sources: asked.sources, approval: asked.approval, ..record };
        self.0.stores.enrolment.add_token(record).await.map_err(ApiError::failed)?;
        let enrol_at = self.0.settings.enrol_at.clone();
        Ok(EnrolmentToken { id, token: token.to_text().to_string(), expires, enrol_at, proxy })
    }

    /// The token of this id, if it is one of the cluster's.
    async fn token_of(&self, org: &OrgId, cluster: &ClusterId, id: &TokenId) -> Answer<TokenRecord> {
        let cluster = self.cluster_of(org, cluster).await?.id;
        let found = self.0.stores.enrolment.token(id).await.map_err(ApiError::failed)?;
        let enrollee = Enrollee::Agent { org: org.clone(), cluster };
        found.filter(|record| record.enrollee == enrollee).ok_or_else(|| ApiError::not_found("token", id))
    }

    async fn decide(
        &self,
        (org, cluster, token, key): (OrgId, ClusterId, TokenId, KeyId),
        verdict: Verdict,
    ) -> Answer<StatusCode> {
        let refused = |text: &str| Err(ApiError::from(StoreError::Refused(text.into())));
        let record = self.token_of(&org, &cluster, &token).await?;
        if record.expires <= self.now() {
            return refused("the token has expired; make a new one");
        }
        match self.0.stores.enrolment.decide(&token, &key, verdict).await.map_err(ApiError::failed)? {
            Some(said) if said == verdict => Ok(StatusCode::NO_CONTENT),
            Some(Verdict::Approved) => refused("the key has been approved already; delete the cluster's agent instead"),
            Some(Verdict::Refused) => refused("the key has been refused, which is final; make a new token"),
            None => refused("no such key waits for approval by this token; list the tokens and compare the key"),
        }
    }
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, ClusterId)>,
) -> Answer<Json<Vec<Token>>> {
    let cluster = controller.cluster_of(&org, &id).await?.id;
    let tokens = controller.0.stores.enrolment.tokens(&Enrollee::Agent { org, cluster }).await;
    let now = controller.now();
    Ok(Json(tokens.map_err(ApiError::failed)?.into_iter().map(|record| wire(record, now)).collect()))
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, ClusterId)>,
    Json(asked): Json<CreateToken>,
) -> Answer<Created<EnrolmentToken>> {
    let cluster = controller.cluster_of(&org, &id).await?.id;
    Ok(Created(controller.token(Enrollee::Agent { org, cluster }, asked).await?))
}

pub(super) async fn revoke(
    State(controller): State<Controller>,
    Path((org, cluster, token)): Path<(OrgId, ClusterId, TokenId)>,
) -> Answer<StatusCode> {
    let record = controller.token_of(&org, &cluster, &token).await?;
    controller.0.stores.enrolment.revoke_token(&record.id, controller.now()).await.map_err(ApiError::failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The parameters of a path that names a key.
type OfKey = Path<(OrgId, ClusterId, TokenId, KeyId)>;

pub(super) async fn approve(State(controller): State<Controller>, Path(named): OfKey) -> Answer<StatusCode> {
    controller.decide(named, Verdict::Approved).await
}

pub(super) async fn refuse(State(controller): State<Controller>, Path(named): OfKey) -> Answer<StatusCode> {
    controller.decide(named, Verdict::Refused).await
}
