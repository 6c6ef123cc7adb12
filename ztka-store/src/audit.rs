//! Events, receipts and findings.

use std::collections::{BTreeMap, HashSet, btree_map::Entry};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_audit::{
    Batch, Chain, Event, EventQuery, EventStore, Hash, Ingested, ObjectRef, Receipt, ReceiptStore, StoredEvent,
    log::{entry, leaf_hash, one_line},
};
use ztka_controller::store::{FindingStore, Found};
use ztka_core::{AuditId, BoxError, ClusterId, OrgId};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    encryption::{Place, Sealer},
    log::{self, NewLeaf},
    row::{json, micros, number, org_or_empty, searchable, signed, text, time, to_json},
    sql::{Row, Tx, Value, sql},
};

/// How far a journal has been seen. Its row is locked, so that a sender that comes by two ways at once is one sender.
async fn chain(write: &mut Tx, source: &str, journal: AuditId) -> Result<Chain, Failed> {
    let start = Chain::start();
    let query = "INSERT INTO journals (source, journal, next, head) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (source, journal) DO UPDATE SET next = journals.next RETURNING next, head";
    let query = sql(query).bind(source).bind(journal.to_string());
    let row = write.fetch_one(query.bind(signed(start.next)).bind(start.head.to_string())).await?;
    let head = Hash::try_from(row.str("head")?.to_owned()).map_err(|_| Failed::Corrupt("head"))?;
    Ok(Chain { next: number(&row, "next")?, head })
}

async fn keep_chain(write: &mut Tx, source: &str, journal: AuditId, chain: Chain) -> Result<(), Failed> {
    let update = sql("UPDATE journals SET next = $1, head = $2 WHERE source = $3 AND journal = $4");
    let update = update.bind(signed(chain.next)).bind(chain.head.to_string());
    write.execute(update.bind(source).bind(journal.to_string())).await.map(drop)
}

/// The newest number of an event before `count` more. Locked until the commit: whoever looks for what is new sees no
/// number before a smaller one.
async fn numbers(write: &mut Tx, count: usize) -> Result<i64, Failed> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let raise = sql("UPDATE meta SET value = value + $1 WHERE key = 'events' RETURNING value").bind(count);
    Ok(write.fetch_one(raise).await?.number("value")? - count)
}

const INSERT_EVENT: &str = "INSERT INTO events (number, source, audit_id, stage, org, cluster, user_name, verb, \
                            namespace, resource, decision, received, payload, sealed) \
                            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING \
                            RETURNING number";

/// What a searched column holds; nothing is nothing.
pub(crate) fn blind(sealer: &Sealer, column: &'static str, value: &str) -> String {
    if value.is_empty() { String::new() } else { sealer.searchable(column, value) }
}

/// The organisation of an event, as its row says it.
fn org_of(event: &Event) -> String {
    searchable(event.fact("org").unwrap_or_default())
}

pub(crate) fn payload_of<'a>(org: &'a str, number: &'a str) -> Place<'a> {
    Place { org, table: "events", column: "payload", row: number }
}

/// What names a receipt: its number is given by the database, after it was sealed.
pub(crate) fn receipt_row(cluster: &str, time: i64) -> String {
    format!("{cluster}/{time}")
}

fn receipt_of<'a>(org: &'a str, row: &'a str) -> Place<'a> {
    Place { org, table: "receipts", column: "payload", row }
}

fn row(number: i64, source: &str, event: &Event, payload: String, sealer: &Sealer) -> Result<[Value; 14], Failed> {
    let org = org_of(event);
    let (payload, sealed) = sealer.seal(payload_of(&org, &number.to_string()), payload)?;
    let fact = |name| searchable(event.fact(name).unwrap_or_default());
    let object = event.object_ref.as_ref();
    let of_object = |text: fn(&ObjectRef) -> &String| searchable(object.map(text).map_or("", String::as_str));
    Ok([
        number.into(),
        source.into(),
        event.audit_id.to_string().into(),
        event.stage.as_str().into(),
        org.into(),
        fact("cluster").into(),
        blind(sealer, "events.user_name", &searchable(&event.user.username)).into(),
        searchable(&event.verb).into(),
        blind(sealer, "events.namespace", &of_object(|object| &object.namespace)).into(),
        of_object(|object| &object.resource).into(),
        fact("decision").into(),
        micros(event.request_received_timestamp).into(),
        payload.into(),
        sealed.into(),
    ])
}

/// An event on its way into the store.
struct Told {
    event: Event,
    /// What its column `payload` is to say.
    text: String,
    /// Of the leaf that it becomes.
    hash: Hash,
}

