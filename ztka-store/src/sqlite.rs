//! Opening an SQLite file.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::{
    sql::Pool,
    store::{ACQUIRE, BUSY},
};

/// Connections that read.
const READERS: u32 = 4;

/// One connection that writes, since SQLite has one writer at a time, and several that read meanwhile.
pub(crate) struct Opening(SqliteConnectOptions);

impl Opening {
    /// Makes the file with mode 0600 if there is none.
    pub(crate) fn of(path: &Path) -> Result<Self, sqlx::Error> {
        create_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            // Readers and the writer do not wait for each other.
            .journal_mode(SqliteJournalMode::Wal)
            // A version that was given out must never be given out again, also not after a power loss.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Another process may write: `ztka backup`, or a second controller over the same file.
            .busy_timeout(BUSY);
        Ok(Self(options))
    }

    pub(crate) async fn writers(&self) -> Result<Pool, sqlx::Error> {
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE);
        Ok(Pool::Sqlite(pool.connect_with(self.0.clone()).await?))
    }

    pub(crate) async fn readers(self) -> Result<Pool, sqlx::Error> {
        let pool = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(ACQUIRE);
        Ok(Pool::Sqlite(pool.connect_with(self.0.pragma("query_only", "on")).await?))
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
