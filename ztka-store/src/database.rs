//! The database file: opening, reading, writing.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use ztka_identity::StoreError;

use crate::migrate::{self, MigrateError};

/// A writer waits this long for another process's transaction.
const BUSY: Duration = Duration::from_secs(10);
/// Connections that read.
const READERS: u32 = 4;

/// Everything a controller keeps, in one SQLite file. Cheap to clone.
#[derive(Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or made.
    #[error("the database {} cannot be opened; check the directory, its owner and the disk", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Its schema is not one that this version can use.
    #[error("the database {} cannot be used", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        #[source]
        source: MigrateError,
    },
}

impl SqliteStore {
    /// Opens the database at `path`, making it with mode 0600 if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; a database of a newer version is refused and left as it is.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let open = |source| OpenError::Open { path: path.into(), source };
        create_private(path).map_err(|error| open(error.into()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A version that was given out must never be given out again, also not after a power loss.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let pool = |count| SqlitePoolOptions::new().max_connections(count).acquire_timeout(3 * BUSY);
        let writer = pool(1).connect_with(options.clone()).await.map_err(open)?;
        migrate::run(&writer).await.map_err(|source| OpenError::Schema { path: path.into(), source })?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "on")).await.map_err(open)?;
        Ok(Self { writer, readers, path: path.into() })
    }

    /// Finishes what is under way and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Connections that only read.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// A transaction that reads at one moment.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.readers.begin().await.map_err(failed)
    }

    /// A transaction that writes; it has the write lock from its beginning, and is undone unless committed.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The store failed.
pub(crate) fn failed(error: sqlx::Error) -> StoreError {
    StoreError::unavailable(error)
}

/// The store failed, unless a unique name was taken.
pub(crate) fn taken(what: &'static str, name: impl ToString) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match error.as_database_error() {
        Some(database) if database.is_unique_violation() => StoreError::exists(what, name),
        _ => failed(error),
    }
}

/// SQLite gives its journals the mode of the database file, so it is enough to make that one private.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}