/// The events of a batch; what is none is left out.
fn told(source: &str, batch: &Batch, parsed: Vec<Option<Event>>) -> Result<Vec<Told>, Failed> {
    let salts = log::salts(parsed.len())?;
    let events = batch.records.iter().zip(parsed).zip(salts).filter_map(|((record, event), salt)| {
        let payload = one_line(&record.payload);
        let hash = leaf_hash(&salt, entry(source, &payload).as_bytes());
        Some(Told { event: event?, text: log::salted(salt, &payload), hash })
    });
    Ok(events.collect())
}

const INSERT_RECEIPT: &str = "INSERT INTO receipts (cluster, time, payload, sealed) VALUES ($1, $2, $3, $4)";

impl Store {
    /// The organisation of a cluster, deleted ones included; empty if there is none.
    async fn org_of_cluster(&self, cluster: &ClusterId) -> Result<String, Failed> {
        let query = sql("SELECT org FROM clusters WHERE id = $1").bind(cluster.as_str());
        let row = self.readers().fetch_optional(query).await?;
        Ok(row.map(|row| row.str("org").map(str::to_owned)).transpose()?.unwrap_or_default())
    }
}

#[async_trait]
impl EventStore for Store {
    async fn ingest(&self, source: &str, batch: &Batch) -> Result<Ingested, BoxError> {
        let parsed = batch.records.iter().map(|record| Event::from_json(record.payload.as_bytes()).ok());
        let parsed: Vec<_> = parsed.collect();
        let mut sealers = BTreeMap::new();
        for event in parsed.iter().flatten() {
            if let Entry::Vacant(entry) = sealers.entry(org_of(event)) {
                let sealer = self.sealer(entry.key()).await?;
                entry.insert(sealer);
            }
        }
        let told = told(source, batch, parsed)?;
        let mut write = self.write().await?;
        let mut seen = chain(&mut write, source, batch.journal).await?;
        let mut ingested = Ingested { findings: seen.follow(batch), ..Ingested::default() };
        let before = numbers(&mut write, told.len()).await?;
        let (mut events, mut leaves) = (Vec::with_capacity(told.len()), BTreeMap::<String, Vec<NewLeaf>>::new());
        for (Told { event, text, hash }, number) in told.into_iter().zip(before + 1..) {
            let org = org_of(&event);
            let Some(sealer) = sealers.get(&org) else { continue };
            events.push(row(number, source, &event, text, sealer)?);
            leaves.entry(org).or_default().push(NewLeaf { number, hash });
        }
        let told = events.len();
        let new = write.insert_all_returning(INSERT_EVENT, events.into_iter()).await?;
        let new = new.iter().map(|row| row.number("number")).collect::<Result<HashSet<_>, _>>()?;
        ingested.known = told.saturating_sub(new.len());
        ingested.stored = batch.records.len() - ingested.known;
        for (org, mut leaves) in leaves {
            leaves.retain(|leaf| new.contains(&leaf.number));
            if !leaves.is_empty() {
                log::append(&mut write, &org, &leaves).await?;
            }
        }
        keep_chain(&mut write, source, batch.journal, seen).await?;
        write.commit().await?;
        Ok(ingested)
    }

