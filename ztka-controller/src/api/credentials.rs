//! Credentials: certificates in kubeconfigs, and what they give access to.

use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use ztka_api::{
    Access, Code, CreateCredential, CreateKubeconfig, Credential, IssuedCredential, Kubeconfig, ReachableCluster,
    RenewCredential,
};
use ztka_authz::InvalidPolicy;
use ztka_core::Verified;
use ztka_core::{CredentialId, OrgId, UserId};
use ztka_identity::{Caller, StoreError, User};
use ztka_pki::{Issued, Peer, PublicKey, SoftwareKey, ValidCsr};

use super::{
    answer::{Answer, ApiError, Created, Json},
    paging::Paging,
    precondition::Expected,
    users::need_owner,
};
use crate::{Controller, authority::OrgAuthorityError};

/// Why a credential was not issued.
#[derive(Debug)]
pub(crate) enum CredentialError {
    Store(StoreError),
    Issue(ztka_pki::IssueError),
    /// Nobody but the user has this key, or should have.
    KeyBound,
}

impl From<ztka_pki::StoreError> for CredentialError {
    fn from(error: ztka_pki::StoreError) -> Self {
        Self::Store(StoreError::unavailable(error))
    }
}

impl From<StoreError> for CredentialError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ztka_pki::IssueError> for CredentialError {
    fn from(error: ztka_pki::IssueError) -> Self {
        Self::Issue(error)
    }
}

impl From<OrgAuthorityError> for CredentialError {
    fn from(error: OrgAuthorityError) -> Self {
        match error {
            OrgAuthorityError::Store(error) => Self::Store(error),
            OrgAuthorityError::Issue(error) => Self::Issue(error),
        }
    }
}

impl From<CredentialError> for ApiError {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Store(error) => error.into(),
            CredentialError::Issue(error) => Self::failed(error),
            CredentialError::KeyBound => Self::new(
                Code::Refused,
                "the key belongs to another credential, or to something else",
                "make a new key for each credential",
            ),
        }
    }
}

/// A new credential, and its certificate.
#[derive(Debug)]
pub(crate) struct NewCredential {
    pub(crate) credential: ztka_identity::Credential,
    pub(crate) chain: String,
}

fn wire(credential: ztka_identity::Credential) -> Credential {
    Credential {
        id: credential.id,
        user: credential.user,
        created: credential.created,
        not_after: credential.not_after,
        renewed: credential.renewed,
        last_used: credential.last_used,
        revoked: credential.revoked,
    }
}

impl Controller {
    /// Records a credential and issues its certificate. What is recorded without a certificate does no harm. `by` is the
    /// credential of a user who asks for it with no other right.
    pub(crate) async fn issue_credential(
        &self,
        user: &User,
        csr: &ValidCsr,
        life: SignedDuration,
        by: Option<&ztka_identity::Credential>,
    ) -> Result<NewCredential, CredentialError> {
        self.0.authorities.ensure_org(&user.org).await?;
        let credential = match by {
            Some(by) => self.directory().issue_credential_by(by, life).await?,
            None => self.directory().issue_credential(&user.id, life).await?,
        };
        self.0.changed.notify_one();
        self.bind(csr.key(), &credential).await?;
        let issued: Issued = self.hierarchy().issue_user(csr, &user.org, &user.id, &credential.id, life).await?;
        // The certificate may end earlier than asked for: with its issuer.
        let not_after = credential.not_after.min(issued.not_after());
        let credential = ztka_identity::Credential { not_after, ..credential };
        Ok(NewCredential { credential, chain: issued.pem() })
    }

    /// Issues the next certificate of a credential.
    async fn renew_credential(
        &self,
        credential: &ztka_identity::Credential,
        csr: &ValidCsr,
    ) -> Result<NewCredential, CredentialError> {
        let life = self.directory().renewed_life(credential).await?;
        self.0.authorities.ensure_org(&credential.org).await?;
        self.bind(csr.key(), credential).await?;
        let ztka_identity::Credential { org, user, id, .. } = credential;
        let issued: Issued = self.hierarchy().issue_user(csr, org, user, id, life).await?;
        // The store keeps microseconds, a certificate seconds; and it may end earlier than asked for, with its issuer.
        let not_after = Timestamp::from_second(issued.not_after().as_second()).unwrap_or(issued.not_after());
        // It counts from here on: whoever was revoked meanwhile gets nothing.
        self.directory().renew(id, not_after).await?;
        self.0.changed.notify_one();
        let renewed = ztka_identity::Credential { not_after, renewed: Some(self.now()), ..credential.clone() };
        Ok(NewCredential { credential: renewed, chain: issued.pem() })
    }

    /// A key is one subject's (`docs/architecture.md`): whoever has another's cannot have it certified as their own.
    async fn bind(&self, key: &PublicKey, credential: &ztka_identity::Credential) -> Result<(), CredentialError> {
        let ztka_identity::Credential { org, user, id, .. } = credential.clone();
        let subject = ztka_core::Subject::User { org, user, credential: id };
        match self.0.stores.enrolment.bind_key(key.id(), &subject).await? {
            true => Ok(()),
            false => Err(CredentialError::KeyBound),
        }
    }

    /// How long a new credential is to live.
    async fn life(&self, caller: &Caller, org: &OrgId, asked: Option<u32>) -> Answer<SignedDuration> {
        let life = match asked {
            Some(seconds) => SignedDuration::from_secs(seconds.into()),
            None => self.directory().usual_life(org).await?,
        };
        if caller.administers(org) {
            return Ok(life);
        }
        // Nobody prolongs their own session by another credential: a stolen one would be replaced without end. Renewal
        // has the organisation's limit.
        Ok(life.min(caller.active_until.duration_since(self.now())))
    }

