//! An enrolment store that ends with the process.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{KeyId, Subject};

use super::{
    store::{Admission, Enrollee, EnrolmentStore, Replica, Spent, StoreError, TokenRecord, Verdict},
    token::TokenId,
};

#[derive(Debug, Default)]
struct Kept {
    tokens: HashMap<TokenId, TokenRecord>,
    keys: HashMap<KeyId, Subject>,
    replicas: Vec<Replica>,
}

/// Keeps tokens in memory only: for tests and for installations that do not outlive their process.
#[derive(Debug, Default)]
pub struct MemoryEnrolmentStore(Mutex<Kept>);

impl MemoryEnrolmentStore {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EnrolmentStore for MemoryEnrolmentStore {
    async fn add_token(&self, record: TokenRecord) -> Result<(), StoreError> {
        let mut kept = self.kept();
        if kept.tokens.contains_key(&record.id) {
            return Err(StoreError::new("there is a token with this id"));
        }
        kept.tokens.insert(record.id.clone(), record);
        Ok(())
    }

    async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.kept().tokens.get(id).cloned())
    }

    async fn spend(&self, id: &TokenId, spent: Spent) -> Result<Option<Spent>, StoreError> {
        let mut kept = self.kept();
        let record = kept.tokens.get_mut(id).filter(|record| record.revoked.is_none() || record.spent.is_some());
        Ok(record.map(|record| record.spent.get_or_insert(spent).clone()))
    }

    async fn tokens(&self, enrollee: &Enrollee) -> Result<Vec<TokenRecord>, StoreError> {
        let kept = self.kept();
        let mut tokens: Vec<_> = kept.tokens.values().filter(|record| record.enrollee == *enrollee).cloned().collect();
        tokens.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        tokens.truncate(500);
        Ok(tokens)
    }

    async fn revoke_token(&self, id: &TokenId, at: Timestamp) -> Result<bool, StoreError> {
        let mut kept = self.kept();
        let Some(record) = kept.tokens.get_mut(id) else { return Ok(false) };
        record.revoked.get_or_insert(at);
        Ok(true)
    }

    async fn decide(&self, id: &TokenId, key: &KeyId, verdict: Verdict) -> Result<Option<Verdict>, StoreError> {
        let mut kept = self.kept();
        let record = kept.tokens.get_mut(id).filter(|record| {
            let waits = record.approval && record.revoked.is_none();
            waits && record.spent.as_ref().is_some_and(|spent| spent.key == *key)
        });
        Ok(record.map(|record| *record.verdict.get_or_insert(verdict)))
    }

    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError> {
        let mut kept = self.kept();
        let record = kept.tokens.get_mut(id).filter(|record| {
            record.revoked.is_none() && (!record.approval || record.verdict == Some(Verdict::Approved))
        });
        let spent = record.and_then(|record| record.spent.as_mut());
        let spent =
            spent.ok_or_else(|| StoreError::new("the token is not there, not spent, revoked or not approved"))?;
        Ok(spent.chain.get_or_insert(chain).clone())
    }

    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError> {
        let mut kept = self.kept();
        let spent = kept.tokens.values_mut().filter_map(|record| record.spent.as_mut());
        spent.filter(|spent| spent.key == *key).for_each(|spent| spent.used = true);
        Ok(())
    }

    async fn add_replica(&self, asked: &Replica, most: usize) -> Result<Admission, StoreError> {
        let mut kept = self.kept();
        if kept.replicas.iter().any(|replica| replica.instance == asked.let_in) {
            return Ok(Admission::NotByToken);
        }
        let mut of_cluster = kept.replicas.iter().filter(|replica| replica.cluster == asked.cluster);
        let known = of_cluster.clone().find(|replica| replica.key == asked.key && replica.let_in == asked.let_in);
        if let Some(known) = known {
            return Ok(Admission::Known(known.instance.clone()));
        }
        if kept.keys.contains_key(&asked.key) {
            return Ok(Admission::KeyBound);
        }
        if of_cluster.by_ref().filter(|replica| replica.ends > asked.now).count() >= most {
            return Ok(Admission::Full);
        }
        kept.keys.insert(asked.key.clone(), asked.subject());
        kept.replicas.push(asked.clone());
        Ok(Admission::Admitted)
    }

    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError> {
        let mut kept = self.kept();
        let bound = kept.keys.entry(key.clone()).or_insert_with(|| subject.clone());
        Ok(bound == subject)
    }
}
