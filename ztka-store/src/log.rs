//! The transparency log: tiles that grow with events, heads, and what was there before there were logs.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use ring::rand::{SecureRandom as _, SystemRandom};
use ztka_audit::{
    GrownLog, Hash, HeadAt, LogStore, Stage,
    log::{Leaf, LeafContent, Salt, SignedHead, TILE_WIDTH, TileId, Tiles, TreeHead, entry, grow, leaf_hash, one_line},
};
use ztka_core::{AuditId, BoxError, KeyId, OrgId};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    audit::payload_of,
    jobs::Done,
    row::{micros, number, signed, some_time, text, to_json},
    sql::{Row, Tx, Value, sql},
};

/// Events that are brought into the log in one step.
const AT_ONCE: i64 = 64;
/// Leaves of one request at most.
const LEAVES: i64 = 100;
const WIDTH: u64 = TILE_WIDTH as u64;

/// An event that is to become a leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewLeaf {
    pub(crate) number: i64,
    pub(crate) hash: Hash,
}

/// As many salts.
pub(crate) fn salts(count: usize) -> Result<Vec<Salt>, Failed> {
    let mut random = vec![0; 16 * count];
    SystemRandom::new().fill(&mut random).map_err(|_| Failed::Sealing)?;
    Ok(random.as_chunks().0.iter().map(|salt| Salt::new(*salt)).collect())
}

/// What stands in the column `payload` of an event that is a leaf: its salt, and what was sent, on one line. Without the
/// salt nobody finds out by trying what a leaf was of, so it has to go with the event: it is sealed together with it.
pub(crate) fn salted(salt: Salt, payload: &str) -> String {
    format!("{salt}{payload}")
}

/// The salt and the event in a column `payload`; no salt in one that is not in the log yet. JSON of an event begins with a
/// brace or a blank, a salt with neither.
pub(crate) fn unsalted(text: &str) -> (Option<Salt>, &str) {
    let parts = text.split_at_checked(Salt::DIGITS);
    let parts = parts.and_then(|(salt, payload)| Some((Salt::parse(salt.as_bytes()).ok()?, payload)));
    parts.map_or((None, text), |(salt, payload)| (Some(salt), payload))
}

/// Appends events to the log of their organisation, in the order of their numbers, which is that of all its events; nobody
/// else appends to it until the commit. Those of a log that has yet to take in older ones wait behind them.
pub(crate) async fn append(write: &mut Tx, org: &str, leaves: &[NewLeaf]) -> Result<(), Failed> {
    let count = i64::try_from(leaves.len()).unwrap_or(i64::MAX);
    let text = "INSERT INTO logs (org, size, backlog) VALUES ($1, $2, 0) ON CONFLICT (org) DO UPDATE SET \
                size = logs.size + CASE WHEN logs.backlog = 0 THEN excluded.size ELSE 0 END RETURNING size, backlog";
    let row = write.fetch_one(sql(text).bind(org).bind(count)).await?;
    if row.number("backlog")? != 0 {
        return Ok(());
    }
    let before = u64::try_from(row.number("size")? - count).map_err(|_| Failed::Corrupt("size"))?;
    extend(write, org, before, leaves).await
}

fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes.as_chunks().0.iter().map(|hash: &[u8; 32]| Hash::from(*hash)).collect()
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = i64> {
    bytes.as_chunks().0.iter().map(|number| i64::from_be_bytes(*number))
}

const UPSERT_TILE: &str = "INSERT INTO log_tiles (org, level, tile, first, hashes, numbers) \
                           VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (org, level, tile) \
                           DO UPDATE SET hashes = excluded.hashes, numbers = excluded.numbers";

