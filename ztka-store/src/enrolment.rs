//! One-time tokens, and which key belongs to which name.

use async_trait::async_trait;
use ztka_core::{KeyId, SpiffeId, Subject};
use ztka_pki::{Enrollee, EnrolmentStore, Spent, StoreError, TokenId, TokenRecord};

use crate::{
    Failed, Store,
    row::{json, micros, some_time, text, time, to_json},
    sql::{Row, Statement, sql},
};

/// A token of a cluster that is deleted is none.
fn alive(id: &TokenId) -> Statement {
    let text = "SELECT t.* FROM tokens t LEFT JOIN clusters c ON c.id = t.cluster \
                WHERE t.id = $1 AND (t.cluster IS NULL OR (c.id IS NOT NULL AND c.deleted IS NULL))";
    sql(text).bind(id.as_str())
}

/// A subject is stored as the path of its SPIFFE id.
fn subject(path: &str) -> Result<Subject, Failed> {
    let id: SpiffeId = format!("spiffe://stored/{path}").parse().map_err(|_| Failed::Corrupt("subject"))?;
    Ok(id.subject)
}

fn spent(row: &Row) -> Result<Option<Spent>, Failed> {
    let Some(key) = row.some_str("spent_key")? else { return Ok(None) };
    Ok(Some(Spent {
        key: KeyId(key.to_owned()),
        subject: subject(row.str("spent_subject")?)?,
        at: some_time(row, "spent_at")?.ok_or(Failed::Corrupt("spent_at"))?,
        chain: row.some_str("chain")?.map(str::to_owned),
        used: row.number("used")? != 0,
    }))
}

fn record(row: &Row) -> Result<TokenRecord, Failed> {
    Ok(TokenRecord {
        id: text(row, "id")?,
        secret_hash: row.bytes("secret_hash")?.try_into().map_err(|_| Failed::Corrupt("secret_hash"))?,
        enrollee: json(row, "enrollee")?,
        created: time(row, "created")?,
        expires: time(row, "expires")?,
        spent: spent(row)?,
    })
}

#[async_trait]
impl EnrolmentStore for Store {
    async fn add_token(&self, record: TokenRecord) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let cluster = match &record.enrollee {
            Enrollee::Agent { cluster, .. } => Some(cluster.as_str()),
            Enrollee::Proxy { .. } => None,
        };
        let text = "INSERT INTO tokens (id, secret_hash, enrollee, cluster, created, expires) \
                    VALUES ($1, $2, $3, $4, $5, $6)";
        let insert = sql(text)
            .bind(record.id.as_str())
            .bind(&record.secret_hash[..])
            .bind(to_json(&record.enrollee)?)
            .bind(cluster)
            .bind(micros(record.created))
            .bind(micros(record.expires));
        write.execute(insert).await?;
        Ok(write.commit().await?)
    }

    async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let row = self.readers().fetch_optional(alive(id)).await?;
        Ok(row.as_ref().map(record).transpose()?)
    }

    async fn spend(&self, id: &TokenId, by: Spent) -> Result<Option<Spent>, StoreError> {
        let mut write = self.write().await?;
        // Of two who come at once, the database lets one find the token unspent.
        let text = "UPDATE tokens SET spent_key = $1, spent_subject = $2, spent_at = $3, chain = $4, used = $5 \
                    WHERE id = $6 AND spent_key IS NULL";
        let update = sql(text)
            .bind(&by.key.0)
            .bind(by.subject.to_string())
            .bind(micros(by.at))
            .bind(by.chain.clone())
            .bind(by.used)
            .bind(id.as_str());
        write.execute(update).await?;
        let Some(row) = write.fetch_optional(alive(id)).await? else { return Ok(None) };
        let spent = spent(&row)?;
        write.commit().await?;
        Ok(spent)
    }

    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError> {
        let mut write = self.write().await?;
        let text =
            "UPDATE tokens SET chain = coalesce(chain, $1) WHERE id = $2 AND spent_key IS NOT NULL RETURNING chain";
        let row = write.fetch_optional(sql(text).bind(chain).bind(id.as_str())).await?;
        let row = row.ok_or_else(|| StoreError::new("the token is not there or not spent"))?;
        let kept = row.str("chain")?.to_owned();
        write.commit().await?;
        Ok(kept)
    }

    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        write.execute(sql("UPDATE tokens SET used = 1 WHERE spent_key = $1").bind(&key.0)).await?;
        Ok(write.commit().await?)
    }

    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let insert = sql("INSERT INTO bound_keys (key, subject) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        write.execute(insert.bind(&key.0).bind(subject.to_string())).await?;
        let row = write.fetch_one(sql("SELECT subject FROM bound_keys WHERE key = $1").bind(&key.0)).await?;
        let bound = row.str("subject")? == subject.to_string();
        write.commit().await?;
        Ok(bound)
    }
}