    /// The clusters on which some binding names the user, by name.
    pub(super) async fn visible(&self, user: &User) -> Answer<Vec<ztka_authz::Cluster>> {
        let (known, who) = (self.policy(&user.org).await?, self.principal(user).await?);
        let org = user.org.clone();
        let found = tokio::task::spawn_blocking(move || {
            let policy = known.compiled(&org)?;
            Ok::<_, InvalidPolicy>(policy.clusters_of(&who).into_iter().cloned().collect())
        });
        found.await.map_err(ApiError::failed)?.map_err(ApiError::failed)
    }

    async fn access(&self, user: &User) -> Answer<Access> {
        let org = self.directory().store().org(&user.org).await?;
        let org = org.ok_or_else(|| ApiError::not_found("organisation", &user.org))?;
        let reachable = |cluster: ztka_authz::Cluster| {
            let name = cluster.name.parse().map_err(ApiError::failed)?;
            let server_name = self.server_name(&cluster.id);
            Ok(ReachableCluster { id: cluster.id, name, server_name })
        };
        Ok(Access {
            org: org.name,
            user: user.name.clone(),
            front: self.0.settings.front.clone(),
            ca_bundle: self.hierarchy().root_pem(),
            clusters: self.visible(user).await?.into_iter().map(reachable).collect::<Answer<_>>()?,
        })
    }
}

/// The credential of a caller who asks for another one of their own by no other right.
fn with_that_alone<'a>(caller: &'a Caller, org: &OrgId, user: &User) -> Option<&'a ztka_identity::Credential> {
    (!caller.administers(org) && caller.user.id == user.id).then_some(&caller.credential)
}

pub(super) async fn access(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, UserId)>,
) -> Answer<Json<Access>> {
    let user = controller.user_of(&org, &id).await?;
    Ok(Json(controller.access(&user).await?))
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Path((org, id)): Path<(OrgId, UserId)>,
    paging: Paging,
) -> Answer<Response> {
    let user = controller.user_of(&org, &id).await?;
    let credentials = controller.0.stores.pages.credentials_page(&user.id, paging.page()).await?;
    Ok(paging.answer(credentials.map(wire)))
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path((org, id)): Path<(OrgId, UserId)>,
    Json(asked): Json<CreateCredential>,
) -> Answer<Created<IssuedCredential>> {
    let user = controller.user_of(&org, &id).await?;
    controller.may_become(&caller, &org, &user).await?;
    let csr = ValidCsr::from_pem(asked.csr.as_bytes());
    let csr = csr.map_err(|error| ApiError::invalid(error.to_string()))?;
    let life = controller.life(&caller, &org, asked.life_seconds).await?;
    let by = with_that_alone(&caller, &org, &user);
    let NewCredential { credential, chain } = controller.issue_credential(&user, &csr, life, by).await?;
    let access = controller.access(&user).await?;
    Ok(Created(IssuedCredential { credential: wire(credential), chain, access }))
}

/// The connection proves that the caller has the key of the certificate before, and only that certificate's credential
/// gets a new one.
pub(super) async fn renew(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Extension(peer): Extension<Verified<Peer>>,
    Json(asked): Json<RenewCredential>,
) -> Answer<Created<IssuedCredential>> {
    let csr = ValidCsr::from_pem(asked.csr.as_bytes());
    let csr = csr.map_err(|error| ApiError::invalid(error.to_string()))?;
    if *csr.key().id() == peer.spki {
        return Err(ApiError::invalid("the key is that of the certificate before; make a new key"));
    }
    let NewCredential { credential, chain } = controller.renew_credential(&caller.credential, &csr).await?;
    let access = controller.access(&caller.user).await?;
    Ok(Created(IssuedCredential { credential: wire(credential), chain, access }))
}

/// A kubeconfig with a key that is made here, is in the answer, and nowhere else.
pub(super) async fn download(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path((org, id)): Path<(OrgId, UserId)>,
    Json(asked): Json<CreateKubeconfig>,
) -> Answer<Response> {
    let user = controller.user_of(&org, &id).await?;
    controller.may_become(&caller, &org, &user).await?;
    let life = controller.life(&caller, &org, asked.life_seconds).await?;
    let key = SoftwareKey::generate(&controller.0.provider).map_err(ApiError::failed)?;
    let csr = key.csr().map_err(ApiError::failed)?;
    let csr = ValidCsr::from_der(&csr).map_err(ApiError::failed)?;
    let by = with_that_alone(&caller, &org, &user);
    let NewCredential { chain, .. } = controller.issue_credential(&user, &csr, life, by).await?;
    let access = controller.access(&user).await?;
    let kubeconfig = Kubeconfig::new(&access, &chain, &key.to_pem().into(), false).yaml();
    let head = [
        (header::CONTENT_TYPE, "application/yaml"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"ztka.kubeconfig\""),
    ];
    Ok((StatusCode::CREATED, head, kubeconfig.as_bytes().to_vec()).into_response())
}

pub(super) async fn revoke(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    expected: Expected,
    Path((org, id, credential)): Path<(OrgId, UserId, CredentialId)>,
) -> Answer<StatusCode> {
    let user = controller.user_of(&org, &id).await?;
    need_owner(&caller, &org, user.admin.is_some() && user.id != caller.user.id)?;
    let found = controller.directory().store().credential(&credential).await?;
    if found.is_none_or(|(found, _)| found.user != user.id) {
        return Err(ApiError::not_found("credential", &credential));
    }
    expected.directory(&controller).revoke(&credential).await?;
    Ok(StatusCode::NO_CONTENT)
}
