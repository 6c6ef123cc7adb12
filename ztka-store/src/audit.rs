//! Events, receipts and findings.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{QueryBuilder, Row as _, Sqlite, Transaction, sqlite::SqliteRow};
use ztka_audit::{Batch, Chain, Event, EventQuery, EventStore, Hash, Ingested, Receipt, ReceiptStore, StoredEvent};
use ztka_controller::store::{FindingStore, Found};
use ztka_core::{AuditId, BoxError, ClusterId, OrgId};
use ztka_identity::StoreError;

use crate::{
    SqliteStore,
    database::failed,
    row::{corrupt, json, micros, number, org_or_empty, signed, text, time, to_json},
};

type Write = Transaction<'static, Sqlite>;

/// How far a journal has been seen.
async fn chain(write: &mut Write, source: &str, journal: AuditId) -> Result<Chain, BoxError> {
    let query = sqlx::query("SELECT next, head FROM journals WHERE source = ? AND journal = ?");
    let row = query.bind(source).bind(journal.to_string()).fetch_optional(&mut **write).await?;
    let Some(row) = row else { return Ok(Chain::start()) };
    let head = Hash::try_from(row.try_get::<String, _>("head")?).map_err(|_| corrupt("head"))?;
    Ok(Chain { next: number(&row, "next")?, head })
}

async fn keep_chain(write: &mut Write, source: &str, journal: AuditId, chain: Chain) -> Result<(), BoxError> {
    let sql = "INSERT INTO journals (source, journal, next, head) VALUES (?, ?, ?, ?) \
               ON CONFLICT (source, journal) DO UPDATE SET next = excluded.next, head = excluded.head";
    let insert = sqlx::query(sql).bind(source).bind(journal.to_string());
    insert.bind(signed(chain.next)).bind(chain.head.to_string()).execute(&mut **write).await?;
    Ok(())
}

async fn insert(write: &mut Write, source: &str, event: &Event, payload: &str) -> Result<bool, BoxError> {
    let fact = |name| event.fact(name).unwrap_or_default().to_owned();
    let object = event.object_ref.clone().unwrap_or_default();
    let sql = "INSERT OR IGNORE INTO events (source, audit_id, stage, org, cluster, user, verb, namespace, resource, \
               decision, received, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let insert = sqlx::query(sql)
        .bind(source)
        .bind(event.audit_id.to_string())
        .bind(event.stage.as_str())
        .bind(fact("org"))
        .bind(fact("cluster"))
        .bind(&event.user.username)
        .bind(&event.verb)
        .bind(object.namespace)
        .bind(object.resource)
        .bind(fact("decision"))
        .bind(micros(event.request_received_timestamp))
        .bind(payload);
    Ok(insert.execute(&mut **write).await?.rows_affected() == 1)
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn ingest(&self, source: &str, batch: &Batch) -> Result<Ingested, BoxError> {
        let mut write = self.write().await?;
        let mut seen = chain(&mut write, source, batch.journal).await?;
        let mut ingested = Ingested { findings: seen.follow(batch), ..Ingested::default() };
        for record in &batch.records {
            let new = match Event::from_json(record.payload.as_bytes()) {
                Ok(event) => insert(&mut write, source, &event, &record.payload).await?,
                Err(_) => true,
            };
            *(if new { &mut ingested.stored } else { &mut ingested.known }) += 1;
        }
        keep_chain(&mut write, source, batch.journal, seen).await?;
        write.commit().await?;
        Ok(ingested)
    }

    async fn query(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, BoxError> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT number, payload FROM events WHERE 1 = 1");
        let texts = [
            (" AND org = ", query.org.as_ref().map(|org| org.as_str().to_owned())),
            (" AND cluster = ", query.cluster.as_ref().map(|cluster| cluster.as_str().to_owned())),
            (" AND user = ", query.user.as_ref().map(|user| user.as_str().to_owned())),
            (" AND verb = ", query.verb.map(|verb| verb.as_str().to_owned())),
            (" AND namespace = ", query.namespace.clone()),
            (" AND resource = ", query.resource.clone()),
            (" AND decision = ", query.decision.clone()),
            (" AND audit_id = ", query.audit_id.map(|id| id.to_string())),
            (" AND stage = ", query.stage.map(|stage| stage.as_str().to_owned())),
        ];
        for (condition, value) in texts {
            if let Some(value) = value {
                sql.push(condition).push_bind(value);
            }
        }
        let numbers = [
            (" AND received >= ", query.since.map(micros)),
            (" AND received < ", query.until.map(micros)),
            (" AND number < ", query.before.map(signed)),
            (" AND number > ", query.after.map(signed)),
        ];
        for (condition, value) in numbers {
            if let Some(value) = value {
                sql.push(condition).push_bind(value);
            }
        }
        let rows = i64::try_from(query.rows()).unwrap_or(i64::MAX);
        sql.push(" ORDER BY number DESC LIMIT ").push_bind(rows);
        let found = sql.build().fetch_all(self.readers()).await?;
        let stored = |row: &SqliteRow| {
            let payload: &str = row.try_get("payload")?;
            Ok(StoredEvent { number: number(row, "number")?, event: Event::from_json(payload.as_bytes())? })
        };
        found.iter().map(stored).collect()
    }
}

