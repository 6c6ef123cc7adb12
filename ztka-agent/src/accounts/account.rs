//! One user's account: what of it is known to exist, and the steps that bring it to what policy says.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::{
    future::{try_join, try_join_all},
    try_join,
};
use http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use ztka_core::{Attributes, CredentialId, GroupName, Principal, Revision, UserName};

use super::{
    Settings,
    acting::{Acting, ActsFor},
    client::{CallError, Client, bearer},
    objects::{Marked, Names, kinds, questions, rbac},
    wanted::{Held, Holding, Mode, Wanted},
};

/// How long a look at the roles of an account is good for, whatever the apiserver answers its user; twice as long after each
/// look that has found nothing missing, so often at the most.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);
const DOUBLINGS: u32 = 6;
/// An apiserver beside the one that was asked may be so far behind.
const FRESH: Duration = Duration::from_secs(2);
/// An account remembers so many credentials; beyond it those are forgotten that came first.
const CREDENTIALS: usize = 64;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What one request needs to know, read without waiting.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) revision: Revision,
    name: UserName,
    groups: Vec<GroupName>,
    attributes: Attributes,
    /// Namespaces with a role by policy that has not been needed yet.
    unused: HashSet<String>,
    /// From then on it is to be looked at again: the token is to be renewed, or policy itself says something else.
    until: Timestamp,
    authorization: HeaderValue,
    acts_for: Option<Arc<ActsFor>>,
    /// What was written last is known to the cluster since then, and for long enough.
    since: Instant,
    settled: AtomicBool,
}

impl Ready {
    pub(crate) fn acting(&self) -> Acting {
        Acting::for_user(self.authorization.clone(), self.acts_for.clone(), self.is_fresh())
    }

    fn is_fresh(&self) -> bool {
        if self.settled.load(Relaxed) {
            return false;
        }
        let fresh = self.since.elapsed() < FRESH;
        self.settled.store(!fresh, Relaxed);
        fresh
    }

    /// The credential, if it serves `who` in `namespace` under the policy of `revision`.
    pub(crate) fn serves(
        &self,
        who: &Principal,
        namespace: Option<&str>,
        revision: Revision,
        now: Timestamp,
    ) -> Option<Acting> {
        let same = self.name == *who.name() && self.groups == who.groups() && self.attributes == *who.attributes();
        let current = self.revision == revision && same;
        let there = namespace.is_none_or(|namespace| !self.unused.contains(namespace));
        (current && there && now < self.until).then(|| self.acting())
    }
}

#[derive(Debug)]
struct Token {
    authorization: HeaderValue,
    renew: Timestamp,
    expires: Timestamp,
}

/// What the agent has made in one place.
#[derive(Debug)]
struct Placed {
    held: Held,
    /// Of its objects, as the cluster has them: the same ones mean that nothing was missing.
    versions: Vec<String>,
    /// Something of it may be gone.
    doubted: bool,
}

impl Placed {
    fn is(&self, held: &Held) -> bool {
        !self.doubted && self.held == *held
    }
}

/// What exists in the cluster, as far as this agent has made or seen it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) principal: Option<Principal>,
    token: Option<Token>,
    cluster: Option<Placed>,
    namespaces: BTreeMap<String, Placed>,
    /// Looked for what an earlier run has left.
    surveyed: bool,
    /// Namespaces where it has left something that has not been made or removed since.
    left: BTreeSet<String>,
    /// When the roles were last made sure of.
    looked: Timestamp,
    /// So many looks in a row were in vain.
    in_vain: u32,
    /// When the cluster was told last that the account is in use.
    noted: Timestamp,
    /// It has not been told by which credentials.
    pub(crate) unnoted: bool,
    /// When something was written last.
    changed: Option<Instant>,
    /// When policy says something else of the user than what is held.
    pub(crate) changes: Option<Timestamp>,
}

/// An account; its steps are made one at a time.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) ready: ArcSwapOption<Ready>,
    pub(crate) state: Mutex<State>,
    used: AtomicI64,
    streams: AtomicUsize,
    /// By which it was used since it was made: it goes with each of them.
    credentials: ArcSwap<Vec<CredentialId>>,
}

