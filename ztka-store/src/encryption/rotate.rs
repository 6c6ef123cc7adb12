//! New data keys, and data keys under a new master key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ztka_controller::store::{DataKey, JobKind, MasterKey};
use ztka_identity::StoreError;

use super::keyring::context;
use crate::{
    Failed, Store,
    jobs::{Done, enqueue},
    row::{micros, number, time},
    sql::{Row, sql},
};

/// Data keys that are wrapped anew in one step.
const AT_ONCE: i64 = 32;

impl Store {
    /// What is written from now on (by other controllers after a minute at most) is under a new data key.
    pub(crate) async fn rotate(&self, org: &str, now: Timestamp) -> Result<(), StoreError> {
        let refused = || StoreError::Refused("the store does not encrypt; configure a master key".into());
        let keyring = self.keyring.as_ref().ok_or_else(refused)?;
        // The first ones, if there are none yet.
        self.sealer(org).await?;
        let key = keyring.fresh_data(org).await?;
        let mut write = self.write().await?;
        let held = sql("UPDATE versions SET version = version WHERE org = $1 AND deleted IS NULL").bind(org);
        if write.execute(held).await? == 0 {
            return Err(StoreError::not_found("organisation", org));
        }
        keyring.insert(&mut write, &key).await?;
        // From the beginning, should it be under way for an earlier key.
        let begin = sql("UPDATE jobs SET state = '', due = $1, lease = 0 WHERE kind = 'seal' AND subject = $2");
        write.execute(begin.bind(micros(now)).bind(org)).await?;
        enqueue(&mut write, JobKind::Seal, org, now).await?;
        write.commit().await?;
        keyring.forget(Some(org));
        Ok(())
    }

    /// The data keys of an organisation, newest first.
    pub(crate) async fn stored_data_keys(&self, org: &str) -> Result<Vec<DataKey>, StoreError> {
        let query =
            "SELECT master, created FROM data_keys WHERE org = $1 AND kind = 'data' ORDER BY created DESC, id DESC";
        let rows = self.readers().fetch_all(sql(query).bind(org)).await?;
        let key = |row: &Row| Ok(DataKey { created: time(row, "created")?, master: row.str("master")?.to_owned() });
        Ok(rows.iter().map(key).collect::<Result<_, Failed>>()?)
    }

    /// The master keys that are known here, and those that are found on data keys.
    pub(crate) async fn known_masters(&self) -> Result<Vec<MasterKey>, StoreError> {
        let mut known = BTreeMap::new();
        if let Some(keyring) = &self.keyring {
            for master in keyring.masters.all() {
                let (id, current) = (master.id().to_owned(), master.id() == keyring.masters.current.id());
                known.insert(id.clone(), MasterKey { id, current, configured: true, data_keys: 0 });
            }
        }
        let query = sql("SELECT master, count(*) AS wrapped FROM data_keys GROUP BY master");
        for row in self.readers().fetch_all(query).await? {
            let (id, data_keys) = (row.str("master")?.to_owned(), number(&row, "wrapped")?);
            let unknown = MasterKey { id: id.clone(), current: false, configured: false, data_keys };
            known.entry(id).or_insert(unknown).data_keys = data_keys;
        }
        Ok(known.into_values().collect())
    }

    /// Asks for data keys to be wrapped anew, beginning now.
    pub(crate) async fn rewrap_now(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.keyring.is_none() {
            return Err(StoreError::Refused("the store does not encrypt; configure a master key".into()));
        }
        let mut write = self.write().await?;
        enqueue(&mut write, JobKind::Rewrap, "", now).await?;
        // One that was put off does not wait any longer.
        let due = sql("UPDATE jobs SET due = $1 WHERE kind = 'rewrap' AND due > $1").bind(micros(now));
        write.execute(due).await?;
        Ok(write.commit().await?)
    }

    /// Wraps some data keys anew that are under another master key than the current one.
    pub(crate) async fn rewrap_step(&self, after: &str) -> Result<Done, StoreError> {
        let keyring = self.keyring.as_ref().ok_or(Failed::Locked)?;
        let (current, after) = (&keyring.masters.current, after.parse::<i64>().unwrap_or(i64::MIN));
        let query =
            "SELECT id, org, kind, master, wrapped FROM data_keys WHERE id > $1 AND master <> $2 ORDER BY id LIMIT $3";
        let query = sql(query).bind(after).bind(current.id()).bind(AT_ONCE);
        let rows = self.readers().fetch_all(query).await?;
        // Before the transaction: a token takes its time.
        let (mut last, mut updates) = (None, Vec::new());
        for row in &rows {
            let (id, master) = (row.number("id")?, row.str("master")?.to_owned());
            let context = context(row.str("org")?, row.str("kind")?, id);
            let unknown = || Failed::Master(super::MasterKeyError::Unknown(master.clone()));
            let holder = keyring.masters.named(&master).ok_or_else(unknown)?;
            let key = holder.unwrap(&context, row.bytes("wrapped")?).await.map_err(Failed::Master)?;
            let wrapped = current.wrap(&context, &key).await.map_err(Failed::Master)?;
            let update = sql("UPDATE data_keys SET wrapped = $1, master = $2 WHERE id = $3 AND master = $4");
            updates.push(update.bind(&wrapped[..]).bind(current.id()).bind(id).bind(&master));
            last = Some(id);
        }
        let (mut tx, mut rows) = (self.write().await?, 0);
        for update in updates {
            rows += tx.execute(update).await?;
        }
        Ok(Done { tx, next: last.map(|id| id.to_string()), rows })
    }

    /// Asks for data keys to be wrapped anew, if some are under another master key.
    pub(super) async fn rewrap_if_needed(&self, current: &str) -> Result<(), Failed> {
        let other = sql("SELECT 1 FROM data_keys WHERE master <> $1 LIMIT 1").bind(current);
        if self.readers().fetch_optional(other).await?.is_none() {
            return Ok(());
        }
        let mut write = self.write().await?;
        enqueue(&mut write, JobKind::Rewrap, "", Timestamp::UNIX_EPOCH).await?;
        write.commit().await
    }
}
