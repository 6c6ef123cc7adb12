//! Just-in-time accounts: a ServiceAccount per user whose RBAC is what policy gives that user, no more.
//!
//! An account is made when its user first asks, in steps that may be repeated at any time, and lives in the agent's
//! namespace under the user's id: a ServiceAccount, a Secret that its tokens are bound to, a ClusterRole and its
//! binding, and a Role and its binding for each namespace used. People find names in annotations. An account follows
//! policy, also in what an earlier run of the agent has left of it, goes when its user loses every role or is disabled, and after a time without use.
//!
//! The agent needs [`AGENT_RBAC`] for this. Holding `escalate` and `bind` it could give itself anything: it is as
//! powerful as cluster-admin.
mod account;
pub(crate) mod client;
mod objects;
mod revoked;
mod tend;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, StatusCode};
use tokio::{sync::Notify, time::timeout};
use ztka_authz::{AGENT_NAMESPACE, Engine, Rendered};
use ztka_core::{Clock, ClusterId, Principal, Reason, Revision, Status, UserId, Verified};

pub use self::client::{AgentToken, Client};
use self::{
    account::{Account, Steps},
    client::CallError,
    objects::Names,
};
use crate::Accounts;

/// Namespace `ztka-system` and the agent's own ServiceAccount `ztka-agent` in it with roles and bindings, as YAML for
/// `kubectl apply`.
pub const AGENT_RBAC: &str = include_str!("agent-rbac.yaml");

/// ServiceAccounts and Secrets of the namespace that are not a user's: those of an account are named by its user's id.
const RESERVED: [&str; 4] = ["default", "ztka-agent", "ztka-agent-enrolment", crate::CREDENTIAL_SECRET];

/// How long a request waits for its account, its turn included.
const PATIENCE: Duration = Duration::from_secs(20);

/// How accounts are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where ServiceAccounts and Secrets are made; it exists already.
    pub namespace: String,
    /// How long a token is to live; the apiserver grants no less than ten minutes. Renewed at two thirds.
    pub token_life: Duration,
    /// An account that nobody has used for so long is removed.
    pub idle: Duration,
    /// How long a request waits for the cluster to take up new permissions.
    pub ready_within: Duration,
}

impl Default for Settings {
    /// `ztka-system`, tokens of an hour, removal after a day, up to 5 s for the cluster.
    fn default() -> Self {
        Self {
            namespace: AGENT_NAMESPACE.into(),
            token_life: Duration::from_secs(3600),
            idle: Duration::from_secs(24 * 3600),
            ready_within: Duration::from_secs(5),
        }
    }
}

/// Account mode `service_account`, `dynamic`. Clones share the accounts.
#[derive(Clone, Debug)]
pub struct ServiceAccounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    engine: Engine,
    cluster: ClusterId,
    clock: Arc<dyn Clock>,
    settings: Settings,
    accounts: Mutex<HashMap<UserId, Arc<Account>>>,
    /// A user has lost a group, or policy has changed: some roles are more than they ought to be.
    behind: Notify,
}

impl ServiceAccounts {
    /// Accounts on `cluster`, made by `client`, with what `engine` gives. Somebody has to run [`Self::tend`] beside.
    pub fn new(
        client: Client,
        engine: Engine,
        cluster: ClusterId,
        clock: Arc<dyn Clock>,
        mut settings: Settings,
    ) -> Self {
        // Use is noted in the cluster when a token is renewed, so anything shorter would remove accounts in use.
        settings.idle = settings.idle.max(settings.token_life * 2);
        Self(Arc::new(Inner {
            client,
            engine,
            cluster,
            clock,
            settings,
            accounts: Mutex::default(),
            behind: Notify::new(),
        }))
    }

    fn account(&self, user: &UserId) -> Arc<Account> {
        let mut accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(user.clone()).or_default().clone()
    }

    fn known(&self) -> Vec<(UserId, Arc<Account>)> {
        let accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().map(|(user, account)| (user.clone(), account.clone())).collect()
    }

    fn names<'a>(&'a self, user: &'a UserId) -> Names<'a> {
        Names { user, home: &self.0.settings.namespace }
    }

    fn steps<'a>(&'a self, who: &'a Principal) -> Steps<'a> {
        let Inner { client, settings, clock, .. } = &*self.0;
        Steps { client, settings, names: self.names(who.user()), who, now: clock.now() }
    }

    fn render(&self, who: &Principal) -> Result<(Revision, Option<Rendered>), Reason> {
        let policy = self.0.engine.policy(who.org())?;
        Ok((policy.revision(), policy.render(who, &self.0.cluster)))
    }

    /// A token that serves `who` in `namespace`, as a value for `Authorization` that logs do not show.
    ///
    /// The first call of a user makes the account, others at the same time wait for it; a dropped call leaves nothing
    /// that the next one could not go on from.
    ///
    /// # Errors
    /// What the user is told: 403 without any role here, 503 if there is no policy or the cluster does not do its part.
    pub async fn token(&self, who: &Principal, namespace: Option<&str>) -> Result<HeaderValue, Status> {
        if RESERVED.contains(&who.user().as_str()) {
            return Err(Status::new(StatusCode::FORBIDDEN, format!("user id {} is reserved", who.user())));
        }
        let account = self.account(who.user());
        let now = self.0.clock.now();
        account.touch(now);
        let revision = self.0.engine.policy(who.org()).map_err(|reason| Status::from(&reason))?.revision();
        if let Some(ready) = account.ready.load().as_ref()
            && let Some(authorization) = ready.serves(who, namespace, revision, now)
        {
            return Ok(authorization);
        }
        // In a place of its own: it is large, and almost every request goes without it.
        let made = timeout(PATIENCE, Box::pin(self.make(&account, who, namespace)));
        made.await.unwrap_or_else(|_| Err(CallError::Late.status()))
    }

    async fn make(&self, account: &Account, who: &Principal, namespace: Option<&str>) -> Result<HeaderValue, Status> {
        let mut state = account.state.lock().await;
        let (revision, rendered) = self.render(who).map_err(|reason| Status::from(&reason))?;
        // Somebody else may have made it while this request waited.
        let ready = account.ready.load();
        let ready = ready.as_ref().and_then(|ready| ready.serves(who, namespace, revision, self.0.clock.now()));
        if let Some(authorization) = ready {
            return Ok(authorization);
        }
        let Some(rendered) = rendered else {
            return Err(Status::new(StatusCode::FORBIDDEN, format!("{} has no role on this cluster", who.name())));
        };
        let steps = self.steps(who);
        if let Err(error) = steps.bring(&mut state, &rendered, namespace).await {
            let user = who.user();
            tracing::warn!(%user, error = &error as &dyn std::error::Error, "account not ready");
            return Err(error.status());
        }
        if Steps::is_behind(&state, &rendered) {
            self.0.behind.notify_one();
        }
        let ready = steps.ready(&state, &rendered, revision);
        let ready = ready.ok_or_else(|| CallError::NotReady.status())?;
        let authorization = ready.authorization();
        account.ready.store(Some(Arc::new(ready)));
        Ok(authorization)
    }
}

#[async_trait::async_trait]
impl Accounts for ServiceAccounts {
    async fn authorization(
        &self,
        principal: &Verified<Principal>,
        namespace: Option<&str>,
    ) -> Result<HeaderValue, Status> {
        self.token(principal, namespace).await
    }

    async fn refused(&self, principal: &Verified<Principal>, code: StatusCode) {
        let token = code == StatusCode::UNAUTHORIZED;
        self.account(principal.user()).doubt(token, self.0.clock.now()).await;
    }
}