/// Grows the tiles of a log of `before` leaves, whose row is locked.
async fn extend(write: &mut Tx, org: &str, before: u64, leaves: &[NewLeaf]) -> Result<(), Failed> {
    let mut new: Vec<Hash> = leaves.iter().map(|leaf| leaf.hash).collect();
    let mut of_events: Vec<i64> = leaves.iter().map(|leaf| leaf.number).collect();
    let (mut size, mut level) = (before, 0_u8);
    let mut rows = Vec::new();
    while !new.is_empty() {
        let mut held = Vec::new();
        if size % WIDTH > 0 {
            let query = sql("SELECT hashes, numbers FROM log_tiles WHERE org = $1 AND level = $2 AND tile = $3");
            let query = query.bind(org).bind(i64::from(level)).bind(signed(size / WIDTH));
            let row = write.fetch_optional(query).await?.ok_or(Failed::Corrupt("hashes"))?;
            held = hashes(row.bytes("hashes")?);
            if level == 0 {
                drop(of_events.splice(0..0, numbers(row.bytes("numbers")?)));
            }
        }
        if held.len() as u64 != size % WIDTH {
            return Err(Failed::Corrupt("hashes"));
        }
        let grown = grow(size, held, &new);
        let mut of_tiles = of_events.chunks(TILE_WIDTH);
        for (index, hashes) in grown.tiles {
            let numbers = if level == 0 { of_tiles.next().unwrap_or_default() } else { &[] };
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
            let numbers_bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            let row: [Value; 6] = [
                org.into(),
                i64::from(level).into(),
                signed(index).into(),
                numbers.first().copied().unwrap_or_default().into(),
                bytes.into(),
                numbers_bytes.into(),
            ];
            rows.push(row);
        }
        (size, new, level) = (size / WIDTH, grown.above, level + 1);
    }
    write.insert_all(UPSERT_TILE, rows.into_iter()).await.map(drop)
}

