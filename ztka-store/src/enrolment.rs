//! One-time tokens, and which key belongs to which name.

use async_trait::async_trait;
use sqlx::{Row as _, sqlite::SqliteRow};
use ztka_core::{KeyId, SpiffeId, Subject};
use ztka_pki::{Enrollee, EnrolmentStore, Spent, StoreError, TokenId, TokenRecord};

use crate::{
    SqliteStore,
    row::{corrupt, json, micros, some_time, text, time, to_json},
};

/// A token of a cluster that is deleted is none.
const ALIVE: &str = "SELECT t.* FROM tokens t LEFT JOIN clusters c ON c.id = t.cluster \
                     WHERE t.id = ? AND (t.cluster IS NULL OR (c.id IS NOT NULL AND c.deleted IS NULL))";

fn failed(error: impl Into<ztka_core::BoxError>) -> StoreError {
    StoreError::new(error)
}

/// A subject is stored as the path of its SPIFFE id.
fn subject(path: &str) -> Result<Subject, StoreError> {
    let id: SpiffeId = format!("spiffe://stored/{path}").parse().map_err(|_| failed(corrupt("subject")))?;
    Ok(id.subject)
}

fn spent(row: &SqliteRow) -> Result<Option<Spent>, StoreError> {
    let Some(key) = row.try_get::<Option<String>, _>("spent_key").map_err(failed)? else { return Ok(None) };
    let at = some_time(row, "spent_at").map_err(failed)?;
    Ok(Some(Spent {
        key: KeyId(key),
        subject: subject(row.try_get("spent_subject").map_err(failed)?)?,
        at: at.ok_or_else(|| failed(corrupt("spent_at")))?,
        chain: row.try_get("chain").map_err(failed)?,
        used: row.try_get("used").map_err(failed)?,
    }))
}

fn record(row: &SqliteRow) -> Result<TokenRecord, StoreError> {
    let hash: &[u8] = row.try_get("secret_hash").map_err(failed)?;
    Ok(TokenRecord {
        id: text(row, "id").map_err(failed)?,
        secret_hash: hash.try_into().map_err(|_| failed(corrupt("secret_hash")))?,
        enrollee: json(row, "enrollee").map_err(failed)?,
        created: time(row, "created").map_err(failed)?,
        expires: time(row, "expires").map_err(failed)?,
        spent: spent(row)?,
    })
}

#[async_trait]
impl EnrolmentStore for SqliteStore {
    async fn add_token(&self, record: TokenRecord) -> Result<(), StoreError> {
        let mut write = self.write().await.map_err(failed)?;
        let cluster = match &record.enrollee {
            Enrollee::Agent { cluster, .. } => Some(cluster.as_str()),
            Enrollee::Proxy { .. } => None,
        };
        let sql = "INSERT INTO tokens (id, secret_hash, enrollee, cluster, created, expires) VALUES (?, ?, ?, ?, ?, ?)";
        let insert = sqlx::query(sql)
            .bind(record.id.as_str())
            .bind(&record.secret_hash[..])
            .bind(to_json(&record.enrollee).map_err(failed)?)
            .bind(cluster)
            .bind(micros(record.created))
            .bind(micros(record.expires));
        insert.execute(&mut *write).await.map_err(failed)?;
        write.commit().await.map_err(failed)
    }

    async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let query = sqlx::query(ALIVE).bind(id.as_str());
        query.fetch_optional(self.readers()).await.map_err(failed)?.as_ref().map(record).transpose()
    }

    async fn spend(&self, id: &TokenId, by: Spent) -> Result<Option<Spent>, StoreError> {
        let mut write = self.write().await.map_err(failed)?;
        let query = sqlx::query(ALIVE).bind(id.as_str());
        let Some(row) = query.fetch_optional(&mut *write).await.map_err(failed)? else { return Ok(None) };
        if let Some(first) = spent(&row)? {
            return Ok(Some(first));
        }
        let sql = "UPDATE tokens SET spent_key = ?, spent_subject = ?, spent_at = ?, chain = ?, used = ? WHERE id = ?";
        let update = sqlx::query(sql)
            .bind(&by.key.0)
            .bind(by.subject.to_string())
            .bind(micros(by.at))
            .bind(&by.chain)
            .bind(by.used)
            .bind(id.as_str());
        update.execute(&mut *write).await.map_err(failed)?;
        write.commit().await.map_err(failed)?;
        Ok(Some(by))
    }

    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError> {
        let mut write = self.write().await.map_err(failed)?;
        let sql = "UPDATE tokens SET chain = coalesce(chain, ?) WHERE id = ? AND spent_key IS NOT NULL RETURNING chain";
        let update = sqlx::query(sql).bind(chain).bind(id.as_str());
        let row = update.fetch_optional(&mut *write).await.map_err(failed)?;
        let row = row.ok_or_else(|| failed("the token is not there or not spent"))?;
        let kept = row.try_get("chain").map_err(failed)?;
        write.commit().await.map_err(failed)?;
        Ok(kept)
    }

    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError> {
        let mut write = self.write().await.map_err(failed)?;
        let update = sqlx::query("UPDATE tokens SET used = 1 WHERE spent_key = ?").bind(&key.0);
        update.execute(&mut *write).await.map_err(failed)?;
        write.commit().await.map_err(failed)
    }

    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError> {
        let mut write = self.write().await.map_err(failed)?;
        let insert = sqlx::query("INSERT OR IGNORE INTO bound_keys (key, subject) VALUES (?, ?)");
        insert.bind(&key.0).bind(subject.to_string()).execute(&mut *write).await.map_err(failed)?;
        let query = sqlx::query("SELECT subject FROM bound_keys WHERE key = ?").bind(&key.0);
        let row = query.fetch_one(&mut *write).await.map_err(failed)?;
        let bound: String = row.try_get("subject").map_err(failed)?;
        write.commit().await.map_err(failed)?;
        Ok(bound == subject.to_string())
    }
}