impl Account {
    /// True if `credential` is among those that it goes with.
    pub(crate) fn is_used_by(&self, credential: &CredentialId) -> bool {
        self.credentials.load().contains(credential)
    }

    /// It goes with these as well; false if it is known to already.
    pub(crate) fn remember(&self, credentials: &[CredentialId]) -> bool {
        let is_news = |known: &[CredentialId]| credentials.iter().any(|credential| !known.contains(credential));
        if !is_news(&self.credentials.load()) {
            return false;
        }
        self.credentials.rcu(|known| {
            let more = credentials.iter().filter(|credential| !known.contains(credential));
            let mut all: Vec<_> = known.iter().chain(more).cloned().collect();
            all.drain(..all.len().saturating_sub(CREDENTIALS));
            all
        });
        true
    }

    /// Those that it goes with, newest last.
    pub(crate) fn credentials(&self) -> Arc<Vec<CredentialId>> {
        self.credentials.load_full()
    }

    /// It is gone, with what it was used by.
    pub(crate) fn forget(&self) {
        self.credentials.store(Arc::default());
    }

    pub(crate) fn touch(&self, now: Timestamp) {
        self.used.store(now.as_second(), Relaxed);
    }

    /// When it was last used, in seconds; now, if something is open.
    pub(crate) fn used(&self, now: Timestamp) -> i64 {
        if self.streams.load(Relaxed) > 0 {
            self.touch(now);
        }
        self.used.load(Relaxed)
    }

    /// A stream begins, or ends.
    pub(crate) fn stream(&self, begins: bool) {
        match begins {
            true => self.streams.fetch_add(1, Relaxed),
            false => self.streams.fetch_sub(1, Relaxed),
        };
    }

    /// The apiserver did not accept what ought to be there: next time everything is made sure of again.
    ///
    /// Not every 403 is about what the agent has made: the cluster's own RBAC may say it, or an admission plugin. So one that
    /// follows closely on the last look changes nothing, and less and less closely the more looks were in vain.
    pub(crate) async fn doubt(&self, token: bool, now: Timestamp) {
        let mut state = self.state.lock().await;
        let wait = LOOK_AGAIN * 2_i32.saturating_pow(state.in_vain.min(DOUBLINGS));
        let again = state.looked.saturating_add(wait).unwrap_or(Timestamp::MAX);
        if !token && now < again {
            return;
        }
        self.ready.store(None);
        let State { cluster, namespaces, .. } = &mut *state;
        for placed in cluster.iter_mut().chain(namespaces.values_mut()) {
            placed.doubted = true;
            if token {
                // Whatever is found is new to the account that has to be made anew.
                placed.versions.clear();
            }
        }
        if token {
            state.token = None;
        }
    }
}

/// The steps of one account.
pub(crate) struct Steps<'a> {
    pub(crate) client: &'a Client,
    pub(crate) settings: &'a Settings,
    pub(crate) names: Names<'a>,
    pub(crate) who: &'a Principal,
    pub(crate) credentials: Arc<Vec<CredentialId>>,
    pub(crate) now: Timestamp,
}

