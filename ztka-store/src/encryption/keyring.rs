//! The data keys of organisations: made, wrapped, found again, and dropped from memory.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{
    INSTALLATION, KeyEncryption, MasterKeyError,
    envelope::{BYTES, DataKey, IndexKey, Place, key_of, random_key},
};
use crate::{
    Failed, Store,
    row::micros,
    sql::{Row, Tx, sql},
};

/// A key that another controller has made or removed is heard of after this long.
const FRESH: Duration = Duration::from_secs(60);

/// The words for the two kinds of keys.
pub(super) const DATA: &str = "data";
const INDEX: &str = "index";

/// The master keys: one that wraps, and others that data keys may still be under.
#[derive(Clone, Debug)]
pub struct Masters {
    pub(super) current: Arc<dyn KeyEncryption>,
    also: Vec<Arc<dyn KeyEncryption>>,
}

/// Why a database cannot be unlocked.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// Its data keys are under another master key.
    #[error(
        "the database is encrypted under the master key {found}, and those configured are {configured}; configure the \
         master key that was made with this database, or restore it from its backup"
    )]
    OtherMaster {
        /// The id of the master key that is needed.
        found: String,
        /// The ids of those there are.
        configured: String,
    },
    /// The master key does not do what it should.
    #[error("the data keys of the database cannot be opened with the master key")]
    Master(#[source] MasterKeyError),
    /// The database does not answer.
    #[error("the data keys of the database cannot be read")]
    Store(#[source] ztka_identity::StoreError),
}

impl From<Failed> for UnlockError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Master(error) => Self::Master(error),
            other => Self::Store(other.into()),
        }
    }
}

impl Masters {
    /// One master key, under which everything is.
    pub fn of(current: impl KeyEncryption) -> Self {
        Self { current: Arc::new(current), also: Vec::new() }
    }

