//! Versions of documents, the facts they are made from, and the feed.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use ztka_authz::Projector;
use ztka_controller::store::{
    Action, Claim, Content, DocumentStore, FeedEntry, FeedScope, Published, ResourceKind, Revocable, RevokedFacts,
    Snapshot,
};
use ztka_core::{ClusterId, CredentialId, DocumentKind, GroupName, OrgId, Revision, SeriesKey, Session, UserId};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    encryption::{Place, Sealer},
    identity::name_of,
    policy::Rows,
    revocations::revocation,
    row::{micros, number, org_or_empty, signed, text, time},
    sql::{Row, Statement, Tx, sql},
};

fn series(row: &Row) -> Result<SeriesKey, Failed> {
    let kind = match row.str("kind")? {
        "trust" => DocumentKind::Trust,
        "policy" => DocumentKind::Policy,
        "session" => DocumentKind::Session,
        "revocations" => DocumentKind::Revocations,
        _ => return Err(Failed::Corrupt("kind")),
    };
    let org = if row.str("org")?.is_empty() { None } else { Some(text(row, "org")?) };
    Ok(SeriesKey { kind, org, subject: row.str("subject")?.to_owned() })
}

/// Where a series (kind, organisation, subject) is. The projection of a policy is where the policy is, in the same moment.
const REVISION: &str = "SELECT w.version AS version, (SELECT value FROM meta WHERE key = 'epoch') AS epoch FROM series s \
                        JOIN series w ON w.kind = s.kind AND w.org = s.org \
                        AND w.subject = CASE WHEN s.kind = 'policy' THEN '' ELSE s.subject END \
                        WHERE s.kind = $1 AND s.org = $2 AND s.subject = $3";

/// What a snapshot has read, before it is opened: that may need a connection more, and comes after the transaction.
enum Read {
    Ready(Content),
    Policy(Rows),
    Session { row: Row, groups: Vec<GroupName> },
}

async fn session(read: &mut Tx, series: &SeriesKey, now: Timestamp) -> Result<Option<Read>, Failed> {
    let query = "SELECT u.id AS user_id, u.name AS name, u.sealed AS sealed, u.attributes AS attributes, \
                 u.sealed_attributes AS sealed_attributes, u.org AS org, c.id AS credential, s.active_until, c.not_after \
                 FROM credentials c JOIN sessions s ON s.credential = c.id JOIN users u ON u.id = c.user_id \
                 WHERE c.id = $1 AND c.org = $2 AND c.not_after > $3";
    let query = sql(query).bind(&series.subject).bind(org_or_empty(series.org.as_ref())).bind(micros(now));
    let Some(row) = read.fetch_optional(query).await? else { return Ok(None) };
    let user: ztka_core::UserId = text(&row, "user_id")?;
    let groups = sql("SELECT group_name FROM members WHERE user_id = $1 ORDER BY group_name").bind(user.as_str());
    let groups = read.fetch_all(groups).await?;
    let groups = groups.iter().map(|row| text(row, "group_name")).collect::<Result<_, _>>()?;
    Ok(Some(Read::Session { row, groups }))
}

async fn revoked(read: &mut Tx, org: Option<&OrgId>, now: Timestamp) -> Result<RevokedFacts, Failed> {
    let mut facts = RevokedFacts::default();
    let query = sql("SELECT * FROM revocations WHERE org = $1 AND (ends IS NULL OR ends > $2) ORDER BY kind, name");
    for row in read.fetch_all(query.bind(org_or_empty(org)).bind(micros(now))).await? {
        match revocation(&row)?.what {
            Revocable::Serial(serial) => facts.serials.push(serial),
            Revocable::Instance(instance) => facts.instances.push(instance),
            Revocable::Proxy(proxy) => facts.proxies.push(proxy),
            Revocable::Org(org) => facts.orgs.push(org),
        }
    }
    let Some(org) = org else { return Ok(facts) };
    let query = "SELECT id FROM credentials WHERE org = $1 AND revoked IS NOT NULL AND not_after > $2 ORDER BY id";
    let credentials = read.fetch_all(sql(query).bind(org.as_str()).bind(micros(now))).await?;
    let query = "SELECT i.id AS id FROM clusters c JOIN instances i ON i.cluster = c.id \
                 WHERE c.org = $1 AND c.deleted IS NOT NULL AND i.not_after > $2 ORDER BY i.id";
    let instances = read.fetch_all(sql(query).bind(org.as_str()).bind(micros(now))).await?;
    let users = sql("SELECT id FROM users WHERE org = $1 AND disabled IS NOT NULL ORDER BY id").bind(org.as_str());
    let users = read.fetch_all(users).await?;
    facts.credentials = credentials.iter().map(|row| text(row, "id")).collect::<Result<_, _>>()?;
    facts.users = users.iter().map(|row| text(row, "id")).collect::<Result<_, _>>()?;
    for row in &instances {
        facts.instances.push(text(row, "id")?);
    }
    Ok(facts)
}

