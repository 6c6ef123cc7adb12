//! What happens to accounts without anybody asking: they follow policy, and go when they are not needed any more.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};
use ztka_core::{CredentialId, UserId};

use super::{
    ServiceAccounts,
    account::{Account, State, Steps, remove},
    client::CallError,
    objects::{AGENT, COMMA, CREDENTIALS, MANAGED_BY, USED_AT, USER, all_made, kinds, rbac},
};

/// Terms that begin or end are looked for this often.
const TICK: Duration = Duration::from_secs(1);
/// When the cluster could not be asked.
const AGAIN: Duration = Duration::from_secs(10);

impl ServiceAccounts {
    /// Follows policy and removes idle accounts until dropped.
    pub async fn tend(self) {
        let mut changes = self.0.engine.changes();
        let mut sweeps = interval((self.0.settings.idle / 8).clamp(Duration::from_secs(30), Duration::from_secs(3600)));
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind = false;
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => behind = !self.follow_policy().await,
                    Err(_) => return, // no engine, no policy to follow
                },
                () = self.0.behind.notified() => behind = !self.follow_policy().await,
                () = sleep(AGAIN), if behind => behind = !self.follow_policy().await,
                _ = ticks.tick() => if self.is_due() {
                    behind = !self.follow_policy().await;
                },
                _ = sweeps.tick() => {
                    if let Err(error) = self.sweep().await {
                        tracing::warn!(error = &*error, "idle accounts not looked for");
                    }
                }
            }
        }
    }

    /// True if the policy in force has come to say something else of somebody, by nothing but the time.
    fn is_due(&self) -> bool {
        let now = self.0.clock.now();
        // One that is being made follows policy by that.
        let due =
            |account: &Account| account.state.try_lock().is_ok_and(|state| state.changes.is_some_and(|at| at <= now));
        self.known().iter().any(|(_, account)| due(account))
    }

    /// Brings every account in use to the policy in force; users without any role lose theirs. False if some could not
    /// be.
    pub async fn follow_policy(&self) -> bool {
        let mut all = true;
        for (user, account) in self.known() {
            if let Err(error) = self.follow_one(&user, &account).await {
                // The next request of the user tries again, and is decided on by the new policy in any case.
                tracing::warn!(%user, error = &error as &dyn std::error::Error, "account does not follow policy yet");
                all = false;
            }
        }
        all
    }

    async fn follow_one(&self, user: &UserId, account: &Arc<Account>) -> Result<(), CallError> {
        let mut state = account.state.lock().await;
        let Some(who) = state.principal.clone() else {
            return Ok(());
        };
        let Ok((revision, wanted, changes)) = self.wanted(&who) else {
            return Ok(()); // no policy: nothing is allowed, and nothing is known to change
        };
        let Some(wanted) = wanted else {
            return self.remove_account(user, account, &mut state).await;
        };
        if !Steps::is_behind(&state, &wanted) {
            state.changes = changes;
            return Ok(()); // the next request publishes the new revision
        }
        let steps = self.steps(&who, account);
        steps.follow(&mut state, &wanted).await?;
        state.changes = changes;
        account.ready.store(steps.ready(&state, &wanted, revision).map(Arc::new));
        Ok(())
    }

    /// Removes the accounts of disabled users, and those that revoked credentials have used, as this agent has seen or the cluster
    /// shows; those made before this agent started included.
    ///
    /// # Errors
    /// If the cluster cannot be asked; the call is to be repeated then.
    pub async fn disabled(
        &self,
        users: &BTreeSet<UserId>,
        credentials: &BTreeSet<CredentialId>,
    ) -> Result<(), ztka_core::BoxError> {
        let seen: HashMap<_, _> = self.known().into_iter().collect();
        let is_gone = |found: &Existing| {
            let seen = seen.get(&found.user).map(|account| account.credentials());
            let mut used = found.credentials.iter().chain(seen.iter().flat_map(|seen| seen.iter()));
            users.contains(&found.user) || used.any(|used| credentials.contains(used))
        };
        let gone = self.existing().await?.into_iter().filter(is_gone);
        each(gone, |found| async move { self.remove(&found.user).await }).await
    }

    /// Removes one account with all that belongs to it; its tokens end within seconds.
    ///
    /// # Errors
    /// If something of it may still be there; the call is to be repeated then.
    pub async fn remove(&self, user: &UserId) -> Result<(), ztka_core::BoxError> {
        let account = self.account(user);
        let mut state = account.state.lock().await;
        Ok(self.remove_account(user, &account, &mut state).await?)
    }

    async fn remove_account(&self, user: &UserId, account: &Account, state: &mut State) -> Result<(), CallError> {
        account.ready.store(None);
        let (client, names, mode) = (&self.0.client, self.names(user), &self.0.settings.mode);
        // First what gives power: the token ends with the Secret. The ServiceAccount comes last, since it is by that that
        // whoever goes on finds the rest.
        remove(client, &names.secret()).await?;
        for kind in kinds(true, mode).iter().chain(kinds(false, mode)) {
            let items = client.list("listing an account's roles", &names.everywhere(kind)).await?;
            let paths = items.iter().filter_map(|item| path_of(kind, item));
            let removed = join_all(paths.map(|path| async move { remove(client, &path).await })).await;
            removed.into_iter().collect::<Result<(), _>>()?;
        }
        remove(client, &names.service_account()).await?;
        account.forget();
        *state = State::default();
        tracing::info!(%user, "account removed");
        Ok(())
    }

    /// Accounts in the cluster.
    async fn existing(&self) -> Result<Vec<Existing>, CallError> {
        let home = &self.0.settings.namespace;
        let path = format!("/api/v1/namespaces/{home}/serviceaccounts?labelSelector={MANAGED_BY}%3D{AGENT}");
        let items = self.0.client.list("listing accounts", &path).await?;
        let account = |item: &Value| {
            let annotation = |name: &str| item.get("metadata")?.get("annotations")?.get(name)?.as_str();
            let used = annotation(USED_AT).and_then(|text| text.parse().ok());
            let credentials = annotation(CREDENTIALS).unwrap_or_default().split(COMMA);
            let credentials = credentials.filter_map(|text| text.parse().ok()).collect();
            Some(Existing { user: user_of(item)?, used, credentials })
        };
        Ok(items.iter().filter_map(account).collect())
    }

    /// Looks once for accounts that are not needed: those whose session is over, or that neither this agent nor, by their
    /// lease, another one has used for a while; and for what is left where there is no account. Renews the leases of others.
    ///
    /// # Errors
    /// If the cluster did not do all of it; the call is to be repeated then.
    pub async fn sweep(&self) -> Result<(), ztka_core::BoxError> {
        let idle = i64::try_from(self.0.settings.idle.as_secs()).unwrap_or(i64::MAX);
        let now = self.0.clock.now();
        let limit = now.as_second().saturating_sub(idle);
        let existing = self.existing().await?;
        let users: BTreeSet<UserId> = existing.iter().map(|found| found.user.clone()).collect();
        let removed = each(existing, |found| async move {
            let account = self.account(&found.user);
            let used = found.used.map_or(0, Timestamp::as_second).max(account.used(now));
            let mut state = account.state.lock().await;
            // Another agent may have written what it has seen in the place of what this one has.
            account.remember(&found.credentials);
            state.unnoted |= account.credentials().iter().any(|used| !found.credentials.contains(used));
            // One that was used later was used in a session that goes on.
            let ended = |until: Timestamp| until <= now && used < until.as_second();
            let over = state.principal.as_ref().is_some_and(|who| ended(who.active_until()));
            if used < limit || over {
                return self.remove_account(&found.user, &account, &mut state).await;
            }
            let (who, used) = (state.principal.clone(), Timestamp::from_second(account.used(now)));
            match (who, used) {
                (Some(who), Ok(used)) => self.steps(&who, &account).note_use(&mut state, used).await,
                _ => Ok(()),
            }
        });
        let outcome = removed.await.and(self.sweep_orphans(&users).await);
        // What is known of them goes as well, unless somebody holds it just now.
        let mut accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|_, account| Arc::strong_count(account) > 1 || account.used(now) >= limit);
        Ok(outcome?)
    }

    /// Removes roles and bindings of users who have no ServiceAccount, now and at the look before: an account is not made in one
    /// step, nor by this agent alone.
    async fn sweep_orphans(&self, users: &BTreeSet<UserId>) -> Result<(), CallError> {
        let mode = &self.0.settings.mode;
        let mut found: BTreeSet<UserId> = BTreeSet::new();
        for kind in kinds(true, mode).iter().chain(kinds(false, mode)) {
            let items = self.0.client.list("listing roles of accounts", &all_made(kind)).await?;
            found.extend(items.iter().filter_map(user_of).filter(|user| !users.contains(user)));
        }
        let again = {
            let mut orphans = self.0.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            let again: Vec<_> = found.intersection(&orphans).cloned().collect();
            *orphans = found;
            again
        };
        each(again, |user| async move {
            let account = self.account(&user);
            let mut state = account.state.lock().await;
            match state.principal {
                // It was made meanwhile.
                Some(_) => Ok(()),
                None => self.remove_account(&user, &account, &mut state).await,
            }
        })
        .await
    }
}