#[async_trait]
impl ReceiptStore for SqliteStore {
    async fn ingest_receipts(&self, source: &str, cluster: &ClusterId, batch: &Batch) -> Result<Ingested, BoxError> {
        let mut write = self.write().await?;
        let mut seen = chain(&mut write, source, batch.journal).await?;
        let known = seen.next;
        let mut ingested = Ingested { findings: seen.follow(batch), ..Ingested::default() };
        for record in &batch.records {
            if record.sequence < known {
                ingested.known += 1;
                continue;
            }
            ingested.stored += 1;
            if let Ok(receipt) = Receipt::from_json(record.payload.as_bytes()) {
                let insert = sqlx::query("INSERT INTO receipts (cluster, time, payload) VALUES (?, ?, ?)");
                let insert = insert.bind(cluster.as_str()).bind(micros(receipt.time)).bind(&record.payload);
                insert.execute(&mut *write).await?;
            }
        }
        keep_chain(&mut write, source, batch.journal, seen).await?;
        write.commit().await?;
        Ok(ingested)
    }

    async fn receipts(&self, cluster: &ClusterId, from: Timestamp, until: Timestamp) -> Result<Vec<Receipt>, BoxError> {
        let query =
            sqlx::query("SELECT payload FROM receipts WHERE cluster = ? AND time >= ? AND time < ? ORDER BY number");
        let rows = query.bind(cluster.as_str()).bind(micros(from)).bind(micros(until));
        let rows = rows.fetch_all(self.readers()).await?;
        rows.iter().map(|row| Ok(json(row, "payload")?)).collect()
    }
}

#[async_trait]
impl FindingStore for SqliteStore {
    async fn add_findings(&self, found: &[Found]) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        for Found { org, cluster, source, at, finding } in found {
            let insert = sqlx::query("INSERT INTO findings (org, cluster, source, at, body) VALUES (?, ?, ?, ?, ?)")
                .bind(org_or_empty(org.as_ref()))
                .bind(cluster.as_ref().map(ClusterId::as_str))
                .bind(source)
                .bind(micros(*at))
                .bind(to_json(finding)?);
            insert.execute(&mut *write).await.map_err(failed)?;
        }
        write.commit().await.map_err(failed)
    }

    async fn findings(&self, org: Option<&OrgId>, limit: u32) -> Result<Vec<Found>, StoreError> {
        let query = sqlx::query("SELECT * FROM findings WHERE org = ? ORDER BY number DESC LIMIT ?");
        let rows = query.bind(org_or_empty(org)).bind(i64::from(limit)).fetch_all(self.readers()).await;
        let found = |row: &SqliteRow| {
            let cluster: Option<&str> = row.try_get("cluster").map_err(failed)?;
            Ok(Found {
                org: org.cloned(),
                cluster: if cluster.is_some() { Some(text(row, "cluster")?) } else { None },
                source: row.try_get("source").map_err(failed)?,
                at: time(row, "at")?,
                finding: json(row, "body")?,
            })
        };
        rows.map_err(failed)?.iter().map(found).collect()
    }
}
