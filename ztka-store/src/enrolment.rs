//! One-time tokens, and which key belongs to which name.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{KeyId, SpiffeId, Subject};
use ztka_pki::{Admission, Enrollee, EnrolmentStore, Replica, Spent, StoreError, TokenId, TokenRecord, Verdict};

use crate::{
    Failed, Store,
    row::{json, micros, number, some_time, text, time, to_json},
    sql::{Row, Statement, sql},
};

/// The words for a [`Verdict`] in the database.
const APPROVED: &str = "approved";
const REFUSED: &str = "refused";

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

fn verdict(row: &Row) -> Result<Option<Verdict>, Failed> {
    match row.some_str("verdict")? {
        None => Ok(None),
        Some(APPROVED) => Ok(Some(Verdict::Approved)),
        Some(REFUSED) => Ok(Some(Verdict::Refused)),
        Some(_) => Err(Failed::Corrupt("verdict")),
    }
}

fn record(row: &Row) -> Result<TokenRecord, Failed> {
    Ok(TokenRecord {
        id: text(row, "id")?,
        secret_hash: row.bytes("secret_hash")?.try_into().map_err(|_| Failed::Corrupt("secret_hash"))?,
        enrollee: json(row, "enrollee")?,
        created: time(row, "created")?,
        expires: time(row, "expires")?,
        sources: json(row, "sources")?,
        approval: row.number("approval")? != 0,
        verdict: verdict(row)?,
        revoked: some_time(row, "revoked")?,
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
        let text = "INSERT INTO tokens (id, secret_hash, enrollee, cluster, created, expires, sources, approval) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let insert = sql(text)
            .bind(record.id.as_str())
            .bind(&record.secret_hash[..])
            .bind(to_json(&record.enrollee)?)
            .bind(cluster)
            .bind(micros(record.created))
            .bind(micros(record.expires))
            .bind(to_json(&record.sources)?)
            .bind(record.approval);
        write.execute(insert).await?;
        Ok(write.commit().await?)
    }

    async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let row = self.readers().fetch_optional(alive(id)).await?;
        Ok(row.as_ref().map(record).transpose()?)
    }

    async fn tokens(&self, enrollee: &Enrollee) -> Result<Vec<TokenRecord>, StoreError> {
        let text = "SELECT * FROM tokens WHERE enrollee = $1 ORDER BY created DESC, id DESC LIMIT 500";
        let rows = self.readers().fetch_all(sql(text).bind(to_json(enrollee)?)).await?;
        Ok(rows.iter().map(record).collect::<Result<_, _>>()?)
    }

    async fn revoke_token(&self, id: &TokenId, at: Timestamp) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let update = sql("UPDATE tokens SET revoked = coalesce(revoked, $1) WHERE id = $2");
        let changed = write.execute(update.bind(micros(at)).bind(id.as_str())).await?;
        write.commit().await?;
        Ok(changed > 0)
    }

    async fn decide(&self, id: &TokenId, key: &KeyId, said: Verdict) -> Result<Option<Verdict>, StoreError> {
        let mut write = self.write().await?;
        let word = match said {
            Verdict::Approved => APPROVED,
            Verdict::Refused => REFUSED,
        };
        let text = "UPDATE tokens SET verdict = coalesce(verdict, $1) \
                    WHERE id = $2 AND spent_key = $3 AND approval = 1 AND revoked IS NULL RETURNING verdict";
        let row = write.fetch_optional(sql(text).bind(word).bind(id.as_str()).bind(&key.0)).await?;
        let said = row.as_ref().map(verdict).transpose()?.flatten();
        write.commit().await?;
        Ok(said)
    }

    async fn spend(&self, id: &TokenId, by: Spent) -> Result<Option<Spent>, StoreError> {
        let mut write = self.write().await?;
        // Of two who come at once, the database lets one find the token unspent.
        let text = "UPDATE tokens SET spent_key = $1, spent_subject = $2, spent_at = $3, chain = $4, used = $5 \
                    WHERE id = $6 AND spent_key IS NULL AND revoked IS NULL";
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
        let text = "UPDATE tokens SET chain = coalesce(chain, $1) \
                    WHERE id = $2 AND spent_key IS NOT NULL AND revoked IS NULL AND (approval = 0 OR verdict = $3) \
                    RETURNING chain";
        let row = write.fetch_optional(sql(text).bind(chain).bind(id.as_str()).bind(APPROVED)).await?;
        let row = row.ok_or_else(|| StoreError::new("the token is not there, not spent, revoked or not approved"))?;
        let kept = row.str("chain")?.to_owned();
        write.commit().await?;
        Ok(kept)
    }

    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        write.execute(sql("UPDATE tokens SET used = 1 WHERE spent_key = $1").bind(&key.0)).await?;
        Ok(write.commit().await?)
    }

    async fn add_replica(&self, asked: &Replica, most: usize) -> Result<Admission, StoreError> {
        let mut write = self.write().await?;
        // Two of a cluster come one after the other, so that the count is right.
        let lock = sql("UPDATE clusters SET id = id WHERE id = $1 AND org = $2 AND deleted IS NULL");
        if write.execute(lock.bind(asked.cluster.as_str()).bind(asked.org.as_str())).await? == 0 {
            return Ok(Admission::NotByToken);
        }
        let by = sql("SELECT 1 FROM replicas WHERE id = $1").bind(asked.let_in.as_str());
        if write.fetch_optional(by).await?.is_some() {
            return Ok(Admission::NotByToken);
        }
        let known = sql("SELECT id FROM replicas WHERE key = $1 AND cluster = $2 AND let_in = $3");
        let known = known.bind(&asked.key.0).bind(asked.cluster.as_str()).bind(asked.let_in.as_str());
        if let Some(row) = write.fetch_optional(known).await? {
            return Ok(Admission::Known(text(&row, "id")?));
        }
        // Those whose certificates have ended, renewed ones too, are of no concern any more.
        let over = "DELETE FROM replicas WHERE cluster = $1 AND ends <= $2 \
                    AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = replicas.id AND i.not_after > $2)";
        write.execute(sql(over).bind(asked.cluster.as_str()).bind(micros(asked.now))).await?;
        let alive = sql("SELECT count(*) AS alive FROM replicas WHERE cluster = $1").bind(asked.cluster.as_str());
        let alive = number(&write.fetch_one(alive).await?, "alive")?;
        let bind = sql("INSERT INTO bound_keys (key, subject, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
        let bind = bind.bind(&asked.key.0).bind(asked.subject().to_string()).bind(micros(asked.now));
        if write.execute(bind).await? == 0 {
            return Ok(Admission::KeyBound);
        }
        if usize::try_from(alive).unwrap_or(usize::MAX) >= most {
            return Ok(Admission::Full);
        }
        let insert = sql("INSERT INTO replicas (id, cluster, let_in, key, ends) VALUES ($1, $2, $3, $4, $5)")
            .bind(asked.instance.as_str())
            .bind(asked.cluster.as_str())
            .bind(asked.let_in.as_str())
            .bind(&asked.key.0)
            .bind(micros(asked.ends));
        write.execute(insert).await?;
        write.commit().await?;
        Ok(Admission::Admitted)
    }

    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let insert = sql("INSERT INTO bound_keys (key, subject, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
        write.execute(insert.bind(&key.0).bind(subject.to_string()).bind(micros(Timestamp::now()))).await?;
        let row = write.fetch_one(sql("SELECT subject FROM bound_keys WHERE key = $1").bind(&key.0)).await?;
        let bound = row.str("subject")? == subject.to_string();
        write.commit().await?;
        Ok(bound)
    }
}
