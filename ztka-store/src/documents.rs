//! Versions of documents, the facts they are made from, and the feed.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};
use ztka_authz::PolicyDocument;
use ztka_controller::store::{Content, DocumentStore, FeedEntry, FeedScope, Published, RevokedFacts, Snapshot};
use ztka_core::{CredentialId, DocumentKind, OrgId, Revision, SeriesKey, Session};
use ztka_identity::StoreError;

use crate::{
    SqliteStore,
    database::failed,
    row::{corrupt, json, micros, number, org_or_empty, signed, text, time},
};

type Tx = Transaction<'static, Sqlite>;

/// The next version: raised within the transaction, so that it is used exactly if the transaction is.
pub(crate) async fn next_version(write: &mut Tx) -> Result<i64, StoreError> {
    let raise = sqlx::query("UPDATE meta SET value = value + 1 WHERE key = 'version' RETURNING value");
    raise.fetch_one(&mut **write).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// The document of this series says something new, or is new itself.
pub(crate) async fn touch(write: &mut Tx, kind: DocumentKind, org: Option<&OrgId>) -> Result<(), StoreError> {
    let version = next_version(write).await?;
    let sql = "INSERT INTO series (kind, org, subject, version) VALUES (?, ?, '', ?) \
               ON CONFLICT (kind, org, subject) DO UPDATE SET version = excluded.version";
    let insert = sqlx::query(sql).bind(kind.to_string()).bind(org_or_empty(org)).bind(version);
    insert.execute(&mut **write).await.map(drop).map_err(failed)
}

fn series(row: &SqliteRow) -> Result<SeriesKey, StoreError> {
    let kind = match row.try_get("kind").map_err(failed)? {
        "trust" => DocumentKind::Trust,
        "policy" => DocumentKind::Policy,
        "session" => DocumentKind::Session,
        "revocations" => DocumentKind::Revocations,
        _ => return Err(corrupt("kind")),
    };
    let org: &str = row.try_get("org").map_err(failed)?;
    let org = if org.is_empty() { None } else { Some(text(row, "org")?) };
    Ok(SeriesKey { kind, org, subject: row.try_get("subject").map_err(failed)? })
}

async fn policy(read: &mut Tx, org: &OrgId) -> Result<PolicyDocument, StoreError> {
    let clusters = sqlx::query("SELECT id, name, labels FROM clusters WHERE org = ? AND deleted IS NULL ORDER BY id");
    let clusters = clusters.bind(org.as_str()).fetch_all(&mut **read).await.map_err(failed)?;
    let cluster = |row: &SqliteRow| {
        Ok(ztka_authz::Cluster { id: text(row, "id")?, name: text(row, "name")?, labels: json(row, "labels")? })
    };
    let clusters = clusters.iter().map(cluster).collect::<Result<_, StoreError>>()?;
    let roles = sqlx::query("SELECT body FROM roles WHERE org = ? ORDER BY name");
    let roles = roles.bind(org.as_str()).fetch_all(&mut **read).await.map_err(failed)?;
    let roles = roles.iter().map(|row| json(row, "body")).collect::<Result<_, _>>()?;
    let bindings = sqlx::query("SELECT body FROM bindings WHERE org = ? ORDER BY name");
    let bindings = bindings.bind(org.as_str()).fetch_all(&mut **read).await.map_err(failed)?;
    let bindings = bindings.iter().map(|row| json(row, "body")).collect::<Result<_, _>>()?;
    Ok(PolicyDocument { clusters, roles, bindings, ..PolicyDocument::default() })
}

async fn session(read: &mut Tx, series: &SeriesKey, now: Timestamp) -> Result<Option<Session>, StoreError> {
    let sql = "SELECT u.id AS user, u.name AS name, c.id AS credential, min(s.active_until, c.not_after) AS ends \
               FROM credentials c JOIN sessions s ON s.credential = c.id JOIN users u ON u.id = c.user \
               WHERE c.id = ? AND c.org = ? AND c.not_after > ?";
    let query = sqlx::query(sql).bind(&series.subject).bind(org_or_empty(series.org.as_ref())).bind(micros(now));
    let Some(row) = query.fetch_optional(&mut **read).await.map_err(failed)? else { return Ok(None) };
    let user: ztka_core::UserId = text(&row, "user")?;
    let groups = sqlx::query("SELECT group_name FROM members WHERE user = ? ORDER BY group_name");
    let groups = groups.bind(user.as_str()).fetch_all(&mut **read).await.map_err(failed)?;
    let groups = groups.iter().map(|row| text(row, "group_name")).collect::<Result<_, _>>()?;
    let credential: CredentialId = text(&row, "credential")?;
    Ok(Some(Session { user, credential, name: text(&row, "name")?, groups, active_until: time(&row, "ends")? }))
}

async fn revoked(read: &mut Tx, org: Option<&OrgId>, now: Timestamp) -> Result<RevokedFacts, StoreError> {
    let Some(org) = org else { return Ok(RevokedFacts::default()) };
    let sql = "SELECT id FROM credentials WHERE org = ? AND revoked IS NOT NULL AND not_after > ? ORDER BY id";
    let credentials = sqlx::query(sql).bind(org.as_str()).bind(micros(now));
    let credentials = credentials.fetch_all(&mut **read).await.map_err(failed)?;
    let sql = "SELECT i.id AS id FROM clusters c JOIN instances i ON i.cluster = c.id \
               WHERE c.org = ? AND c.deleted IS NOT NULL AND i.not_after > ? ORDER BY i.id";
    let instances = sqlx::query(sql).bind(org.as_str()).bind(micros(now));
    let instances = instances.fetch_all(&mut **read).await.map_err(failed)?;
    let users = sqlx::query("SELECT id FROM users WHERE org = ? AND disabled IS NOT NULL ORDER BY id");
    let users = users.bind(org.as_str()).fetch_all(&mut **read).await.map_err(failed)?;
    Ok(RevokedFacts {
        credentials: credentials.iter().map(|row| text(row, "id")).collect::<Result<_, _>>()?,
        instances: instances.iter().map(|row| text(row, "id")).collect::<Result<_, _>>()?,
        users: users.iter().map(|row| text(row, "id")).collect::<Result<_, _>>()?,
    })
}

#[async_trait]
impl DocumentStore for SqliteStore {
    async fn due(&self, signed_before: Timestamp, now: Timestamp, limit: u32) -> Result<Vec<SeriesKey>, StoreError> {
        let over = sqlx::query("SELECT 1 FROM series WHERE ends <= ? LIMIT 1").bind(micros(now));
        if over.fetch_optional(self.readers()).await.map_err(failed)?.is_some() {
            let mut write = self.write().await?;
            let forget = sqlx::query("DELETE FROM series WHERE ends <= ?").bind(micros(now));
            forget.execute(&mut *write).await.map_err(failed)?;
            write.commit().await.map_err(failed)?;
        }
        // Two queries, because each has an index of its own.
        let changed = "SELECT kind, org, subject FROM series WHERE signed < version ORDER BY version LIMIT ?";
        let changed = sqlx::query(changed).bind(i64::from(limit)).fetch_all(self.readers()).await.map_err(failed)?;
        let mut due: Vec<SeriesKey> = changed.iter().map(series).collect::<Result<_, _>>()?;
        let left = i64::from(limit) - i64::try_from(due.len()).unwrap_or(i64::MAX);
        if left > 0 {
            let aged = "SELECT kind, org, subject FROM series WHERE issued < ? AND signed >= version \
                        ORDER BY issued LIMIT ?";
            let aged = sqlx::query(aged).bind(micros(signed_before)).bind(left);
            for row in aged.fetch_all(self.readers()).await.map_err(failed)? {
                due.push(series(&row)?);
            }
        }
        Ok(due)
    }

    async fn snapshot(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Snapshot>, StoreError> {
        let mut read = self.read().await?;
        let org = series.org.as_ref();
        let sql = "SELECT version, (SELECT value FROM meta WHERE key = 'epoch') AS epoch FROM series \
                   WHERE kind = ? AND org = ? AND subject = ?";
        let query = sqlx::query(sql).bind(series.kind.to_string()).bind(org_or_empty(org)).bind(&series.subject);
        let Some(row) = query.fetch_optional(&mut *read).await.map_err(failed)? else { return Ok(None) };
        let revision = Revision { epoch: number(&row, "epoch")?, version: number(&row, "version")? };
        let content = match (series.kind, org) {
            (DocumentKind::Trust, None) => Content::Trust,
            (DocumentKind::Policy, Some(org)) => Content::Policy(policy(&mut read, org).await?),
            (DocumentKind::Session, Some(_)) => match session(&mut read, series, now).await? {
                Some(session) => Content::Session(session),
                None => return Ok(None),
            },
            (DocumentKind::Revocations, org) => Content::Revocations(revoked(&mut read, org, now).await?),
            _ => return Ok(None),
        };
        Ok(Some(Snapshot { revision, content }))
    }

    async fn publish(&self, document: &Published) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let Published { series, revision, issued, wire } = document;
        let sql = "UPDATE series SET signed = ?1, issued = ?2, wire = ?3, \
                   feed = (SELECT value + 1 FROM meta WHERE key = 'feed') \
                   WHERE kind = ?4 AND org = ?5 AND subject = ?6 \
                   AND (signed < ?1 OR (signed = ?1 AND issued < ?2)) \
                   AND ?7 = (SELECT value FROM meta WHERE key = 'epoch')";
        let update = sqlx::query(sql)
            .bind(signed(revision.version))
            .bind(micros(*issued))
            .bind(wire.as_ref())
            .bind(series.kind.to_string())
            .bind(org_or_empty(series.org.as_ref()))
            .bind(&series.subject)
            .bind(signed(revision.epoch));
        let published = update.execute(&mut *write).await.map_err(failed)?.rows_affected() == 1;
        if published {
            let next = sqlx::query("UPDATE meta SET value = value + 1 WHERE key = 'feed'");
            next.execute(&mut *write).await.map_err(failed)?;
            write.commit().await.map_err(failed)?;
        }
        Ok(published)
    }

    async fn feed(&self, scope: &FeedScope, from: u64, limit: u32) -> Result<Vec<FeedEntry>, StoreError> {
        let query = match scope {
            FeedScope::Installation => {
                let sql = "SELECT feed, wire FROM series WHERE feed > ? ORDER BY feed LIMIT ?";
                sqlx::query(sql).bind(signed(from)).bind(i64::from(limit))
            }
            FeedScope::Org(org) => {
                let sql = "SELECT feed, wire FROM series WHERE feed > ? \
                           AND (org = '' OR (org = ? AND kind <> 'session')) ORDER BY feed LIMIT ?";
                sqlx::query(sql).bind(signed(from)).bind(org.as_str()).bind(i64::from(limit))
            }
        };
        let rows = query.fetch_all(self.readers()).await.map_err(failed)?;
        let entry = |row: &SqliteRow| {
            let wire: &[u8] = row.try_get("wire").map_err(failed)?;
            Ok(FeedEntry { feed: number(row, "feed")?, wire: Bytes::copy_from_slice(wire) })
        };
        rows.iter().map(entry).collect()
    }

    async fn feed_head(&self) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT value FROM meta WHERE key = 'feed'");
        number(&query.fetch_one(self.readers()).await.map_err(failed)?, "value")
    }

    async fn touch_trust(&self) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        touch(&mut write, DocumentKind::Trust, None).await?;
        write.commit().await.map_err(failed)
    }
}
