//! The typed client.

mod log;
mod policy;
mod recordings;

pub use self::recordings::CastStream;

pub use self::log::LogExport;

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ztka_core::{BindingName, ClusterId, CredentialId, GroupName, KeyId, OrgId, RoleName, UserId};

use crate::{
    Access, Binding, ClientError, Cluster, CreateBinding, CreateCluster, CreateCredential, CreateGroup,
    CreateKubeconfig, CreateManifest, CreateOrg, CreateRole, CreateToken, CreateUser, Credential, Deletion,
    EnrolmentToken, Event, EventQuery, Finding, FindingQuery, Group, IssuedCredential, Org, PREFIX, Pki, PkiStep,
    Problem, Proxy, RenewCredential, Revocation, Revoke, Role, Status, StepTaken, TakeStep, Token, UpdateOrg,
    UpdateUser, User, WhoAmI,
    connection::{send, within},
    encryption::{DataKeys, MasterKeys},
    page::{LARGEST_PAGE, next},
};

/// Answers are smaller than this, streams of events aside.
const LARGEST: usize = 64 << 20;
/// A line of a stream of events is smaller than this.
const LONGEST_LINE: usize = 4 << 20;

/// Where the API is.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name or address to dial.
    pub host: String,
    /// Port to dial.
    pub port: u16,
    /// The name in the controller's certificate: `api.<domain>`.
    pub server_name: ServerName<'static>,
}

/// Calls the API. Cheap to clone; opens one connection per call.
///
/// Every call may be dropped at any time; whether a change took place is not known then. Calls end after 30 s unless
/// told otherwise.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Arc<Endpoint>,
    tls: Arc<ClientConfig>,
    limit: Duration,
    /// The version that what is changed has to be at.
    expected: Option<u64>,
}

/// What an answer's error was, for requests whose answer has no body.
#[derive(Deserialize)]
struct Nothing {}

impl Client {
    /// Calls the API at `endpoint` over `tls`, which has the caller's certificate and the servers' anchors.
    pub fn new(endpoint: Endpoint, tls: Arc<ClientConfig>) -> Self {
        Self { endpoint: Arc::new(endpoint), tls, limit: Duration::from_secs(30), expected: None }
    }

    /// Each call ends after `limit`; following events is not limited.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same, which changes only what is at this version.
    #[must_use]
    pub fn expecting(&self, version: Option<u64>) -> Self {
        Self { expected: version, ..self.clone() }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(version) = self.expected {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).map_err(ClientError::Request)?;
        let response = send(&self.endpoint, &self.tls, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(problem(status, &collect(response.into_body(), status).await?))
    }

    async fn bytes(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<(Bytes, u16), ClientError> {
        within(self.limit, async {
            let (head, body) = self.send(method, path, body).await?.into_parts();
            Ok((collect(body, head.status).await?, head.status.as_u16()))
        })
        .await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(|source| ClientError::Unreadable { status: 0, source: Some(source) })?;
        let (answer, status) = self.bytes(method, path, body).await?;
        let answer = if answer.is_empty() { &b"{}"[..] } else { &answer };
        serde_json::from_slice(answer).map_err(|source| ClientError::Unreadable { status, source: Some(source) })
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// All pages of a list, each within the time of a call.
    async fn pages<T: DeserializeOwned>(&self, list: &str) -> Result<Vec<T>, ClientError> {
        let (mut all, mut path) = (Vec::new(), format!("{list}?limit={LARGEST_PAGE}"));
        loop {
            let (head, body) = within(self.limit, async {
                let (head, body) = self.send(Method::GET, &path, None).await?.into_parts();
                let body = collect(body, head.status).await?;
                Ok((head, body))
            })
            .await?;
            let page: Vec<T> = serde_json::from_slice(&body)
                .map_err(|source| ClientError::Unreadable { status: head.status.as_u16(), source: Some(source) })?;
            all.extend(page);
            match next(&head.headers) {
                Some(next) => path = next,
                None => return Ok(all),
            }
        }
    }

    async fn create<T: DeserializeOwned>(&self, path: &str, what: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(what)).await
    }

    /// Makes what is answered as text.
    async fn text(&self, path: &str, what: &impl Serialize) -> Result<String, ClientError> {
        let unreadable = |status, source| ClientError::Unreadable { status, source };
        let body = serde_json::to_vec(what).map_err(|source| unreadable(0, Some(source)))?;
        let (text, status) = self.bytes(Method::POST, path, Some(body)).await?;
        String::from_utf8(text.into()).map_err(|_| unreadable(status, None))
    }

    async fn act(&self, method: Method, path: &str) -> Result<(), ClientError> {
        let Nothing {} = self.call(method, path, None::<&()>).await?;
        Ok(())
    }

    /// Who the caller is.
    pub async fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.read("/whoami").await
    }

    /// How certificates are renewed.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read("/status").await
    }