    /// Another one that some data keys may still be under, or will be: it opens, and does not wrap.
    #[must_use]
    pub fn and(mut self, other: impl KeyEncryption) -> Self {
        self.also.push(Arc::new(other));
        self
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<dyn KeyEncryption>> {
        std::iter::once(&self.current).chain(&self.also)
    }

    /// Their ids, one behind the other.
    pub(crate) fn ids(&self) -> String {
        self.all().map(|master| master.id()).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn named(&self, id: &str) -> Option<&Arc<dyn KeyEncryption>> {
        self.all().find(|master| master.id() == id)
    }

    /// What a program of before has sealed under a master key itself.
    pub(crate) async fn open_legacy(
        &self,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        let mut refused = MasterKeyError::NotOpened(super::NotOpened);
        for master in self.all() {
            match master.unwrap(context, sealed).await {
                Ok(opened) => return Ok(opened),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

/// What a private key is authenticated with that is under a master key itself.
pub(crate) fn legacy_context(name: &str) -> Vec<u8> {
    [b"ztka private key v1\0", name.as_bytes()].concat()
}

/// What a wrapped data key is authenticated with.
pub(crate) fn context(org: &str, kind: &str, id: i64) -> Vec<u8> {
    format!("ztka data key v1\0{kind}\0{id}\0{org}").into_bytes()
}

/// Keys in memory. What is dropped here is wiped.
pub(crate) struct Keyring {
    pub(super) masters: Masters,
    data: RwLock<BTreeMap<i64, Arc<DataKey>>>,
    orgs: RwLock<BTreeMap<String, Held>>,
}

struct Held {
    sealer: Sealer,
    read: Instant,
}

/// Columns of bytes: the one in clear, and the one that is sealed.
pub(crate) type ClearOrSealed = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Seals for one organisation; the default one leaves everything in clear.
#[derive(Clone, Default)]
pub(crate) struct Sealer(Option<(Arc<DataKey>, Arc<IndexKey>)>);

impl Sealer {
    /// What the column and the column `sealed` beside it are to hold.
    pub(crate) fn seal(&self, place: Place<'_>, clear: String) -> Result<(String, Option<Vec<u8>>), Failed> {
        match &self.0 {
            None => Ok((clear, None)),
            Some((data, _)) => Ok((String::new(), Some(data.seal(place, clear.as_bytes())?))),
        }
    }

    /// The same of bytes, where both columns may be empty.
    pub(crate) fn seal_bytes(&self, place: Place<'_>, clear: &[u8]) -> Result<ClearOrSealed, Failed> {
        match &self.0 {
            None => Ok((Some(clear.to_vec()), None)),
            Some((data, _)) => Ok((None, Some(data.seal(place, clear)?))),
        }
    }

    /// The blind index of a value; none where everything is in clear.
    pub(crate) fn blind(&self, column: &'static str, value: &str) -> Option<String> {
        self.0.as_ref().map(|(_, index)| index.blind(column, value))
    }

    /// What stands in a searched column: the blind index, or the value in clear.
    pub(crate) fn searchable(&self, column: &'static str, value: &str) -> String {
        self.blind(column, value).unwrap_or_else(|| value.to_owned())
    }

    /// The id of the data key; none where everything is in clear.
    pub(crate) fn key(&self) -> Option<i64> {
        self.0.as_ref().map(|(data, _)| data.id)
    }
}

/// A key as it is stored.
struct Wrapped {
    id: i64,
    org: String,
    kind: String,
    master: String,
    bytes: Vec<u8>,
}

fn wrapped(row: &Row) -> Result<Wrapped, Failed> {
    Ok(Wrapped {
        id: row.number("id")?,
        org: row.str("org")?.to_owned(),
        kind: row.str("kind")?.to_owned(),
        master: row.str("master")?.to_owned(),
        bytes: row.bytes("wrapped")?.to_vec(),
    })
}

impl Keyring {
    pub(super) fn new(masters: Masters) -> Self {
        Self { masters, data: RwLock::default(), orgs: RwLock::default() }
    }

    async fn unwrap(&self, key: &Wrapped) -> Result<Zeroizing<[u8; BYTES]>, Failed> {
        let master = self.masters.named(&key.master);
        let master = master.ok_or_else(|| Failed::Master(MasterKeyError::Unknown(key.master.clone())))?;
        let opened = master.unwrap(&context(&key.org, &key.kind, key.id), &key.bytes).await.map_err(Failed::Master)?;
        let mut bytes = Zeroizing::new([0; BYTES]);
        if opened.len() != BYTES {
            return Err(Failed::Corrupt("wrapped"));
        }
        bytes.copy_from_slice(&opened);
        Ok(bytes)
    }

    fn remember(&self, key: DataKey) -> Arc<DataKey> {
        let key = Arc::new(key);
        self.data.write().unwrap_or_else(PoisonError::into_inner).insert(key.id, key.clone());
        key
    }

    fn known(&self, id: i64) -> Option<Arc<DataKey>> {
        self.data.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Forgets what it knows of an organisation, or of all: it is read again when it is needed.
    pub(crate) fn forget(&self, org: Option<&str>) {
        let mut orgs = self.orgs.write().unwrap_or_else(PoisonError::into_inner);
        match org {
            Some(org) => drop(orgs.remove(org)),
            None => orgs.clear(),
        }
        self.data.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Wipes what nobody has used for a while; keys of organisations that are gone go with it.
    pub(crate) fn forget_unused(&self) {
        let mut orgs = self.orgs.write().unwrap_or_else(PoisonError::into_inner);
        orgs.retain(|_, held| held.read.elapsed() < FRESH);
        let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
        data.retain(|_, key| Arc::strong_count(key) > 1);
    }

    fn held(&self, org: &str) -> Option<Sealer> {
        let orgs = self.orgs.read().unwrap_or_else(PoisonError::into_inner);
        orgs.get(org).filter(|held| held.read.elapsed() < FRESH).map(|held| held.sealer.clone())
    }

    /// Reads the newest keys of an organisation, if there are any and they are not known.
    pub(super) async fn at_hand(&self, store: &Store, org: &str) -> Result<(), Failed> {
        match self.held(org) {
            Some(_) => Ok(()),
            None => self.read(store, org).await.map(drop),
        }
    }

    pub(super) async fn sealer(&self, store: &Store, org: &str) -> Result<Sealer, Failed> {
        let mut org = org;
        // The organisation's, made if need be; then the installation's, likewise.
        for _ in 0..4 {
            if let Some(sealer) = self.held(org) {
                return Ok(sealer);
            }
            if let Some(sealer) = self.read(store, org).await? {
                return Ok(sealer);
            }
            // What says that it is of an organisation that there is not (yet, or any more) is the installation's.
            if !self.create(store, org).await? {
                org = INSTALLATION;
            }
        }
        Err(Failed::Corrupt("data_keys"))
    }

    async fn read(&self, store: &Store, org: &str) -> Result<Option<Sealer>, Failed> {
        let query =
            "SELECT id, org, kind, master, wrapped FROM data_keys WHERE org = $1 ORDER BY created DESC, id DESC";
        let (mut data, mut index) = (None, None);
        for row in store.readers().fetch_all(sql(query).bind(org)).await? {
            let key = wrapped(&row)?;
            match (key.kind.as_str(), &data) {
                (INDEX, _) => index = Some(IndexKey::new(self.unwrap(&key).await?)),
                (_, Some(_)) => {}
                _ => {
                    data = Some(match self.known(key.id) {
                        Some(known) => known,
                        None => self.remember(DataKey::new(key.id, self.unwrap(&key).await?)),
                    });
                }
            }
        }
        let (Some(data), Some(index)) = (data, index) else {
            self.orgs.write().unwrap_or_else(PoisonError::into_inner).remove(org);
            return Ok(None);
        };
        let sealer = Sealer(Some((data, Arc::new(index))));
        let held = Held { sealer: sealer.clone(), read: Instant::now() };
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).insert(org.to_owned(), held);
        Ok(Some(sealer))
    }

    /// Makes the first keys of an organisation; false if there is no such organisation.
    async fn create(&self, store: &Store, org: &str) -> Result<bool, Failed> {
        let (data, index) = (self.fresh(org, DATA).await?, self.fresh(org, INDEX).await?);
        let mut write = store.write().await?;
        let held = sql("UPDATE versions SET version = version WHERE org = $1 AND deleted IS NULL").bind(org);
        if write.execute(held).await? == 0 {
            return Ok(false);
        }
        let there = sql("SELECT 1 FROM data_keys WHERE org = $1 LIMIT 1").bind(org);
        if write.fetch_optional(there).await?.is_none() {
            self.insert(&mut write, &data).await?;
            self.insert(&mut write, &index).await?;
            write.commit().await?;
        }
        Ok(true)
    }

    /// A new key, wrapped.
    async fn fresh(&self, org: &str, kind: &str) -> Result<NewKey, Failed> {
        let [id, bytes] = [random_key().map_err(Failed::Master)?, random_key().map_err(Failed::Master)?];
        // A random number of 62 bits.
        let id = id.first_chunk::<8>().map_or(0, |id| i64::from_be_bytes(*id)) & (i64::MAX >> 1);
        let wrapped = self.masters.current.wrap(&context(org, kind, id), &*bytes).await.map_err(Failed::Master)?;
        Ok(NewKey { id, org: org.to_owned(), kind: kind.to_owned(), wrapped })
    }

    pub(super) async fn fresh_data(&self, org: &str) -> Result<NewKey, Failed> {
        self.fresh(org, DATA).await
    }

    pub(super) async fn insert(&self, write: &mut Tx, key: &NewKey) -> Result<(), Failed> {
        let insert = "INSERT INTO data_keys (id, org, kind, master, wrapped, created) VALUES ($1, $2, $3, $4, $5, $6)";
        let insert = sql(insert)
            .bind(key.id)
            .bind(&key.org)
            .bind(&key.kind)
            .bind(self.masters.current.id())
            .bind(&key.wrapped[..])
            .bind(micros(Timestamp::now()));
        write.execute(insert).await.map(drop)
    }

    pub(super) fn unseal_now(&self, place: Place<'_>, sealed: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        key_of(sealed).and_then(|id| self.known(id)).map(|key| key.open(place, sealed)).transpose()
    }

    pub(super) async fn unseal(&self, store: &Store, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, Failed> {
        let wrong = || Failed::NotOpened(place.table, place.column);
        let id = key_of(sealed).ok_or_else(wrong)?;
        if let Some(known) = self.known(id) {
            return known.open(place, sealed);
        }
        let query = sql("SELECT id, org, kind, master, wrapped FROM data_keys WHERE id = $1").bind(id);
        let row = store.readers().fetch_optional(query).await?.ok_or_else(wrong)?;
        let key = wrapped(&row)?;
        let key = self.remember(DataKey::new(id, self.unwrap(&key).await?));
        key.open(place, sealed)
    }

    /// A private key as it is stored: under a data key, or under a master key as programs of schema 8 did it.
    pub(crate) async fn unseal_private(
        &self,
        store: &Store,
        place: Place<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        if key_of(sealed).is_some() {
            return Ok(Zeroizing::new(self.unseal(store, place, sealed).await?));
        }
        self.masters.open_legacy(&legacy_context(place.row), sealed).await.map_err(Failed::Master)
    }
}

/// A key that is not stored yet.
pub(super) struct NewKey {
    pub(super) id: i64,
    org: String,
    kind: String,
    wrapped: Vec<u8>,
}

impl Store {
    /// True if there is something in the database that only its master key opens: it must not be made anew then.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn needs_master_key(&self) -> Result<bool, ztka_identity::StoreError> {
        let query = "SELECT (SELECT count(*) FROM data_keys) + (SELECT count(*) FROM private_keys) AS sealed";
        let row = self.readers().fetch_one(sql(query)).await?;
        Ok(row.number("sealed")? > 0)
    }

    /// The same store, which seals what is secret or personal under data keys that are wrapped by the master key.
    ///
    /// # Errors
    /// [`UnlockError`] if a data key is under a master key that is not among these, or cannot be opened; nothing has been
    /// changed then.
    pub async fn unlock(self, masters: Masters) -> Result<Self, UnlockError> {
        let keyring = Keyring::new(masters);
        let query = sql("SELECT DISTINCT master FROM data_keys ORDER BY master");
        for row in self.readers().fetch_all(query).await.map_err(UnlockError::from)? {
            let found = row.str("master").map_err(UnlockError::from)?;
            if keyring.masters.named(found).is_none() {
                return Err(UnlockError::OtherMaster { found: found.to_owned(), configured: keyring.masters.ids() });
            }
        }
        let current = keyring.masters.current.clone();
        let unlocked = self.with_keyring(Arc::new(keyring));
        // The installation's: made now, or opened, which shows that the master key is the one.
        unlocked.sealer(INSTALLATION).await?;
        unlocked.rewrap_if_needed(current.id()).await?;
        Ok(unlocked)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("masters", &self.masters).finish_non_exhaustive()
    }
}
