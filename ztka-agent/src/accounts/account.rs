//! One user's account: what of it is known to exist, and the steps that bring it to what policy says.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::{future::try_join, try_join};
use http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use ztka_authz::{Rendered, Rule};
use ztka_core::{GroupName, Principal, Revision, UserName};

use super::{
    Settings,
    client::{CallError, Client, bearer},
    objects::{Digest, Marked, NAMESPACE_KINDS, Names, question},
};

/// How long a look at the roles of an account is good for, whatever the apiserver answers its user.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What one request needs to know, read without waiting.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) revision: Revision,
    name: UserName,
    groups: Vec<GroupName>,
    /// Namespaces with a role by policy that has not been needed yet.
    unused: HashSet<String>,
    renew: Timestamp,
    authorization: HeaderValue,
}

impl Ready {
    pub(crate) fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// The token, if it serves `who` in `namespace` under the policy of `revision`.
    pub(crate) fn serves(
        &self,
        who: &Principal,
        namespace: Option<&str>,
        revision: Revision,
        now: Timestamp,
    ) -> Option<HeaderValue> {
        let current = self.revision == revision && self.name == *who.name() && self.groups == who.groups();
        let there = namespace.is_none_or(|namespace| !self.unused.contains(namespace));
        (current && there && now < self.renew).then(|| self.authorization.clone())
    }
}

#[derive(Debug)]
struct Token {
    authorization: HeaderValue,
    renew: Timestamp,
    expires: Timestamp,
}

/// What exists in the cluster, as far as this agent has made or seen it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) principal: Option<Principal>,
    token: Option<Token>,
    cluster: Option<Digest>,
    namespaces: BTreeMap<String, Digest>,
    /// Looked for what an earlier run has left in namespaces.
    surveyed: bool,
    /// Where it has left something that has not been made or removed since.
    left: BTreeSet<String>,
    /// When the roles were last made sure of.
    looked: Timestamp,
}

/// An account; its steps are made one at a time.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) ready: ArcSwapOption<Ready>,
    pub(crate) state: Mutex<State>,
    used: AtomicI64,
}

