//! The store: a database that is open, its transactions, and the version of each organisation.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    path::Path,
    time::Duration,
};

use ztka_core::{DocumentKind, OrgId};
use ztka_identity::StoreError;

use crate::{
    Failed, Location, OpenError,
    location::Unsuitable,
    migrate::{self, SCHEMA_VERSION},
    postgres,
    row::org_or_empty,
    sql::{Pool, Tx, sql},
    sqlite,
};

/// A writer waits this long for another's lock.
pub(crate) const BUSY: Duration = Duration::from_secs(10);
/// A caller waits this long for a connection.
pub(crate) const ACQUIRE: Duration = Duration::from_secs(30);

/// Everything a controller keeps, in one SQLite file or one PostgreSQL database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writers: Pool,
    readers: Pool,
    location: Location,
}

impl Store {
    /// Opens the database, making an SQLite file with mode 0600 if there is none, and brings its schema up to date.
    /// Several controllers may do so at once.
    ///
    /// # Errors
    /// [`OpenError`]; a database of a newer version is refused and left as it is.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { location: location.clone(), source };
        let unsuitable = |source: Unsuitable| OpenError::Unsuitable { location: location.clone(), source };
        let schema = |source| OpenError::Schema { location: location.clone(), source };
        let (writers, readers) = match location {
            Location::Sqlite(path) => {
                let opening = sqlite::Opening::of(path).map_err(failed)?;
                let writers = opening.writers().await.map_err(failed)?;
                migrate::run(&writers, SCHEMA_VERSION).await.map_err(schema)?;
                (writers, opening.readers().await.map_err(failed)?)
            }
            Location::Postgres(url) => {
                let opening = postgres::Opening::of(url).map_err(failed)?;
                let writers = opening.writers().await.map_err(failed)?;
                postgres::check(&writers).await.map_err(unsuitable)?;
                migrate::run(&writers, SCHEMA_VERSION).await.map_err(schema)?;
                (writers, opening.readers().await.map_err(failed)?)
            }
        };
        Ok(Self { writers, readers, location: location.clone() })
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
        let hold = sql("UPDATE versions SET version = version WHERE org = $1").bind(org.as_str());
        match tx.execute(hold).await? {
            0 => Err(StoreError::not_found("organisation", org)),
            _ => Ok(tx),
        }
    }

    /// A transaction that changes something of an organisation (none: of the installation), under its next version.
    ///
    /// The row with the version is locked until the transaction ends. So changes of one organisation happen one after
    /// the other on PostgreSQL too: what is checked first stays true until the commit, and no version becomes visible
    /// before a smaller one. Versions of what is undone are used again; versions that were seen never are.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such organisation.
    pub(crate) async fn change(&self, org: Option<&OrgId>) -> Result<Change, StoreError> {
        let mut tx = self.write().await?;
        let raise = sql("UPDATE versions SET version = version + 1 WHERE org = $1 RETURNING version");
        let row = tx.fetch_optional(raise.bind(org_or_empty(org))).await?;
        let row = row.ok_or_else(|| StoreError::not_found("organisation", org_or_empty(org)))?;
        Ok(Change { version: row.number("version")?, org: org.cloned(), tx })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A transaction that changes something of an organisation.
pub(crate) struct Change {
    tx: Tx,
    org: Option<OrgId>,
    version: i64,
}

impl Change {
    /// The first change of an organisation that this transaction has just made.
    pub(crate) async fn first(mut tx: Tx, org: &OrgId) -> Result<Self, Failed> {
        let insert = sql("INSERT INTO versions (org, version) VALUES ($1, 1)").bind(org.as_str());
        tx.execute(insert).await?;
        Ok(Self { tx, org: Some(org.clone()), version: 1 })
    }

    /// The version of the organisation that has this change.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// The document of this kind says something new, or is new itself.
    pub(crate) async fn touch(&mut self, kind: DocumentKind) -> Result<(), Failed> {
        let text = "INSERT INTO series (kind, org, subject, version) VALUES ($1, $2, '', $3) \
                    ON CONFLICT (kind, org, subject) DO UPDATE SET version = excluded.version";
        let touch = sql(text).bind(kind.to_string()).bind(org_or_empty(self.org.as_ref())).bind(self.version);
        self.tx.execute(touch).await.map(drop)
    }

    pub(crate) async fn commit(self) -> Result<(), Failed> {
        self.tx.commit().await
    }
}

impl Deref for Change {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.tx
    }
}
