//! An enrolment store that ends with the process.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use ztka_core::{KeyId, Subject};

use super::{
    store::{EnrolmentStore, Spent, StoreError, TokenRecord},
    token::TokenId,
};

#[derive(Debug, Default)]
struct Kept {
    tokens: HashMap<TokenId, TokenRecord>,
    keys: HashMap<KeyId, Subject>,
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
        Ok(kept.tokens.get_mut(id).map(|record| record.spent.get_or_insert(spent).clone()))
    }

    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError> {
        let mut kept = self.kept();
        let spent = kept.tokens.get_mut(id).and_then(|record| record.spent.as_mut());
        let spent = spent.ok_or_else(|| StoreError::new("the token is not there or not spent"))?;
        Ok(spent.chain.get_or_insert(chain).clone())
    }

    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError> {
        let mut kept = self.kept();
        let spent = kept.tokens.values_mut().filter_map(|record| record.spent.as_mut());
        spent.filter(|spent| spent.key == *key).for_each(|spent| spent.used = true);
        Ok(())
    }

    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError> {
        let mut kept = self.kept();
        let bound = kept.keys.entry(key.clone()).or_insert_with(|| subject.clone());
        Ok(bound == subject)
    }
}