    async fn query(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, BoxError> {
        let rows = i64::try_from(query.rows()).unwrap_or(i64::MAX);
        let order = if query.oldest_first { " ORDER BY number LIMIT " } else { " ORDER BY number DESC LIMIT " };
        let org = query.org.as_ref().map(OrgId::as_str);
        let mut statement = sql("SELECT number, org, payload, sealed FROM events WHERE 1 = 1");
        if let Some(user) = &query.user {
            statement =
                statement.among(" AND user_name IN ", self.searched(org, "events.user_name", user.as_str()).await?);
        }
        if let Some(namespace) = query.namespace.as_deref().map(searchable) {
            let among = match namespace.as_str() {
                "" => vec![namespace],
                _ => self.searched(org, "events.namespace", &namespace).await?,
            };
            statement = statement.among(" AND namespace IN ", among);
        }
        let statement = statement
            .and(" AND org = ", query.org.as_ref().map(OrgId::as_str))
            .and(" AND cluster = ", query.cluster.as_ref().map(ClusterId::as_str))
            .and(" AND verb = ", query.verb.map(|verb| verb.as_str()))
            .and(" AND resource = ", query.resource.as_deref().map(searchable))
            .and(" AND decision = ", query.decision.as_deref().map(searchable))
            .and(" AND audit_id = ", query.audit_id.map(|id| id.to_string()))
            .and(" AND stage = ", query.stage.map(|stage| stage.as_str()))
            .and(" AND received >= ", query.since.map(micros))
            .and(" AND received < ", query.until.map(micros))
            .and(" AND number < ", query.before.map(signed))
            .and(" AND number > ", query.after.map(signed))
            .and(order, Some(rows));
        let found = self.readers().fetch_all(statement).await?;
        let mut events = Vec::with_capacity(found.len());
        for row in &found {
            let number = number(row, "number")?;
            let place = number.to_string();
            let text = self.text_at(payload_of(row.str("org")?, &place), row, "payload", "sealed").await?;
            let (_, payload) = log::unsalted(&text);
            events.push(StoredEvent { number, event: Event::from_json(payload.as_bytes())? });
        }
        Ok(events)
    }
}

#[async_trait]
impl ReceiptStore for Store {
    async fn ingest_receipts(&self, source: &str, cluster: &ClusterId, batch: &Batch) -> Result<Ingested, BoxError> {
        let org = self.org_of_cluster(cluster).await?;
        let sealer = self.sealer(&org).await?;
        let mut write = self.write().await?;
        let mut seen = chain(&mut write, source, batch.journal).await?;
        let known = seen.next;
        let mut ingested = Ingested { findings: seen.follow(batch), ..Ingested::default() };
        let new: Vec<_> = batch.records.iter().filter(|record| record.sequence >= known).collect();
        ingested.stored = new.len();
        ingested.known = batch.records.len() - new.len();
        let receipts = new.into_iter().filter_map(|record| {
            let receipt = Receipt::from_json(record.payload.as_bytes()).ok()?;
            let (cluster, time) = (cluster.as_str(), micros(receipt.time));
            let sealed = sealer.seal(receipt_of(&org, &receipt_row(cluster, time)), record.payload.clone());
            Some(sealed.map(|(clear, sealed)| [cluster.into(), time.into(), clear.into(), sealed.into()]))
        });
        write.insert_all(INSERT_RECEIPT, receipts.collect::<Result<Vec<_>, _>>()?.into_iter()).await?;
        keep_chain(&mut write, source, batch.journal, seen).await?;
        write.commit().await?;
        Ok(ingested)
    }

    async fn receipts(&self, cluster: &ClusterId, from: Timestamp, until: Timestamp) -> Result<Vec<Receipt>, BoxError> {
        let org = self.org_of_cluster(cluster).await?;
        let query = "SELECT time, payload, sealed FROM receipts WHERE cluster = $1 AND time >= $2 AND time < $3 \
                     ORDER BY number";
        let query = sql(query).bind(cluster.as_str()).bind(micros(from)).bind(micros(until));
        let rows = self.readers().fetch_all(query).await?;
        let mut receipts = Vec::with_capacity(rows.len());
        for row in &rows {
            let of = receipt_row(cluster.as_str(), row.number("time")?);
            let payload = self.text_at(receipt_of(&org, &of), row, "payload", "sealed").await?;
            receipts.push(serde_json::from_str(&payload)?);
        }
        Ok(receipts)
    }
}

fn found(org: Option<&OrgId>, row: &Row) -> Result<Found, Failed> {
    let cluster = row.some_str("cluster")?.is_some();
    Ok(Found {
        org: org.cloned(),
        cluster: if cluster { Some(text(row, "cluster")?) } else { None },
        source: row.str("source")?.to_owned(),
        at: time(row, "at")?,
        finding: json(row, "body")?,
    })
}

#[async_trait]
impl FindingStore for Store {
    async fn add_findings(&self, found: &[Found]) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        for Found { org, cluster, source, at, finding } in found {
            let insert = sql("INSERT INTO findings (org, cluster, source, at, body) VALUES ($1, $2, $3, $4, $5)")
                .bind(org_or_empty(org.as_ref()))
                .bind(cluster.as_ref().map(ClusterId::as_str))
                .bind(source)
                .bind(micros(*at))
                .bind(to_json(finding)?);
            write.execute(insert).await?;
        }
        Ok(write.commit().await?)
    }

    async fn count_findings(&self, since: Timestamp) -> Result<u64, StoreError> {
        let query = sql("SELECT count(*) AS found FROM findings WHERE at >= $1").bind(micros(since));
        Ok(number(&self.readers().fetch_one(query).await?, "found")?)
    }

    async fn findings(&self, org: Option<&OrgId>, limit: u32) -> Result<Vec<Found>, StoreError> {
        let query = sql("SELECT * FROM findings WHERE org = $1 ORDER BY number DESC LIMIT $2");
        let rows = self.readers().fetch_all(query.bind(org_or_empty(org)).bind(i64::from(limit))).await?;
        Ok(rows.iter().map(|row| found(org, row)).collect::<Result<_, _>>()?)
    }
}
