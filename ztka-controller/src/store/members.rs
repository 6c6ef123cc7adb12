//! What each member has confirmed, for rotations of certificate authorities to wait on, and what proxies have announced.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{ControllerId, CredentialId, KeyId, OrgId, ProxyEntry, ProxyId, Revision, Subject, UserId};
use ztka_pki::TokenId;

use super::StoreError;

/// What an agent or a proxy has confirmed last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acknowledgement {
    /// The `trust` document that it goes by.
    pub trust: Revision,
    /// The authorities of the certificate that it has said so with: the issuer first, the anchor last.
    pub authorities: Vec<KeyId>,
    /// What it presents to users above its certificate as a server, if it does; see
    /// [`TrustBundle::server_chain_id`](ztka_pki::TrustBundle::server_chain_id).
    pub server_chain: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// An agent or a proxy whose certificate is not over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LiveMember {
    /// Who.
    pub subject: Subject,
    /// When its newest certificate expires.
    pub not_after: Timestamp,
    /// What it has confirmed, if anything.
    pub acknowledged: Option<Acknowledgement>,
}

/// A user's credential that is neither over nor revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LiveCredential {
    /// Its organisation.
    pub org: OrgId,
    /// Its user.
    pub user: UserId,
    /// Its id.
    pub id: CredentialId,
    /// When it expires.
    pub not_after: Timestamp,
}

/// An enrolment token that may still be used, or whose answer may still be asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LiveToken {
    /// Its id, which is no secret.
    pub id: TokenId,
    /// When it expires.
    pub expires: Timestamp,
}

/// Keeps what members have confirmed. `conformance::members` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait MemberStore: Send + Sync + std::fmt::Debug + 'static {
    /// Notes what a member or a controller confirms, unless it has confirmed something later.
    async fn acknowledge(&self, member: &Subject, acknowledgement: &Acknowledgement) -> Result<(), StoreError>;

    /// Notes what a proxy announces of itself at `at`, unless it has announced something later.
    async fn announce(&self, proxy: &ProxyEntry, at: Timestamp) -> Result<(), StoreError>;

    /// Forgets what a proxy has announced of itself until `at`: it stops.
    async fn withdraw(&self, proxy: &ProxyId, at: Timestamp) -> Result<(), StoreError>;

    /// The proxies that have announced themselves since, in the order of their ids.
    async fn announced(&self, since: Timestamp) -> Result<Vec<ProxyEntry>, StoreError>;

    /// The agents of clusters that are not deleted, and the proxies, whose certificates are valid at `now`.
    async fn live_members(&self, now: Timestamp) -> Result<Vec<LiveMember>, StoreError>;

    /// What each controller has confirmed last that has confirmed something since `since`, by id. Controllers confirm by
    /// [`Self::acknowledge`]; what one has said more than a day before another speaks is forgotten.
    async fn live_controllers(&self, since: Timestamp) -> Result<Vec<(ControllerId, Acknowledgement)>, StoreError>;

    /// Forgets what a controller has confirmed that is about to end.
    async fn forget_controller(&self, controller: &ControllerId) -> Result<(), StoreError>;

    /// Tokens that were made from `from` on and not after `until`, have neither expired at `now` nor been revoked, refused
    /// or used, and are not of a deleted cluster; by id.
    async fn live_tokens(
        &self,
        from: Option<Timestamp>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LiveToken>, StoreError>;

    /// Credentials that are valid at `now` and were made from `from` on and not after `until`; of all organisations, or of
    /// one.
    async fn live_credentials(
        &self,
        org: Option<&OrgId>,
        from: Option<Timestamp>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LiveCredential>, StoreError>;
}