impl Steps<'_> {
    /// Brings the account to `wanted`, as far as a request in `namespace` needs it, and waits until the cluster has
    /// taken it up. May be dropped at any point and begun again.
    pub(crate) async fn bring(
        &self,
        state: &mut State,
        wanted: &Wanted,
        namespace: Option<&str>,
    ) -> Result<(), CallError> {
        state.principal = Some(self.who.clone());
        let mut made: Vec<(Option<&str>, Placed)> = Vec::new();

        let fresh = state.token.as_ref().is_some_and(|token| self.now < token.renew);
        let cluster = wanted.cluster.held();
        let is_due = state.cluster.as_ref().is_none_or(|placed| !placed.is(&cluster));
        let is_look = state.cluster.as_ref().is_some_and(|placed| placed.doubted);
        let (token, placed) = try_join(
            async { if fresh { Ok(None) } else { self.token(state.token.as_ref()).await.map(Some) } },
            async { if is_due { self.place(None, &wanted.cluster).await.map(Some) } else { Ok(None) } },
        )
        .await?;
        if let Some((token, is_noted)) = token {
            state.token = Some(token);
            state.noted = self.now;
            state.unnoted &= !is_noted;
        }
        if let Some(versions) = placed {
            made.push((None, Placed { held: cluster, versions, doubted: false }));
        }

        if let Some(namespace) = namespace
            && let Some(holding) = wanted.namespaces.get(namespace)
        {
            let held = holding.held();
            if state.namespaces.get(namespace).is_none_or(|placed| !placed.is(&held)) {
                match self.place(Some(namespace), holding).await {
                    Ok(versions) => made.push((Some(namespace), Placed { held, versions, doubted: false })),
                    // A role needs its namespace. Without one, the apiserver's own answer is the right one.
                    Err(error) if error.is_not_found() => _ = state.namespaces.remove(namespace),
                    Err(error) => return Err(error),
                }
            }
        }

        if let Some(token) = &state.token {
            let authorization = token.authorization.clone();
            let ready = async {
                for (namespace, placed) in &made {
                    self.taken_up(&authorization, &placed.held, *namespace).await?;
                }
                Ok(())
            };
            timeout(self.settings.ready_within, ready).await.unwrap_or(Err(CallError::NotReady))?;
        }
        if made.is_empty() {
            return Ok(());
        }
        state.looked = self.now;
        let mut is_news = false;
        for (namespace, placed) in made {
            let before = match namespace {
                Some(namespace) => state.namespaces.get(namespace),
                None => state.cluster.as_ref(),
            };
            // What is as it was is not new, though it was written again: there is nothing that an apiserver could not know yet.
            is_news |= before.is_none_or(|before| before.held != placed.held || before.versions != placed.versions);
            match namespace {
                Some(namespace) => _ = state.namespaces.insert(namespace.to_owned(), placed),
                None => state.cluster = Some(placed),
            }
        }
        if is_news {
            state.changed = Some(Instant::now());
            state.in_vain = 0;
        } else if is_look {
            state.in_vain = state.in_vain.saturating_add(1);
        }
        Ok(())
    }

    /// True if roles exist, or may exist, that `wanted` has in another form, or not at all.
    pub(crate) fn is_behind(state: &State, wanted: &Wanted) -> bool {
        if !state.surveyed || !state.left.is_empty() {
            return true;
        }
        let differs =
            |placed: &Placed, wanted: Option<&Holding>| wanted.is_none_or(|wanted| wanted.held() != placed.held);
        let cluster = state.cluster.as_ref().is_some_and(|placed| differs(placed, Some(&wanted.cluster)));
        cluster || state.namespaces.iter().any(|(namespace, placed)| differs(placed, wanted.namespaces.get(namespace)))
    }

    /// Makes roles that exist already what `wanted` says, and removes those that it does not have any more.
    pub(crate) async fn follow(&self, state: &mut State, wanted: &Wanted) -> Result<(), CallError> {
        if !state.surveyed {
            state.left = self.namespaces().await?;
            self.tidy(None, &wanted.cluster).await?;
            state.surveyed = true;
        }
        let held: BTreeSet<String> = state.namespaces.keys().chain(&state.left).cloned().collect();
        for namespace in &held {
            if let Some(holding) = wanted.namespaces.get(namespace) {
                self.bring(state, wanted, Some(namespace)).await?;
                if state.left.contains(namespace) {
                    self.tidy(Some(namespace), holding).await?;
                }
            } else {
                self.clear(Some(namespace)).await?;
                state.namespaces.remove(namespace);
            }
            state.left.remove(namespace);
        }
        self.bring(state, wanted, None).await
    }

    /// What requests may read from now on.
    pub(crate) fn ready(&self, state: &State, wanted: &Wanted, revision: Revision) -> Option<Ready> {
        let token = state.token.as_ref()?;
        let is_made = |namespace: &String| state.namespaces.get(namespace).is_some_and(|placed| !placed.doubted);
        let unused = wanted.namespaces.keys().filter(|namespace| !is_made(namespace));
        let acts_for = match self.settings.mode {
            Mode::Impersonate => Some(Arc::new(ActsFor::new(self.who)?)),
            Mode::ServiceAccount | Mode::Ceiling(_) => None,
        };
        Some(Ready {
            revision,
            name: self.who.name().clone(),
            groups: self.who.groups().to_vec(),
            attributes: self.who.attributes().clone(),
            unused: unused.cloned().collect(),
            until: state.changes.map_or(token.renew, |changes| changes.min(token.renew)),
            authorization: token.authorization.clone(),
            acts_for,
            since: state.changed.unwrap_or_else(Instant::now),
            settled: AtomicBool::new(false),
        })
    }

    /// Tells the cluster that the account was in use at `used`, if it has not heard for a while, or not by which credentials.
    pub(crate) async fn note_use(&self, state: &mut State, used: Timestamp) -> Result<(), CallError> {
        let often = SignedDuration::try_from(self.settings.idle / 4).unwrap_or(SignedDuration::MAX);
        if state.token.is_none() || (!state.unnoted && used.duration_since(state.noted) < often) {
            return Ok(());
        }
        let account = self.names.service_account_object(self.who, &self.credentials, used);
        self.client.impose(&self.names.service_account(), &account).await?.accepted("renewing an account's lease")?;
        (state.noted, state.unnoted) = (used, false);
        Ok(())
    }

    /// Makes ServiceAccount and Secret if need be, and a token bound to them; true if the ServiceAccount says who uses it.
    async fn token(&self, held: Option<&Token>) -> Result<(Token, bool), CallError> {
        match self.new_token().await {
            Err(error) => match held.filter(|held| self.now < held.expires) {
                Some(held) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "token not renewed yet");
                    // Tried again in a while; the token in hand still serves.
                    let renew = self.now.saturating_add(SignedDuration::from_secs(10)).unwrap_or(held.expires);
                    let authorization = held.authorization.clone();
                    Ok((Token { authorization, renew: renew.min(held.expires), expires: held.expires }, false))
                }
                None => Err(error),
            },
            Ok(made) => Ok((made, true)),
        }
    }

    async fn new_token(&self) -> Result<Token, CallError> {
        let secret = self.anchors().await?;
        let uid = secret.pointer("/metadata/uid").and_then(Value::as_str).ok_or(CallError::Unreadable)?;
        let life = self.settings.token_life.as_secs();
        let request = self.names.token_object(uid, life);
        let answer = self.client.post(&self.names.token(), &request).await?.accepted("requesting a token")?;
        let token = answer.pointer("/status/token").and_then(Value::as_str).and_then(bearer);
        let authorization = token.ok_or(CallError::Unreadable)?;
        // A cluster may grant less than was asked for. Counted by our clock, whatever the apiserver's shows.
        let granted = answer.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(600);
        let after = |seconds| {
            let end = self.now.checked_add(SignedDuration::from_secs(seconds));
            end.unwrap_or(Timestamp::MAX)
        };
        Ok(Token { authorization, renew: after(granted / 3 * 2), expires: after(granted) })
    }

    async fn anchors(&self) -> Result<Value, CallError> {
        let account = self.names.service_account_object(self.who, &self.credentials, self.now);
        let secret = self.names.secret_object(self.who);
        let (account_path, secret_path) = (self.names.service_account(), self.names.secret());
        let (account, secret) =
            try_join!(self.client.impose(&account_path, &account), self.client.impose(&secret_path, &secret))?;
        account.accepted("creating a service account")?;
        secret.accepted("creating the secret that tokens are bound to")
    }

    /// Makes what is to be in one place, and says which versions of its objects there are.
    async fn place(&self, namespace: Option<&str>, holding: &Holding) -> Result<Vec<String>, CallError> {
        match holding {
            Holding::Rules(marked) => self.role(namespace, marked).await,
            Holding::Roles(roles) => {
                let versions = try_join_all(roles.iter().map(|role| self.bind(namespace, role))).await?;
                self.tidy(namespace, holding).await?;
                Ok(versions)
            }
        }
    }

    async fn role(&self, namespace: Option<&str>, marked: &Marked) -> Result<Vec<String>, CallError> {
        let (roles, bindings) = match namespace {
            Some(_) => ("roles", "rolebindings"),
            None => ("clusterroles", "clusterrolebindings"),
        };
        let (role_path, binding_path) = (self.names.rbac(roles, namespace), self.names.rbac(bindings, namespace));
        let role = self.names.role_object(self.who, namespace, marked);
        let binding = self.names.binding_object(self.who, namespace);
        let (role, binding) =
            try_join!(self.client.impose(&role_path, &role), self.client.impose(&binding_path, &binding))?;
        let role = role.accepted("writing a role")?;
        let binding = binding.accepted("writing a role binding")?;
        Ok(vec![version(&role), version(&binding)])
    }

    async fn bind(&self, namespace: Option<&str>, role: &str) -> Result<String, CallError> {
        let binding = self.names.bound_object(self.who, namespace, role);
        let answer = self.client.impose(&self.names.bound(role, namespace), &binding).await?;
        answer.accepted("binding a role of the ceiling").map(|binding| version(&binding))
    }

    /// Removes what the account has in one place beside `holding`: of a policy, or a mode, that was before.
    async fn tidy(&self, namespace: Option<&str>, holding: &Holding) -> Result<(), CallError> {
        let keep: BTreeSet<String> = match holding {
            Holding::Rules(_) => [self.names.role()].into(),
            Holding::Roles(roles) => roles.iter().map(|role| self.names.bound_name(role)).collect(),
        };
        self.remove_but(namespace, &keep).await
    }

    /// Removes all that the account has in one place.
    pub(crate) async fn clear(&self, namespace: Option<&str>) -> Result<(), CallError> {
        self.remove_but(namespace, &BTreeSet::new()).await
    }

    async fn remove_but(&self, namespace: Option<&str>, keep: &BTreeSet<String>) -> Result<(), CallError> {
        for kind in kinds(namespace.is_some(), &self.settings.mode) {
            let items = self.client.list("listing an account's roles", &self.names.all_in(kind, namespace)).await?;
            for name in items.iter().filter_map(|item| item.pointer("/metadata/name")?.as_str()) {
                if !keep.contains(name) {
                    remove(self.client, &rbac(kind, namespace, name)).await?;
                }
            }
        }
        Ok(())
    }

    /// Asks until the authorizer knows what is held; the caller sets the limit.
    async fn taken_up(
        &self,
        authorization: &HeaderValue,
        held: &Held,
        namespace: Option<&str>,
    ) -> Result<(), CallError> {
        for question in questions(held, namespace) {
            self.knows(authorization, &question).await?;
        }
        Ok(())
    }

    async fn knows(&self, authorization: &HeaderValue, question: &Value) -> Result<(), CallError> {
        let mut pause = Duration::from_millis(5);
        loop {
            let account = Acting::by_token(authorization.clone());
            let answer = self.client.post_as(account, REVIEWS, question).await?;
            // 401: the authenticator has not seen the account yet. 403: it may not even ask yet.
            let waits = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.code);
            if !waits {
                let review = answer.accepted("asking whether the account is ready")?;
                if review.pointer("/status/allowed").and_then(Value::as_bool) == Some(true) {
                    return Ok(());
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Where the cluster has a role or a binding of the account.
    pub(crate) async fn namespaces(&self) -> Result<BTreeSet<String>, CallError> {
        let mut namespaces = BTreeSet::new();
        for kind in kinds(true, &self.settings.mode) {
            let items = self.client.list("listing an account's roles", &self.names.everywhere(kind)).await?;
            let of = |item: &Value| item.pointer("/metadata/namespace")?.as_str().map(str::to_owned);
            namespaces.extend(items.iter().filter_map(of));
        }
        Ok(namespaces)
    }
}

/// Which version of an object the cluster has: another one after whatever was written, and the same where nothing differed.
fn version(object: &Value) -> String {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Deletes; what is not there is gone already.
pub(crate) async fn remove(client: &Client, path: &str) -> Result<(), CallError> {
    match client.delete(path).await?.accepted("deleting an object of an account") {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