    /// Makes an organisation.
    pub async fn create_org(&self, org: &CreateOrg) -> Result<Org, ClientError> {
        self.create("/orgs", org).await
    }

    /// The organisations that the caller may see, by name.
    pub async fn orgs(&self) -> Result<Vec<Org>, ClientError> {
        self.pages("/orgs").await
    }

    /// Changes an organisation.
    pub async fn update_org(&self, org: &OrgId, update: &UpdateOrg) -> Result<Org, ClientError> {
        self.call(Method::PUT, &format!("/orgs/{org}"), Some(update)).await
    }

    /// Deletes an organisation: it is cut off at once, with everything that is open; what it has is removed afterwards, as
    /// [`Self::deletions`] shows.
    pub async fn delete_org(&self, org: &OrgId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}")).await
    }

    /// The organisations that were deleted, newest first.
    pub async fn deletions(&self) -> Result<Vec<Deletion>, ClientError> {
        self.pages("/deletions").await
    }

    /// Makes a proxy and the one-time token that it joins with.
    pub async fn create_proxy(&self, token: &CreateToken) -> Result<EnrolmentToken, ClientError> {
        self.create("/proxies", token).await
    }

    /// The proxies.
    pub async fn proxies(&self) -> Result<Vec<Proxy>, ClientError> {
        self.pages("/proxies").await
    }

    /// The certificate authorities.
    pub async fn pki(&self) -> Result<Pki, ClientError> {
        self.read("/pki").await
    }

    /// Takes a step of the rotation of a certificate authority.
    pub async fn rotate(&self, authority: &str, step: PkiStep, how: &TakeStep) -> Result<StepTaken, ClientError> {
        self.create(&format!("/pki/authorities/{authority}/{step}"), how).await
    }

    /// The keys that what an organisation has is sealed under.
    pub async fn data_keys(&self, org: &OrgId) -> Result<DataKeys, ClientError> {
        self.read(&format!("/orgs/{org}/data-keys")).await
    }

    /// Replaces the data key of an organisation: what is written from now on is under a new one, and what there is follows
    /// by itself, as [`Self::data_keys`] shows.
    pub async fn rotate_data_key(&self, org: &OrgId) -> Result<DataKeys, ClientError> {
        self.call(Method::POST, &format!("/orgs/{org}/data-keys"), None::<&()>).await
    }

    /// The keys that wrap data keys.
    pub async fn master_keys(&self) -> Result<MasterKeys, ClientError> {
        self.read("/master-keys").await
    }

    /// Begins now to wrap data keys anew that are under another master key than the current one.
    pub async fn rewrap(&self) -> Result<MasterKeys, ClientError> {
        self.call(Method::POST, "/master-keys/rewrap", None::<&()>).await
    }

    /// Makes a cluster.
    pub async fn create_cluster(&self, org: &OrgId, cluster: &CreateCluster) -> Result<Cluster, ClientError> {
        self.create(&format!("/orgs/{org}/clusters"), cluster).await
    }

    /// The clusters of an organisation that the caller may see, by name.
    pub async fn clusters(&self, org: &OrgId) -> Result<Vec<Cluster>, ClientError> {
        self.pages(&format!("/orgs/{org}/clusters")).await
    }

    /// One cluster.
    pub async fn cluster(&self, org: &OrgId, cluster: &ClusterId) -> Result<Cluster, ClientError> {
        self.read(&format!("/orgs/{org}/clusters/{cluster}")).await
    }

    /// Deletes a cluster; its agents are refused from then on.
    pub async fn delete_cluster(&self, org: &OrgId, cluster: &ClusterId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/clusters/{cluster}")).await
    }

    /// Makes a one-time token that an agent of the cluster enrols with.
    pub async fn create_enrolment_token(
        &self,
        org: &OrgId,
        cluster: &ClusterId,
        token: &CreateToken,
    ) -> Result<EnrolmentToken, ClientError> {
        self.create(&format!("/orgs/{org}/clusters/{cluster}/tokens"), token).await
    }

    /// The enrolment tokens of a cluster, newest first.
    pub async fn enrolment_tokens(&self, org: &OrgId, cluster: &ClusterId) -> Result<Vec<Token>, ClientError> {
        self.read(&format!("/orgs/{org}/clusters/{cluster}/tokens")).await
    }

    /// Revokes an enrolment token; a certificate that it has given stays good.
    pub async fn revoke_enrolment_token(
        &self,
        org: &OrgId,
        cluster: &ClusterId,
        token: &str,
    ) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/clusters/{cluster}/tokens/{token}")).await
    }

    /// Says whether the key that has come with a token is certified. The first word is the last.
    pub async fn decide_enrolment(
        &self,
        org: &OrgId,
        cluster: &ClusterId,
        token: &str,
        key: &KeyId,
        approved: bool,
    ) -> Result<(), ClientError> {
        let verb = if approved { "approve" } else { "refuse" };
        self.act(Method::POST, &format!("/orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{}/{verb}", key.0)).await
    }

    /// The YAML that starts the agent in a cluster, with a new one-time token inside.
    pub async fn create_manifest(
        &self,
        org: &OrgId,
        cluster: &ClusterId,
        manifest: &CreateManifest,
    ) -> Result<String, ClientError> {
        self.text(&format!("/orgs/{org}/clusters/{cluster}/manifest"), manifest).await
    }

    /// Makes a user.
    pub async fn create_user(&self, org: &OrgId, user: &CreateUser) -> Result<User, ClientError> {
        self.create(&format!("/orgs/{org}/users"), user).await
    }

    /// The users of an organisation, by name.
    pub async fn users(&self, org: &OrgId) -> Result<Vec<User>, ClientError> {
        let mut users: Vec<User> = self.pages(&format!("/orgs/{org}/users")).await?;
        // Pages are in another order.
        users.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(users)
    }

    /// One user.
    pub async fn user(&self, org: &OrgId, user: &UserId) -> Result<User, ClientError> {
        self.read(&format!("/orgs/{org}/users/{user}")).await
    }

    /// Changes a user.
    pub async fn update_user(&self, org: &OrgId, user: &UserId, update: &UpdateUser) -> Result<User, ClientError> {
        self.call(Method::PATCH, &format!("/orgs/{org}/users/{user}"), Some(update)).await
    }

    /// Disables a user and ends all of their sessions.
    pub async fn disable_user(&self, org: &OrgId, user: &UserId) -> Result<(), ClientError> {
        self.act(Method::POST, &format!("/orgs/{org}/users/{user}/disable")).await
    }

    /// Enables a user again, who needs a new credential then.
    pub async fn enable_user(&self, org: &OrgId, user: &UserId) -> Result<(), ClientError> {
        self.act(Method::POST, &format!("/orgs/{org}/users/{user}/enable")).await
    }

    /// Issues a credential over the key of a CSR.
    pub async fn create_credential(
        &self,
        org: &OrgId,
        user: &UserId,
        credential: &CreateCredential,
    ) -> Result<IssuedCredential, ClientError> {
        self.create(&format!("/orgs/{org}/users/{user}/credentials"), credential).await
    }

    /// Gives the credential that this client connects with a new certificate, over the key of a CSR.
    pub async fn renew_credential(&self, renewal: &RenewCredential) -> Result<IssuedCredential, ClientError> {
        self.create("/renew", renewal).await
    }

    /// A kubeconfig (YAML) with a new credential, whose key the controller makes. It is a secret: wipe it.
    pub async fn create_kubeconfig(
        &self,
        org: &OrgId,
        user: &UserId,
        wanted: &CreateKubeconfig,
    ) -> Result<String, ClientError> {
        self.text(&format!("/orgs/{org}/users/{user}/kubeconfig"), wanted).await
    }

    /// The credentials of a user, newest first.
    pub async fn credentials(&self, org: &OrgId, user: &UserId) -> Result<Vec<Credential>, ClientError> {
        self.pages(&format!("/orgs/{org}/users/{user}/credentials")).await
    }

    /// Revokes a credential.
    pub async fn revoke_credential(
        &self,
        org: &OrgId,
        user: &UserId,
        credential: &CredentialId,
    ) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/users/{user}/credentials/{credential}")).await
    }

    /// What is revoked in an organisation beside credentials, oldest first.
    pub async fn revocations(&self, org: &OrgId) -> Result<Vec<Revocation>, ClientError> {
        self.pages(&format!("/orgs/{org}/revocations")).await
    }

    /// Revokes a certificate or an agent of an organisation.
    pub async fn revoke(&self, org: &OrgId, what: &Revoke) -> Result<Revocation, ClientError> {
        self.create(&format!("/orgs/{org}/revocations"), what).await
    }

    /// Servers, proxies and whole organisations that are revoked, oldest first.
    pub async fn installation_revocations(&self) -> Result<Vec<Revocation>, ClientError> {
        self.pages("/revocations").await
    }

    /// Revokes a server's certificate, a proxy or a whole organisation.
    pub async fn revoke_in_installation(&self, what: &Revoke) -> Result<Revocation, ClientError> {
        self.create("/revocations", what).await
    }

    /// Takes the revocation of a whole organisation back.
    pub async fn restore_org(&self, org: &OrgId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/revocations/orgs/{org}")).await
    }

    /// The clusters that a user may see, and how to reach them.
    pub async fn access(&self, org: &OrgId, user: &UserId) -> Result<Access, ClientError> {
        self.read(&format!("/orgs/{org}/users/{user}/access")).await
    }

    /// Makes an empty group.
    pub async fn create_group(&self, org: &OrgId, group: &CreateGroup) -> Result<Group, ClientError> {
        self.create(&format!("/orgs/{org}/groups"), group).await
    }

    /// The groups of an organisation, by name.
    pub async fn groups(&self, org: &OrgId) -> Result<Vec<Group>, ClientError> {
        self.pages(&format!("/orgs/{org}/groups")).await
    }

    /// Makes a user a member of a group.
    pub async fn add_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), ClientError> {
        self.act(Method::PUT, &format!("/orgs/{org}/groups/{group}/members/{user}")).await
    }

    /// Ends a membership.
    pub async fn remove_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/groups/{group}/members/{user}")).await
    }

    /// Makes a role.
    pub async fn create_role(&self, org: &OrgId, role: &CreateRole) -> Result<Role, ClientError> {
        self.create(&format!("/orgs/{org}/roles"), role).await
    }

    /// The roles of an organisation, built-in ones first, then by name.
    pub async fn roles(&self, org: &OrgId) -> Result<Vec<Role>, ClientError> {
        self.pages(&format!("/orgs/{org}/roles")).await
    }

    /// Deletes a role that no binding gives.
    pub async fn delete_role(&self, org: &OrgId, role: &RoleName) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/roles/{role}")).await
    }

    /// Makes a binding.
    pub async fn create_binding(&self, org: &OrgId, binding: &CreateBinding) -> Result<Binding, ClientError> {
        self.create(&format!("/orgs/{org}/bindings"), binding).await
    }

    /// The bindings of an organisation, by name.
    pub async fn bindings(&self, org: &OrgId) -> Result<Vec<Binding>, ClientError> {
        self.pages(&format!("/orgs/{org}/bindings")).await
    }

    /// Deletes a binding.
    pub async fn delete_binding(&self, org: &OrgId, binding: &BindingName) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/bindings/{binding}")).await
    }

    /// Audit events of an organisation, newest first. `query.follow` has no say here.
    pub async fn events(&self, org: &OrgId, query: &EventQuery) -> Result<Vec<Event>, ClientError> {
        let query = EventQuery { follow: false, ..query.clone() };
        self.read(&with_query(format!("/orgs/{org}/events"), &query)?).await
    }

    /// Audit events as they come in, after the newest `query.limit`.
    pub async fn follow_events(&self, org: &OrgId, query: &EventQuery) -> Result<EventStream, ClientError> {
        let query = EventQuery { follow: true, ..query.clone() };
        let path = with_query(format!("/orgs/{org}/events"), &query)?;
        let (head, body) = within(self.limit, self.send(Method::GET, &path, None)).await?.into_parts();
        Ok(EventStream { body, status: head.status.as_u16(), held: BytesMut::new() })
    }

    /// Where receipts and events disagree.
    pub async fn findings(&self, org: &OrgId, query: &FindingQuery) -> Result<Vec<Finding>, ClientError> {
        self.read(&with_query(format!("/orgs/{org}/findings"), query)?).await
    }
}

fn with_query(path: String, query: &impl Serialize) -> Result<String, ClientError> {
    let query = serde_urlencoded::to_string(query).map_err(|_| ClientError::Query)?;
    Ok(format!("{path}?{query}"))
}

async fn collect(body: Incoming, status: StatusCode) -> Result<Bytes, ClientError> {
    match Limited::new(body, LARGEST).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => ClientError::Http(*error),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => ClientError::TooLarge(LARGEST),
            Err(_) => ClientError::Unreadable { status: status.as_u16(), source: None },
        }),
    }
}

fn problem(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ClientError::Problem(Box::new(problem)),
        Err(source) => ClientError::Unreadable { status: status.as_u16(), source: Some(source) },
    }
}

/// Events as they come in.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    status: u16,
    held: BytesMut,
}

impl EventStream {
    /// The next event; `None` when the controller has ended the stream. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The connection broke, or a line is no event; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(end);
                self.held.advance(1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let event = serde_json::from_slice(&line);
                let unreadable = |source| ClientError::Unreadable { status: self.status, source: Some(source) };
                return event.map(Some).map_err(unreadable);
            }
            if self.held.len() > LONGEST_LINE {
                return Err(ClientError::TooLarge(LONGEST_LINE));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(ClientError::Http)?.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
