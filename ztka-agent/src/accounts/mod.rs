//! Just-in-time accounts: a ServiceAccount per user that can do what policy gives that user, no more.
//!
//! An account is made when its user first asks, in steps that may be repeated at any time, and lives in the agent's
//! namespace under the user's id: a ServiceAccount, a Secret that its tokens are bound to, and by [`Mode`] a ClusterRole and
//! its binding with a Role and its binding for each namespace used, or bindings alone. People find names in annotations.
//!
//! An account follows policy, as it is changed and as its terms begin and end, also in what an earlier run of the agent has
//! left of it. It goes when its user loses every role or is disabled, when a credential that has used it is revoked or the
//! session over (another credential of the user makes it again), and after a time without use, in which whatever is open counts as use.
//! Each use is noted at the ServiceAccount from time to time, which is its lease: whichever agent finds it run out removes it, as it
//! does what is left where there is no ServiceAccount any more.
//!
//! The agent needs [`AGENT_RBAC`] for this, or [`CEILING_RBAC`]. Holding `escalate` and `bind` it could give itself
//! anything: it is as powerful as cluster-admin. Under a ceiling it could do what the ceiling allows.
mod account;
mod acting;
pub(crate) mod client;
mod objects;
mod revoked;
mod streams;
mod tend;
mod wanted;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use tokio::{sync::Notify, time::timeout};
use ztka_authz::{AGENT_NAMESPACE, Engine};
use ztka_core::{Clock, ClusterId, Principal, Reason, Revision, Status, UserId, Verified};

use self::{
    account::{Account, State, Steps},
    acting::ActsFor,
    client::CallError,
    objects::Names,
    wanted::Wanted,
};
pub use self::{
    acting::{Acting, NAME_PREFIX},
    client::{AgentToken, Client},
    streams::InUse,
    wanted::Mode,
};
use crate::Accounts;

/// Namespace `ztka-system` and the agent's own ServiceAccount `ztka-agent` in it with roles and bindings, as YAML for
/// `kubectl apply`.
pub const AGENT_RBAC: &str = include_str!("agent-rbac.yaml");

/// The same for [`Mode::Ceiling`], with ClusterRoles for the roles `view` and `edit` of policy.
pub const CEILING_RBAC: &str = include_str!("agent-rbac-ceiling.yaml");

/// ServiceAccounts, Secrets and (behind `ztka:`) roles that are not a user's: those of an account are named by its user's id.
const RESERVED: [&str; 5] = ["agent", "default", "ztka-agent", "ztka-agent-enrolment", crate::CREDENTIAL_SECRET];

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
    /// How accounts come by their permissions.
    pub mode: Mode,
}

impl Default for Settings {
    /// `ztka-system`, tokens of an hour, removal after an hour, up to 5 s for the cluster, roles written from policy.
    fn default() -> Self {
        Self {
            namespace: AGENT_NAMESPACE.into(),
            token_life: Duration::from_secs(3600),
            idle: Duration::from_secs(3600),
            ready_within: Duration::from_secs(5),
            mode: Mode::ServiceAccount,
        }
    }
}

/// The accounts of one cluster. Clones share them.
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
    /// Users of whom there were roles and no ServiceAccount at the last look.
    orphans: Mutex<BTreeSet<UserId>>,
}

