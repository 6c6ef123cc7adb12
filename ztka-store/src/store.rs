//! The store: a database that is open, and its transactions.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use ztka_controller::store::{Action, ResourceKind};
use ztka_core::OrgId;
use ztka_identity::StoreError;

use crate::{
    Failed, Location, OpenError,
    change::Change,
    encryption::Keyring,
    hints::Hints,
    location::Unsuitable,
    migrate::{self, SCHEMA_VERSION},
    postgres,
    sql::{Pool, Tx, sql},
    sqlite,
};

/// How long somebody waits for a database before they are told that it does not do as asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// For a lock that another writer has. Default 10 s.
    pub lock: Duration,
    /// For a connection: while the server is away, or all connections are in use. Default 5 s.
    pub connection: Duration,
    /// Connections that write to a server, and as many that read. Default 8.
    pub connections: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { lock: Duration::from_secs(10), connection: Duration::from_secs(5), connections: 8 }
    }
}

/// Changes that are kept of each organisation, some two megabytes.
const HISTORY: u64 = 10_000;

/// Everything a controller keeps, in one SQLite file or one PostgreSQL database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writers: Pool,
    readers: Pool,
    hints: Hints,
    /// Changes that are kept of each organisation.
    history: u64,
    /// What is changed has to be at this version.
    expected: Option<u64>,
    location: Location,
    /// What seals; none where everything is in clear,
    pub(crate) keyring: Option<Arc<Keyring>>,
    /// or where it cannot be opened.
    pub(crate) locked: bool,
}

impl Store {
    /// Opens the database, making an SQLite file with mode 0600 if there is none, and brings its schema up to date.
    /// Several controllers may do so at once.
    ///
    /// # Errors
    /// [`OpenError`]; a database of a newer version is refused and left as it is.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        Self::open_with(location, Patience::default()).await
    }

    /// [`Store::open`], for who waits longer or shorter than others.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open_with(location: &Location, patience: Patience) -> Result<Self, OpenError> {
        let failed = |source| OpenError::open(location, source);
        let unsuitable = |source: Unsuitable| OpenError::Unsuitable { location: location.clone(), source };
        let schema = |source| OpenError::Schema { location: location.clone(), source };
        let (writers, readers) = match location {
            Location::Sqlite(path) => {
                let opening = sqlite::Opening::of(path, patience).map_err(failed)?;
                let writers = opening.writers().await.map_err(failed)?;
                migrate::run(&writers, SCHEMA_VERSION).await.map_err(schema)?;
                (writers, opening.readers().await.map_err(failed)?)
            }
            Location::Postgres(url) => {
                let opening = postgres::Opening::of(url, patience).map_err(failed)?;
                let writers = opening.writers().await.map_err(failed)?;
                postgres::check(&writers).await.map_err(unsuitable)?;
                migrate::run(&writers, SCHEMA_VERSION).await.map_err(schema)?;
                (writers, opening.readers().await.map_err(failed)?)
            }
        };
        let hints = Hints::new(&writers, &readers);
        let sealed = readers.fetch_optional(sql("SELECT 1 FROM data_keys LIMIT 1")).await;
        let locked = sealed.map_err(|failed| schema(failed.into()))?.is_some();
        let (history, expected, location) = (HISTORY, None, location.clone());
        Ok(Self { writers, readers, hints, history, expected, location, keyring: None, locked })
    }

    /// Keeps this many changes of each organisation for those who watch it; 10,000 by default. Whoever has missed more
    /// lists again.
    #[must_use]
    pub fn with_history(self, changes: u64) -> Self {
        Self { history: changes, ..self }
    }

    /// [`Store::open`] of an SQLite file.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn sqlite(path: &Path) -> Result<Self, OpenError> {
        Self::open(&path.into()).await
    }

    /// Finishes what is under way and closes every connection.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }

    /// True if controllers elsewhere may work with the same database.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.readers, Pool::Postgres(_))
    }

    /// Connections that only read.
    pub(crate) fn readers(&self) -> &Pool {
        &self.readers
    }

    /// A transaction that reads everything as it is at one moment.
    pub(crate) async fn read(&self) -> Result<Tx, Failed> {
        self.readers.read().await
    }

    /// A transaction that writes something without a version.
    pub(crate) async fn write(&self) -> Result<Tx, Failed> {
        self.writers.write().await
    }

    /// A transaction that has the organisation to itself without changing its version.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such organisation.
    pub(crate) async fn hold(&self, org: &OrgId) -> Result<Tx, StoreError> {
        let mut tx = self.write().await?;
        let hold = sql("UPDATE versions SET version = version WHERE org = $1 AND deleted IS NULL").bind(org.as_str());
        match tx.execute(hold).await? {
            0 => Err(StoreError::not_found("organisation", org)),
            _ => Ok(tx),
        }
    }

    /// Begins a change of an organisation (none: of the installation); see [`Change`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such organisation.
    pub(crate) async fn change(
        &self,
        org: Option<&OrgId>,
        action: Action,
        kind: ResourceKind,
        name: &str,
    ) -> Result<Change, StoreError> {
        let tx = self.write().await?;
        let mut change = Change::begin(tx, self.hints.clone(), self.history, org, action, kind, name).await?;
        if let Some(expected) = self.expected {
            change.need_version(expected).await?;
        }
        Ok(change)
    }

    /// The same store, which changes nothing that is at another version.
    pub(crate) fn expecting(&self, version: u64) -> Self {
        Self { expected: Some(version), ..self.clone() }
    }

    /// The same store, which seals.
    pub(crate) fn with_keyring(self, keyring: Arc<Keyring>) -> Self {
        Self { keyring: Some(keyring), locked: false, ..self }
    }

    pub(crate) fn hints(&self) -> &Hints {
        &self.hints
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