impl Account {
    pub(crate) fn touch(&self, now: Timestamp) {
        self.used.store(now.as_second(), Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> i64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The apiserver did not accept what ought to be there: next time everything is made sure of again.
    ///
    /// Not every 403 is about permissions, so one that follows closely on the last look changes nothing.
    pub(crate) async fn doubt(&self, token: bool, now: Timestamp) {
        let mut state = self.state.lock().await;
        let again = state.looked.saturating_add(LOOK_AGAIN).unwrap_or(Timestamp::MAX);
        if !token && now < again {
            return;
        }
        self.ready.store(None);
        state.cluster = None;
        state.namespaces.clear();
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
    pub(crate) now: Timestamp,
}

impl Steps<'_> {
    /// Brings the account to `rendered`, as far as a request in `namespace` needs it, and waits until the cluster has
    /// taken it up. May be dropped at any point and begun again.
    pub(crate) async fn bring(
        &self,
        state: &mut State,
        rendered: &Rendered,
        namespace: Option<&str>,
    ) -> Result<(), CallError> {
        state.principal = Some(self.who.clone());
        let mut changed: Vec<(Option<&str>, Digest)> = Vec::new();

        let fresh = state.token.as_ref().is_some_and(|token| self.now < token.renew);
        let cluster = Marked::new(rendered.cluster.clone());
        let is_new = state.cluster.as_ref() != Some(&cluster.digest);
        let (token, ()) = try_join(
            async { if fresh { Ok(None) } else { self.token(state.token.as_ref()).await.map(Some) } },
            async { if is_new { self.role(None, &cluster).await } else { Ok(()) } },
        )
        .await?;
        if let Some(token) = token {
            state.token = Some(token);
        }
        if is_new {
            changed.push((None, cluster.digest.clone()));
        }

        if let Some(namespace) = namespace
            && let Some(rules) = rendered.namespaces.get(namespace)
        {
            let marked = Marked::new(rules.clone());
            if state.namespaces.get(namespace) != Some(&marked.digest) {
                match self.role(Some(namespace), &marked).await {
                    Ok(()) => changed.push((Some(namespace), marked.digest)),
                    // A role needs its namespace. Without one, the apiserver's own answer is the right one.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }

        if let Some(token) = &state.token {
            let authorization = token.authorization.clone();
            let ready = async {
                for (namespace, digest) in &changed {
                    self.taken_up(&authorization, digest, *namespace).await?;
                }
                Ok(())
            };
            timeout(self.settings.ready_within, ready).await.unwrap_or(Err(CallError::NotReady))?;
        }
        state.looked = self.now;
        for (namespace, digest) in changed {
            match namespace {
                Some(namespace) => {
                    state.namespaces.insert(namespace.to_owned(), digest);
                }
                None => state.cluster = Some(digest),
            }
        }
        Ok(())
    }

    /// True if roles exist, or may exist, that `rendered` has in another form, or not at all.
    pub(crate) fn is_behind(state: &State, rendered: &Rendered) -> bool {
        let differs = |held: &Digest, rules: Option<&Vec<Rule>>| {
            rules.is_none_or(|rules| Marked::new(rules.clone()).digest != *held)
        };
        if !state.surveyed || !state.left.is_empty() {
            return true;
        }
        let cluster = state.cluster.as_ref().is_some_and(|held| differs(held, Some(&rendered.cluster)));
        cluster || state.namespaces.iter().any(|(namespace, held)| differs(held, rendered.namespaces.get(namespace)))
    }

    /// Makes roles that exist already what `rendered` says, and removes those that it does not have any more.
    pub(crate) async fn follow(&self, state: &mut State, rendered: &Rendered) -> Result<(), CallError> {
        if !state.surveyed {
            state.left = self.namespaces().await?;
            state.surveyed = true;
        }
        let held: BTreeSet<String> = state.namespaces.keys().chain(&state.left).cloned().collect();
        for namespace in &held {
            if rendered.namespaces.contains_key(namespace) {
                self.bring(state, rendered, Some(namespace)).await?;
            } else {
                for kind in NAMESPACE_KINDS {
                    self.gone(&self.names.rbac(kind, Some(namespace))).await?;
                }
                state.namespaces.remove(namespace);
            }
            state.left.remove(namespace);
        }
        self.bring(state, rendered, None).await
    }

    /// What requests may read from now on.
    pub(crate) fn ready(&self, state: &State, rendered: &Rendered, revision: Revision) -> Option<Ready> {
        let token = state.token.as_ref()?;
        let unused = rendered.namespaces.keys().filter(|namespace| !state.namespaces.contains_key(*namespace));
        Some(Ready {
            revision,
            name: self.who.name().clone(),
            groups: self.who.groups().to_vec(),
            unused: unused.cloned().collect(),
            renew: token.renew,
            authorization: token.authorization.clone(),
        })
    }

    /// Makes ServiceAccount and Secret if need be, and a token bound to them.
    async fn token(&self, held: Option<&Token>) -> Result<Token, CallError> {
        match self.new_token().await {
            Err(error) => match held.filter(|held| self.now < held.expires) {
                Some(held) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "token not renewed yet");
                    // Tried again in a while; the token in hand still serves.
                    let renew = self.now.saturating_add(SignedDuration::from_secs(10)).unwrap_or(held.expires);
                    let authorization = held.authorization.clone();
                    Ok(Token { authorization, renew: renew.min(held.expires), expires: held.expires })
                }
                None => Err(error),
            },
            made => made,
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
        let (account, secret) =
            (self.names.service_account_object(self.who, self.now), self.names.secret_object(self.who));
        let (account_path, secret_path) = (self.names.service_account(), self.names.secret());
        let (account, secret) =
            try_join!(self.client.apply(&account_path, &account), self.client.apply(&secret_path, &secret))?;
        account.accepted("creating a service account")?;
        secret.accepted("creating the secret that tokens are bound to")
    }

    async fn role(&self, namespace: Option<&str>, marked: &Marked) -> Result<(), CallError> {
        let (roles, bindings) = match namespace {
            Some(_) => ("roles", "rolebindings"),
            None => ("clusterroles", "clusterrolebindings"),
        };
        let (role_path, binding_path) = (self.names.rbac(roles, namespace), self.names.rbac(bindings, namespace));
        let role = self.names.role_object(self.who, namespace, marked);
        let binding = self.names.binding_object(self.who, namespace);
        let (role, binding) =
            try_join!(self.client.apply(&role_path, &role), self.client.apply(&binding_path, &binding))?;
        role.accepted("writing a role")?;
        binding.accepted("writing a role binding")?;
        Ok(())
    }

    /// Asks until the authorizer knows these rules; the caller sets the limit.
    async fn taken_up(
        &self,
        authorization: &HeaderValue,
        digest: &Digest,
        namespace: Option<&str>,
    ) -> Result<(), CallError> {
        let question = question(digest, namespace);
        let mut pause = Duration::from_millis(5);
        loop {
            let answer = self.client.post_as(authorization, REVIEWS, &question).await?;
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
    async fn namespaces(&self) -> Result<BTreeSet<String>, CallError> {
        let mut namespaces = BTreeSet::new();
        for kind in NAMESPACE_KINDS {
            let items = self.client.list("listing an account's roles", &self.names.everywhere(kind)).await?;
            let of = |item: &Value| item.pointer("/metadata/namespace")?.as_str().map(str::to_owned);
            namespaces.extend(items.iter().filter_map(of));
        }
        Ok(namespaces)
    }

    async fn gone(&self, path: &str) -> Result<(), CallError> {
        remove(self.client, path).await
    }
}

/// Deletes; what is not there is gone already.
pub(crate) async fn remove(client: &Client, path: &str) -> Result<(), CallError> {
    match client.delete(path).await?.accepted("deleting an object of an account") {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