impl Store {
    /// A step of a job of kind `log`: brings events of before there were logs into that of their organisation; its state is
    /// the number of the last.
    pub(crate) async fn log_step(&self, org: &str, state: &str) -> Result<Done, StoreError> {
        let gone = sql("SELECT 1 FROM deleted_orgs WHERE org = $1").bind(org);
        if self.readers().fetch_optional(gone).await?.is_some() {
            return Ok(Done { tx: self.write().await?, next: None, rows: 0 });
        }
        let sealer = self.sealer(org).await?;
        let mut tx = self.write().await?;
        let hold = sql("UPDATE logs SET size = size WHERE org = $1 RETURNING size").bind(org);
        let Some(log) = tx.fetch_optional(hold).await? else { return Ok(Done { tx, next: None, rows: 0 }) };
        let before = number(&log, "size")?;
        let query = "SELECT number, source, payload, sealed FROM events WHERE org = $1 AND number > $2 \
                     ORDER BY number LIMIT $3";
        let query = sql(query).bind(org).bind(state.parse().unwrap_or(i64::MIN)).bind(AT_ONCE);
        let found = tx.fetch_all(query).await?;
        let Some(last) = found.last().map(|row| row.number("number")).transpose()? else {
            tx.execute(sql("UPDATE logs SET backlog = 0 WHERE org = $1").bind(org)).await?;
            return Ok(Done { tx, next: None, rows: 0 });
        };
        let mut leaves = Vec::with_capacity(found.len());
        for (row, salt) in found.iter().zip(salts(found.len())?) {
            let number = row.number("number")?;
            let place = number.to_string();
            let text = match self.text_at(payload_of(org, &place), row, "payload", "sealed").await {
                Ok(text) => text,
                Err(error @ Failed::NotOpened(..)) => {
                    tracing::error!(number, %error, "an event cannot be read and stays outside of the log");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (has, payload) = unsalted(&text);
            let (salt, payload) = (has.unwrap_or(salt), one_line(payload));
            if has.is_none() {
                let (clear, sealed) = sealer.seal(payload_of(org, &place), salted(salt, &payload))?;
                let update = sql("UPDATE events SET payload = $1, sealed = $2 WHERE number = $3");
                tx.execute(update.bind(clear).bind(sealed).bind(number)).await?;
            }
            let hash = leaf_hash(&salt, entry(row.str("source")?, &payload).as_bytes());
            leaves.push(NewLeaf { number, hash });
        }
        let grown = sql("UPDATE logs SET size = size + $1 WHERE org = $2");
        tx.execute(grown.bind(signed(leaves.len() as u64)).bind(org)).await?;
        extend(&mut tx, org, before, &leaves).await?;
        Ok(Done { tx, next: Some(last.to_string()), rows: leaves.len() as u64 })
    }

    /// The numbers of the events that these leaves are of, in order.
    async fn numbers_of(&self, org: &OrgId, range: Range<u64>) -> Result<Vec<(u64, i64)>, Failed> {
        let query = "SELECT tile, numbers FROM log_tiles WHERE org = $1 AND level = 0 AND tile >= $2 AND tile <= $3 \
                     ORDER BY tile";
        let last = range.end.saturating_sub(1) / WIDTH;
        let query = sql(query).bind(org.as_str()).bind(signed(range.start / WIDTH)).bind(signed(last));
        let mut found = Vec::new();
        for row in self.readers().fetch_all(query).await? {
            let first = number(&row, "tile")? * WIDTH;
            let all = (first..).zip(numbers(row.bytes("numbers")?));
            found.extend(all.filter(|(leaf, _)| range.contains(leaf)));
        }
        Ok(found)
    }

    /// What a leaf is of; none if its key is gone.
    async fn content(&self, row: &Row) -> Result<Option<LeafContent>, Failed> {
        let place = row.number("number")?.to_string();
        let text = match self.text_at(payload_of(row.str("org")?, &place), row, "payload", "sealed").await {
            Ok(text) => text,
            Err(Failed::NotOpened(..)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (salt, payload) = unsalted(&text);
        let salt = salt.ok_or(Failed::Corrupt("payload"))?;
        Ok(Some(LeafContent { salt, entry: entry(row.str("source")?, payload) }))
    }

    /// The leaf that an event is, if it is in the log.
    async fn leaf_of(&self, org: &OrgId, of: i64) -> Result<Option<u64>, Failed> {
        let query = "SELECT tile, numbers FROM log_tiles WHERE org = $1 AND level = 0 AND first <= $2 \
                     ORDER BY first DESC LIMIT 1";
        let row = self.readers().fetch_optional(sql(query).bind(org.as_str()).bind(of)).await?;
        let Some(row) = row else { return Ok(None) };
        let first = number(&row, "tile")? * WIDTH;
        let found = (first..).zip(numbers(row.bytes("numbers")?)).find(|(_, number)| *number == of);
        Ok(found.map(|(leaf, _)| leaf))
    }
}

fn signed_head(row: &Row) -> Result<SignedHead, Failed> {
    Ok(SignedHead {
        signed: row.str("signed")?.to_owned(),
        key: KeyId(row.str("key")?.to_owned()),
        signature: row.str("signature")?.to_owned(),
        chain: crate::row::json(row, "chain")?,
    })
}

#[async_trait]
impl LogStore for Store {
    async fn log_size(&self, org: &OrgId) -> Result<u64, BoxError> {
        let query = sql("SELECT size FROM logs WHERE org = $1").bind(org.as_str());
        let row = self.readers().fetch_optional(query).await?;
        Ok(row.map(|row| number(&row, "size")).transpose()?.unwrap_or(0))
    }

    async fn tiles(&self, org: &OrgId, ids: &[TileId]) -> Result<Tiles, BoxError> {
        let mut levels: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
        for id in ids {
            levels.entry(id.level).or_default().push(signed(id.index));
        }
        let mut tiles = Tiles::default();
        for (level, indices) in levels {
            let query = sql("SELECT tile, hashes FROM log_tiles WHERE org = $1 AND level = $2");
            let query = query.bind(org.as_str()).bind(i64::from(level)).among(" AND tile IN ", indices);
            for row in self.readers().fetch_all(query).await? {
                tiles.insert(TileId { level, index: number(&row, "tile")? }, hashes(row.bytes("hashes")?));
            }
        }
        Ok(tiles)
    }

    async fn leaves(&self, org: &OrgId, range: Range<u64>) -> Result<Vec<Leaf>, BoxError> {
        let numbers = self.numbers_of(org, range).await?;
        let (Some((_, first)), Some((_, last))) = (numbers.first(), numbers.last()) else { return Ok(Vec::new()) };
        let query = "SELECT number, org, source, payload, sealed FROM events \
                     WHERE org = $1 AND number >= $2 AND number <= $3 ORDER BY number";
        let query = sql(query).bind(org.as_str()).bind(*first).bind(*last);
        let rows = self.readers().fetch_all(query).await?;
        let mut rows = rows.iter().peekable();
        let mut leaves = Vec::with_capacity(numbers.len());
        for (index, of) in numbers {
            let mut content = None;
            while let Some(row) = rows.peek() {
                let number = row.number("number")?;
                if number > of {
                    break;
                }
                if number == of {
                    content = self.content(row).await?;
                }
                rows.next();
            }
            leaves.push(Leaf { index, content });
        }
        Ok(leaves)
    }

    async fn leaves_of(&self, org: &OrgId, id: AuditId, stage: Option<Stage>) -> Result<Vec<Leaf>, BoxError> {
        let query = sql("SELECT number, org, source, payload, sealed FROM events WHERE org = $1 AND audit_id = $2");
        let query = query.bind(org.as_str()).bind(id.to_string()).and(" AND stage = ", stage.map(Stage::as_str));
        let query = query.and(" ORDER BY number LIMIT ", Some(LEAVES));
        let mut leaves = Vec::new();
        for row in self.readers().fetch_all(query).await? {
            if let Some(index) = self.leaf_of(org, row.number("number")?).await? {
                leaves.push(Leaf { index, content: self.content(&row).await? });
            }
        }
        Ok(leaves)
    }

    async fn add_head(&self, head: &TreeHead, signed_head: &SignedHead) -> Result<bool, BoxError> {
        let SignedHead { signed: text, key, signature, chain } = signed_head;
        let mut write = self.write().await?;
        let known = sql("INSERT INTO log_keys (key, chain) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        write.execute(known.bind(&key.0).bind(to_json(chain)?)).await?;
        let insert =
            sql("INSERT INTO log_heads (org, size, at, signed, key, signature) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT DO NOTHING");
        let insert = insert.bind(head.org.as_str()).bind(signed(head.size)).bind(micros(head.time));
        let added = write.execute(insert.bind(text).bind(&key.0).bind(signature)).await?;
        write.commit().await?;
        Ok(added > 0)
    }

    async fn head(&self, org: &OrgId, at: HeadAt) -> Result<Option<SignedHead>, BoxError> {
        let query = sql("SELECT h.signed AS signed, h.key AS key, h.signature AS signature, k.chain AS chain \
             FROM log_heads h JOIN log_keys k ON k.key = h.key WHERE h.org = $1");
        let query = query.bind(org.as_str());
        let query = match at {
            HeadAt::Newest => query.and(" ORDER BY h.size DESC LIMIT ", Some(1_i64)),
            HeadAt::Size(size) => query.and(" AND h.size = ", Some(signed(size))),
            HeadAt::After(size) => {
                query.and(" AND h.size > ", Some(signed(size))).and(" ORDER BY h.size LIMIT ", Some(1_i64))
            }
        };
        let row = self.readers().fetch_optional(query).await?;
        Ok(row.as_ref().map(signed_head).transpose()?)
    }

    async fn grown_logs(&self, org: Option<&OrgId>) -> Result<Vec<GrownLog>, BoxError> {
        let query = sql("SELECT l.org AS org, l.size AS size, h.size AS head, h.at AS at, \
             (SELECT value FROM meta WHERE key = 'epoch') AS epoch FROM logs l \
             LEFT JOIN log_heads h ON h.org = l.org \
             AND h.size = (SELECT max(m.size) FROM log_heads m WHERE m.org = l.org) \
             WHERE l.org <> '' AND l.size > coalesce(h.size, 0)");
        let query = query.and(" AND l.org = ", org.map(OrgId::as_str));
        let mut grown = Vec::new();
        for row in self.readers().fetch_all(query).await? {
            // An event may name an organisation that there cannot be; nobody can ask for its log.
            let Ok(org) = text::<OrgId>(&row, "org") else { continue };
            let head = match (row.some_number("head")?, some_time(&row, "at")?) {
                (Some(size), Some(at)) => Some((u64::try_from(size).map_err(|_| Failed::Corrupt("size"))?, at)),
                _ => None,
            };
            grown.push(GrownLog { org, epoch: number(&row, "epoch")?, size: number(&row, "size")?, head });
        }
        Ok(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_told_from_the_json_of_an_event() {
        let salt = Salt::new([9; 16]);
        assert_eq!(unsalted(&salted(salt, "{\"a\":1}")), (Some(salt), "{\"a\":1}"));
        for clear in ["{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"}", " {}", "{}", "é"] {
            assert_eq!(unsalted(clear), (None, clear));
        }
    }
}