/// An account as the cluster shows it.
#[derive(Debug)]
struct Existing {
    user: UserId,
    /// When it was last known to be in use.
    used: Option<Timestamp>,
    credentials: Vec<CredentialId>,
}

fn user_of(item: &Value) -> Option<UserId> {
    item.get("metadata")?.get("labels")?.get(USER)?.as_str()?.parse().ok()
}

fn path_of(kind: &str, item: &Value) -> Option<String> {
    let metadata = item.get("metadata")?;
    Some(rbac(kind, metadata.get("namespace").and_then(Value::as_str), metadata.get("name")?.as_str()?))
}

/// Does `one` with all; what cannot be done with one keeps no other from it, and the first failure is told at the end.
async fn each<T, E, F>(all: impl IntoIterator<Item = T>, one: impl Fn(T) -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut outcome = Ok(());
    for item in all {
        outcome = outcome.and(one(item).await);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_fails_with_one_is_done_with_the_others() {
        let tried = Mutex::new(Vec::new());
        let done = each(1..=4, |item| {
            tried.lock().unwrap().push(item);
            std::future::ready(if item % 2 == 0 { Err(item) } else { Ok(()) })
        });
        assert_eq!(done.await, Err(2), "the first failure");
        assert_eq!(*tried.lock().unwrap(), [1, 2, 3, 4]);
        assert_eq!(each([1, 3], |_| std::future::ready(Ok::<_, u8>(()))).await, Ok(()));
    }
}