impl ServiceAccounts {
    /// Accounts on `cluster`, made by `client`, with what `engine` gives. Somebody has to run [`Self::tend`] beside.
    pub fn new(client: Client, engine: Engine, cluster: ClusterId, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            client,
            engine,
            cluster,
            clock,
            settings,
            accounts: Mutex::default(),
            behind: Notify::new(),
            orphans: Mutex::default(),
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

    fn steps<'a>(&'a self, who: &'a Principal, account: &Account) -> Steps<'a> {
        let Inner { client, settings, clock, .. } = &*self.0;
        let (names, credentials) = (self.names(who.user()), account.credentials());
        Steps { client, settings, names, who, credentials, now: clock.now() }
    }

    /// What `who` is to have now, by which policy, and when that changes by itself; none for somebody without any role.
    fn wanted(&self, who: &Principal) -> Result<(Revision, Option<Wanted>, Option<Timestamp>), Reason> {
        let Inner { engine, cluster, clock, settings, .. } = &*self.0;
        let (policy, now) = (engine.policy(who.org())?, clock.now());
        let wanted = match &settings.mode {
            Mode::ServiceAccount => policy.render_at(who, cluster, now).map(Wanted::from),
            Mode::Impersonate => policy
                .named_at(who, cluster, now)
                .and_then(|_| ActsFor::new(who))
                .map(|name| Wanted::impersonating(&name)),
            Mode::Ceiling(ceiling) => policy.named_at(who, cluster, now).map(|named| Wanted::within(named, ceiling)),
        };
        Ok((policy.revision(), wanted, policy.rendering_changes_after(who, cluster, now)))
    }

    /// As whom `who` comes to the apiserver for something in `namespace`.
    ///
    /// The first call of a user makes the account, others at the same time wait for it; a dropped call leaves nothing
    /// that the next one could not go on from.
    ///
    /// # Errors
    /// What the user is told: 403 without any role here, 503 if there is no policy or the cluster does not do its part.
    pub async fn acting(&self, who: &Principal, namespace: Option<&str>) -> Result<Acting, Status> {
        if RESERVED.contains(&who.user().as_str()) {
            return Err(Status::new(StatusCode::FORBIDDEN, format!("user id {} is reserved", who.user())));
        }
        let account = self.account(who.user());
        let now = self.0.clock.now();
        account.touch(now);
        let revision = self.0.engine.policy(who.org()).map_err(|reason| Status::from(&reason))?.revision();
        if account.is_used_by(who.credential())
            && let Some(ready) = account.ready.load().as_ref()
            && let Some(acting) = ready.serves(who, namespace, revision, now)
        {
            return Ok(acting);
        }
        // In a place of its own: it is large, and almost every request goes without it.
        let made = timeout(PATIENCE, Box::pin(self.make(&account, who, namespace)));
        made.await.unwrap_or_else(|_| Err(CallError::Late.status()))
    }

    /// The token of [`Self::acting`] alone, as a value for `Authorization` that logs do not show.
    ///
    /// # Errors
    /// As for [`Self::acting`].
    pub async fn token(&self, who: &Principal, namespace: Option<&str>) -> Result<HeaderValue, Status> {
        Ok(self.acting(who, namespace).await?.authorization().clone())
    }

    async fn make(&self, account: &Account, who: &Principal, namespace: Option<&str>) -> Result<Acting, Status> {
        let mut state = account.state.lock().await;
        // The account goes with each credential by which it is used, also for an agent that is started later.
        state.unnoted |= account.remember(std::slice::from_ref(who.credential()));
        let (revision, wanted, changes) = self.wanted(who).map_err(|reason| Status::from(&reason))?;
        let steps = self.steps(who, account);
        // Somebody else may have made it while this request waited.
        let ready = account.ready.load();
        let ready = ready.as_ref().and_then(|ready| ready.serves(who, namespace, revision, self.0.clock.now()));
        if let Some(acting) = ready {
            self.note(&steps, &mut state).await;
            return Ok(acting);
        }
        let Some(wanted) = wanted else {
            return Err(Status::new(StatusCode::FORBIDDEN, format!("{} has no role on this cluster", who.name())));
        };
        if let Err(error) = steps.bring(&mut state, &wanted, namespace).await {
            let user = who.user();
            tracing::warn!(%user, error = &error as &dyn std::error::Error, "account not ready");
            return Err(error.status());
        }
        state.changes = changes;
        if Steps::is_behind(&state, &wanted) {
            self.0.behind.notify_one();
        }
        let ready = steps.ready(&state, &wanted, revision);
        let ready = ready.ok_or_else(|| CallError::NotReady.status())?;
        let acting = ready.acting();
        account.ready.store(Some(Arc::new(ready)));
        self.note(&steps, &mut state).await;
        Ok(acting)
    }

    /// Tells the cluster at once of a credential that it does not know of. What cannot be told now is told with the lease.
    async fn note(&self, steps: &Steps<'_>, state: &mut State) {
        if state.unnoted
            && let Err(error) = steps.note_use(state, steps.now).await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the cluster does not know yet who uses an account"
            );
        }
    }
}

#[async_trait::async_trait]
impl Accounts for ServiceAccounts {
    async fn acting(&self, principal: &Verified<Principal>, namespace: Option<&str>) -> Result<Acting, Status> {
        Self::acting(self, principal, namespace).await
    }

    async fn refused(&self, principal: &Verified<Principal>, code: StatusCode) {
        let token = code == StatusCode::UNAUTHORIZED;
        self.account(principal.user()).doubt(token, self.0.clock.now()).await;
    }

    fn in_use(&self, principal: &Verified<Principal>) -> InUse {
        InUse::new(self.account(principal.user()), self.0.clock.clone())
    }

    fn are_bounded(&self) -> bool {
        match self.0.settings.mode {
            Mode::ServiceAccount => false,
            Mode::Impersonate | Mode::Ceiling(_) => true,
        }
    }
}
