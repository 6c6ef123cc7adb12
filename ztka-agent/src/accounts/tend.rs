//! What happens to accounts without anybody asking: they follow policy, and go when they are not needed any more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};
use ztka_core::UserId;

use super::{
    ServiceAccounts,
    account::{Account, State, Steps, remove},
    client::CallError,
    objects::{AGENT, MANAGED_BY, NAMESPACE_KINDS, USED_AT, USER},
};

/// Objects of a user at the cluster scope.
const CLUSTER_KINDS: [&str; 2] = ["clusterrolebindings", "clusterroles"];
/// When the cluster could not be asked.
const AGAIN: Duration = Duration::from_secs(10);

impl ServiceAccounts {
    /// Follows policy and removes idle accounts until dropped.
    pub async fn tend(self) {
        let mut changes = self.0.engine.changes();
        let mut sweeps = interval((self.0.settings.idle / 8).clamp(Duration::from_secs(30), Duration::from_secs(3600)));
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind = false;
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => behind = !self.follow_policy().await,
                    Err(_) => return, // no engine, no policy to follow
                },
                () = self.0.behind.notified() => behind = !self.follow_policy().await,
                () = sleep(AGAIN), if behind => behind = !self.follow_policy().await,
                _ = sweeps.tick() => {
                    if let Err(error) = self.sweep().await {
                        tracing::warn!(error = &error as &dyn std::error::Error, "idle accounts not looked for");
                    }
                }
            }
        }
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
        let Ok((revision, rendered)) = self.render(&who) else {
            return Ok(()); // no policy: nothing is allowed, and nothing is known to change
        };
        let Some(rendered) = rendered else {
            return self.remove_account(user, account, &mut state).await;
        };
        if !Steps::is_behind(&state, &rendered) {
            return Ok(()); // the next request publishes the new revision
        }
        let steps = self.steps(&who);
        steps.follow(&mut state, &rendered).await?;
        account.ready.store(steps.ready(&state, &rendered, revision).map(Arc::new));
        Ok(())
    }

    /// Removes the accounts of disabled users, those made before this agent started included.
    ///
    /// # Errors
    /// If the cluster cannot be asked; the call is to be repeated then.
    pub async fn disabled(&self, users: &BTreeSet<UserId>) -> Result<(), ztka_core::BoxError> {
        let existing = self.existing().await?;
        let gone = existing.into_iter().map(|(user, _)| user).filter(|user| users.contains(user));
        each(gone, |user| async move { self.remove(&user).await }).await
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
        let (client, names) = (&self.0.client, self.names(user));
        // First what gives power: the token ends with the Secret.
        let mut paths = vec![names.secret(), names.service_account()];
        paths.extend(CLUSTER_KINDS.map(|kind| names.rbac(kind, None)));
        for kind in NAMESPACE_KINDS {
            let items = client.list("listing an account's roles", &names.everywhere(kind)).await?;
            let namespaces = items.iter().filter_map(|item| item.pointer("/metadata/namespace")?.as_str());
            paths.extend(namespaces.map(|namespace| names.rbac(kind, Some(namespace))));
        }
        let removed = join_all(paths.iter().map(|path| remove(client, path))).await;
        removed.into_iter().collect::<Result<(), _>>()?;
        *state = State::default();
        tracing::info!(%user, "account removed");
        Ok(())
    }

    /// Accounts in the cluster, with the time of their last known use.
    async fn existing(&self) -> Result<Vec<(UserId, Option<Timestamp>)>, CallError> {
        let home = &self.0.settings.namespace;
        let path = format!("/api/v1/namespaces/{home}/serviceaccounts?labelSelector={MANAGED_BY}%3D{AGENT}");
        let items = self.0.client.list("listing accounts", &path).await?;
        let account = |item: &Value| {
            let metadata = item.get("metadata")?;
            let user = metadata.get("labels")?.get(USER)?.as_str()?.parse().ok()?;
            let used =
                metadata.get("annotations").and_then(|annotations| annotations.get(USED_AT)?.as_str()?.parse().ok());
            Some((user, used))
        };
        Ok(items.iter().filter_map(account).collect())
    }

    /// Removes accounts that neither this agent nor, by their annotation, another one has used for a while.
    pub(crate) async fn sweep(&self) -> Result<(), CallError> {
        let idle = i64::try_from(self.0.settings.idle.as_secs()).unwrap_or(i64::MAX);
        let limit = self.0.clock.now().as_second().saturating_sub(idle);
        let removed = each(self.existing().await?, |(user, used)| async move {
            let account = self.account(&user);
            let used = used.map_or(0, Timestamp::as_second).max(account.used());
            if used < limit {
                let mut state = account.state.lock().await;
                self.remove_account(&user, &account, &mut state).await?;
            }
            Ok(())
        });
        let removed = removed.await;
        // What is known of them goes as well, unless somebody holds it just now.
        let mut accounts = self.0.accounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        accounts.retain(|_, account| Arc::strong_count(account) > 1 || account.used() >= limit);
        removed
    }
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
