//! Opening an SQLite file.

use std::path::Path;

use sqlx::{
    Connection as _,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{sql::Pool, store::Patience};

/// Connections that read.
const READERS: u32 = 4;

/// One connection that writes, since SQLite has one writer at a time, and several that read meanwhile.
pub(crate) struct Opening(SqliteConnectOptions, Patience);

impl Opening {
    /// Makes the file with mode 0600 if there is none.
    pub(crate) fn of(path: &Path, patience: Patience) -> Result<Self, sqlx::Error> {
        create_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            // Readers and the writer do not wait for each other.
            .journal_mode(SqliteJournalMode::Wal)
            // A version that was given out must never be given out again, also not after a power loss.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Pages that a connection holds, in KiB: half of what it does by itself. The system holds the file as well, and
            // there are five connections.
            .pragma("cache_size", "-1000")
            // A policy has thousands of rows: who reads it and who parses it wait for each other less often.
            .row_buffer_size(256)
            // What is deleted, or sealed later on, is not left in the file.
            .pragma("secure_delete", "on")
            // Another process may write: `ztka backup`, or a second controller over the same file.
            .busy_timeout(patience.lock);
        Ok(Self(options, patience))
    }

    /// For one who has the file to itself: nobody else has it open then.
    pub(crate) fn alone(self) -> Self {
        Self(self.0.locking_mode(SqliteLockingMode::Exclusive), self.1)
    }

    pub(crate) async fn writers(&self) -> Result<Pool, sqlx::Error> {
        let pool = whole().max_connections(1).acquire_timeout(self.1.connection);
        Ok(Pool::Sqlite(pool.connect_with(self.0.clone()).await?))
    }

    pub(crate) async fn readers(self) -> Result<Pool, sqlx::Error> {
        let pool = whole().max_connections(READERS).acquire_timeout(self.1.connection);
        Ok(Pool::Sqlite(pool.connect_with(self.0.pragma("query_only", "on")).await?))
    }
}

/// A pool that gives nobody a connection with somebody else's transaction in it. After some errors (a full disk, a disk that
/// cannot be read) SQLite has undone a transaction by itself; sqlx does not hear of it, and its own rollback fails.
fn whole() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
}

/// An empty database that is nowhere, for whoever wants to see a schema.
pub(crate) async fn in_memory() -> Result<Pool, sqlx::Error> {
    // Each connection is a database of its own.
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    Ok(Pool::Sqlite(pool.connect_with(SqliteConnectOptions::new().in_memory(true)).await?))
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