/// Where a signed document is; the series' own words for kind and subject.
fn wire_of<'a>(org: &'a str, row: &'a str) -> Place<'a> {
    Place { org, table: "series", column: "wire", row }
}

impl Store {
    /// What was read, opened.
    async fn opened(&self, org: &OrgId, read: Read) -> Result<Content, Failed> {
        match read {
            Read::Ready(content) => Ok(content),
            Read::Policy(rows) => Ok(Content::Policy(self.policy_of(org, rows).await?)),
            Read::Session { row, groups } => {
                let user: UserId = text(&row, "user_id")?;
                let place = name_of(row.str("org")?, user.as_str());
                let name = self.text_at(place, &row, "name", "sealed").await?;
                let name = name.parse().map_err(|_| Failed::Corrupt("name"))?;
                let attributes = self.read_attributes(row.str("org")?, user.as_str(), &row).await?;
                let credential: CredentialId = text(&row, "credential")?;
                let active_until = time(&row, "active_until")?.min(time(&row, "not_after")?);
                Ok(Content::Session(Session { user, credential, name, groups, attributes, active_until }))
            }
        }
    }

    /// Forgets the documents of sessions whose certificates have expired, one organisation after the other.
    async fn forget(&self, now: Timestamp) -> Result<(), StoreError> {
        let over = sql("SELECT DISTINCT org FROM series WHERE ends <= $1 ORDER BY org").bind(micros(now));
        for row in self.readers().fetch_all(over).await? {
            let org: OrgId = text(&row, "org")?;
            let mut held = match self.hold(&org).await {
                Err(StoreError::NotFound { .. }) => continue,
                held => held?,
            };
            let forget = sql("DELETE FROM series WHERE org = $1 AND ends <= $2").bind(org.as_str()).bind(micros(now));
            held.execute(forget).await?;
            held.commit().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl DocumentStore for Store {
    async fn due(&self, signed_before: Timestamp, now: Timestamp, limit: u32) -> Result<Vec<SeriesKey>, StoreError> {
        self.forget(now).await?;
        let mut due: Vec<SeriesKey> = Vec::new();
        let aged = micros(signed_before);
        // A query for each, because each has an index of its own: not that of the key, which finds all policies. Projections come
        // last, under the name of their policy.
        let queries = [
            sql("SELECT kind, org, subject FROM series WHERE signed < version \
                 AND (kind <> 'policy' OR subject = '') ORDER BY issued LIMIT $1"),
            sql("SELECT kind, org, subject FROM series WHERE issued < $2 AND signed >= version \
                 AND (kind <> 'policy' OR subject = '') ORDER BY issued LIMIT $1"),
            sql("SELECT w.kind AS kind, w.org AS org, w.subject AS subject FROM series w \
                 WHERE w.kind = 'policy' AND w.subject = '' AND EXISTS (SELECT 1 FROM series p WHERE p.kind = 'policy' \
                 AND p.subject <> '' AND p.org = w.org AND p.signed < w.version) LIMIT $1"),
            sql("SELECT DISTINCT kind, org, '' AS subject FROM series WHERE issued < $2 \
                 AND kind || '' = 'policy' AND subject <> '' LIMIT $1"),
        ];
        for (number, query) in queries.into_iter().enumerate() {
            let left = i64::from(limit) - i64::try_from(due.len()).unwrap_or(i64::MAX);
            if left <= 0 {
                break;
            }
            let query = query.bind(left);
            let query = if number % 2 == 1 { query.bind(aged) } else { query };
            for row in self.readers().fetch_all(query).await? {
                let series = series(&row)?;
                if number < 2 || !due.contains(&series) {
                    due.push(series);
                }
            }
        }
        Ok(due)
    }

    async fn projections(&self, org: &OrgId, signed_before: Timestamp) -> Result<Vec<ClusterId>, StoreError> {
        let query = "SELECT p.subject AS subject FROM series p \
                     JOIN series w ON w.kind = 'policy' AND w.org = p.org AND w.subject = '' \
                     WHERE p.kind = 'policy' AND p.org = $1 AND p.subject <> '' \
                     AND (p.signed < w.version OR p.issued < $2) ORDER BY p.subject";
        let rows = self.readers().fetch_all(sql(query).bind(org.as_str()).bind(micros(signed_before))).await?;
        Ok(rows.iter().map(|row| text(row, "subject")).collect::<Result<_, _>>()?)
    }

    async fn claim(&self, org: &OrgId) -> Result<Option<Claim>, StoreError> {
        if !self.is_shared() {
            return Ok(Some(Claim::default()));
        }
        let mut tx = self.read().await?;
        // Of PostgreSQL alone, and therefore not among the texts that both databases are shown. Whoever is cut off has it no more.
        let lock = "select case when pg_try_advisory_xact_lock(hashtextextended($1, 0)) then 1::bigint else 0::bigint end as taken";
        let lock = Statement::made(lock.into(), vec![format!("policy/{org}").into()]);
        let is_taken = tx.fetch_one(lock).await?.number("taken")? == 1;
        Ok(is_taken.then(|| Claim::new(tx)))
    }

    async fn snapshot(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Snapshot>, StoreError> {
        let org = series.org.as_ref();
        if let (DocumentKind::Policy, Some(org)) = (series.kind, org) {
            self.at_hand(org.as_str()).await?;
        }
        let mut read = self.read().await?;
        let query = sql(REVISION).bind(series.kind.to_string()).bind(org_or_empty(org)).bind(&series.subject);
        let Some(row) = read.fetch_optional(query).await? else { return Ok(None) };
        let revision = Revision { epoch: number(&row, "epoch")?, version: number(&row, "version")? };
        let content = match (series.kind, org) {
            (DocumentKind::Trust, None) => Read::Ready(Content::Trust),
            (DocumentKind::Policy, Some(org)) => Read::Policy(Rows::read(self, &mut read, org).await?),
            (DocumentKind::Session, Some(_)) => match session(&mut read, series, now).await? {
                Some(session) => session,
                None => return Ok(None),
            },
            (DocumentKind::Revocations, org) => Read::Ready(Content::Revocations(revoked(&mut read, org, now).await?)),
            _ => return Ok(None),
        };
        drop(read);
        let content = match (content, org) {
            (Read::Ready(content), _) => content,
            (content, Some(org)) => self.opened(org, content).await?,
            (_, None) => return Ok(None),
        };
        let content = match content {
            Content::Policy(policy) if series.is_projection() => {
                let Ok(cluster) = series.subject.parse() else { return Ok(None) };
                match Projector::new(&policy).to(&cluster) {
                    Some(projection) => Content::Policy(projection),
                    None => return Ok(None),
                }
            }
            content => content,
        };
        Ok(Some(Snapshot { revision, content }))
    }

    async fn revision(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Revision>, StoreError> {
        // Whether a session is there does not show in its series alone.
        if series.kind == DocumentKind::Session {
            return Ok(self.snapshot(series, now).await?.map(|snapshot| snapshot.revision));
        }
        let query = sql(REVISION).bind(series.kind.to_string()).bind(org_or_empty(series.org.as_ref()));
        let Some(row) = self.readers().fetch_optional(query.bind(&series.subject)).await? else { return Ok(None) };
        Ok(Some(Revision { epoch: number(&row, "epoch")?, version: number(&row, "version")? }))
    }

    async fn publish(&self, document: &Published) -> Result<bool, StoreError> {
        Ok(self.publish_all(std::slice::from_ref(document)).await? == 1)
    }

    async fn publish_all(&self, documents: &[Published]) -> Result<usize, StoreError> {
        let mut sealed = Vec::with_capacity(documents.len());
        let mut sealer: Option<(&OrgId, Sealer)> = None;
        for Published { series, wire, .. } in documents {
            // What is of the installation is public.
            let Some(org) = &series.org else {
                sealed.push((Some(wire.to_vec()), None));
                continue;
            };
            let by = match sealer.take() {
                Some((of, sealer)) if of == org => sealer,
                _ => self.sealer(org.as_str()).await?,
            };
            let row = format!("{}/{}", series.kind, series.subject);
            sealed.push(by.seal_bytes(wire_of(org.as_str(), &row), wire)?);
            sealer = Some((org, by));
        }
        let mut write = self.write().await?;
        // First, and locked until the commit: no place in the feed is seen before a smaller one.
        let count = i64::try_from(documents.len()).unwrap_or(i64::MAX);
        let next = sql("UPDATE meta SET value = value + $1 WHERE key = 'feed' RETURNING value").bind(count);
        let mut feed = write.fetch_one(next).await?.number("value")? - count;
        let mut published = 0;
        for (document, (wire, sealed)) in documents.iter().zip(sealed) {
            let Published { series, revision, issued, .. } = document;
            feed += 1;
            let update = "UPDATE series SET signed = $1, issued = $2, wire = $3, feed = $4, sealed = $9 \
                          WHERE kind = $5 AND org = $6 AND subject = $7 \
                          AND (signed < $1 OR (signed = $1 AND issued < $2)) \
                          AND $8 = (SELECT value FROM meta WHERE key = 'epoch')";
            let update = sql(update)
                .bind(signed(revision.version))
                .bind(micros(*issued))
                .bind(wire)
                .bind(feed)
                .bind(series.kind.to_string())
                .bind(org_or_empty(series.org.as_ref()))
                .bind(&series.subject)
                .bind(signed(revision.epoch))
                .bind(sealed);
            published += usize::from(write.execute(update).await? == 1);
        }
        if published > 0 {
            write.commit().await?;
            self.hints().give();
        }
        Ok(published)
    }

    async fn feed(&self, scope: &FeedScope, from: u64, limit: u32) -> Result<Vec<FeedEntry>, StoreError> {
        let page = |text| sql(text).bind(signed(from)).bind(i64::from(limit));
        let query = match scope {
            FeedScope::Installation => page(
                "SELECT kind, org, subject, feed, wire, sealed FROM series WHERE feed > $1 \
                 AND (kind <> 'policy' OR subject = '') ORDER BY feed LIMIT $2",
            ),
            FeedScope::Proxies => {
                page("SELECT kind, org, subject, feed, wire, sealed FROM series WHERE feed > $1 ORDER BY feed LIMIT $2")
            }
            // These are four rows, found by their key: not by their place in the feed, behind which there may be thousands of
            // others'. That is what the sum is for.
            FeedScope::Cluster(org, cluster) => page(
                "SELECT kind, org, subject, feed, wire, sealed FROM series \
                 WHERE kind IN ('policy', 'revocations', 'trust') AND org IN ('', $3) AND subject IN ('', $4) \
                 AND (kind <> 'policy' OR subject <> '') AND feed + 0 > $1 ORDER BY feed + 0 LIMIT $2",
            )
            .bind(org.as_str())
            .bind(cluster.as_str()),
        };
        let rows = self.readers().fetch_all(query).await?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            let wire = match row.some_bytes("sealed")? {
                None => Bytes::copy_from_slice(row.bytes("wire")?),
                Some(sealed) => {
                    let of = format!("{}/{}", row.str("kind")?, row.str("subject")?);
                    self.unseal(wire_of(row.str("org")?, &of), sealed).await?.into()
                }
            };
            entries.push(FeedEntry { feed: number(row, "feed")?, wire });
        }
        Ok(entries)
    }

    async fn feed_head(&self) -> Result<u64, StoreError> {
        let query = sql("SELECT value FROM meta WHERE key = 'feed'");
        Ok(number(&self.readers().fetch_one(query).await?, "value")?)
    }

    async fn touch_trust(&self) -> Result<(), StoreError> {
        let mut change = self.change(None, Action::Updated, ResourceKind::Authority, "root").await?;
        change.touch(DocumentKind::Trust).await?;
        Ok(change.commit().await?)
    }

    async fn unrecorded_epoch(&self) -> Result<Option<u64>, StoreError> {
        let query = sql("SELECT value FROM meta WHERE key = 'restored'");
        let row = self.readers().fetch_optional(query).await?;
        Ok(row.as_ref().map(|row| number(row, "value")).transpose()?)
    }

    async fn epoch_recorded(&self, epoch: u64) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let done = sql("DELETE FROM meta WHERE key = 'restored' AND value = $1").bind(signed(epoch));
        write.execute(done).await?;
        Ok(write.commit().await?)
    }
}
