//! The schema and its versions: forward only, one transaction each, one program at a time.

use ztka_core::BoxError;

use crate::{
    Failed,
    row::number,
    sql::{Pool, Tx, sql},
};

/// Brings the schema from the version before it to its own.
struct Migration {
    version: i64,
    sqlite: &'static str,
    postgres: &'static str,
}

/// In the order of their versions. PostgreSQL begins with version 2, which SQLite reaches from its first one.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sqlite: include_str!("../migrations/sqlite/0001_init.sql"), postgres: "" },
    Migration {
        version: 2,
        sqlite: include_str!("../migrations/sqlite/0002_two_databases.sql"),
        postgres: include_str!("../migrations/postgres/0002_init.sql"),
    },
    Migration {
        version: 3,
        sqlite: include_str!("../migrations/sqlite/0003_changes.sql"),
        postgres: include_str!("../migrations/postgres/0003_changes.sql"),
    },
    Migration {
        version: 4,
        sqlite: include_str!("../migrations/sqlite/0004_acknowledgements.sql"),
        postgres: include_str!("../migrations/postgres/0004_acknowledgements.sql"),
    },
    Migration {
        version: 5,
        sqlite: include_str!("../migrations/sqlite/0005_enrolment.sql"),
        postgres: include_str!("../migrations/postgres/0005_enrolment.sql"),
    },
    Migration {
        version: 6,
        sqlite: include_str!("../migrations/sqlite/0006_certificates.sql"),
        postgres: include_str!("../migrations/postgres/0006_certificates.sql"),
    },
    Migration {
        version: 7,
        sqlite: include_str!("../migrations/sqlite/0007_announcements.sql"),
        postgres: include_str!("../migrations/postgres/0007_announcements.sql"),
    },
    Migration {
        version: 8,
        sqlite: include_str!("../migrations/sqlite/0008_peers.sql"),
        postgres: include_str!("../migrations/postgres/0008_peers.sql"),
    },
    Migration {
        version: 9,
        sqlite: include_str!("../migrations/sqlite/0009_encryption.sql"),
        postgres: include_str!("../migrations/postgres/0009_encryption.sql"),
    },
    Migration {
        version: 10,
        sqlite: include_str!("../migrations/sqlite/0010_policy.sql"),
        postgres: include_str!("../migrations/postgres/0010_policy.sql"),
    },
    Migration {
        version: 11,
        sqlite: include_str!("../migrations/sqlite/0011_recordings.sql"),
        postgres: include_str!("../migrations/postgres/0011_recordings.sql"),
    },
    Migration {
        version: 12,
        sqlite: include_str!("../migrations/sqlite/0012_projections.sql"),
        postgres: include_str!("../migrations/postgres/0012_projections.sql"),
    },
    Migration {
        version: 13,
        sqlite: include_str!("../migrations/sqlite/0013_log.sql"),
        postgres: include_str!("../migrations/postgres/0013_log.sql"),
    },
];

/// The schema that this version writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Only one program at a time brings a PostgreSQL schema up to date; the number is "ztka" in ASCII.
const LOCK: i64 = 0x7a74_6b61;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A newer version has been here.
    #[error(
        "it has schema version {found}, and this program knows versions up to {SCHEMA_VERSION}; run the newer program, \
         or restore a backup from before the upgrade"
    )]
    Newer {
        /// The version found.
        found: u64,
    },
    /// The database does not do as it is told.
    #[error("its schema cannot be read or brought up to date; check the database, its disk and the rights of its user")]
    Failed(#[source] BoxError),
    /// The version is none.
    #[error("its schema has no version that makes sense; restore a backup")]
    Corrupt,
}

impl From<Failed> for MigrateError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Corrupt(_) | Failed::Json(_) => Self::Corrupt,
            failed => Self::Failed(failed.into()),
        }
    }
}

/// Brings the schema up to date, or to an earlier version in tests. What is killed meanwhile is at one of the versions
/// and goes on from there.
pub(crate) async fn run(writers: &Pool, last: i64) -> Result<(), MigrateError> {
    while step(writers, last).await? {}
    Ok(())
}

/// The next migration in a transaction of its own; false if there is none.
async fn step(writers: &Pool, last: i64) -> Result<bool, MigrateError> {
    let mut tx = writers.write().await?;
    lock(&mut tx).await?;
    let found = version(&mut tx).await?;
    if found > SCHEMA_VERSION.unsigned_abs() {
        return Err(MigrateError::Newer { found });
    }
    let next = MIGRATIONS.iter().find(|migration| migration.version.unsigned_abs() > found);
    let Some(next) = next.filter(|migration| migration.version <= last) else { return Ok(false) };
    match &mut tx {
        Tx::Sqlite(_) => {
            tx.raw(next.sqlite).await?;
            // A pragma takes no parameters; the value is a number of ours.
            tx.raw(format!("PRAGMA user_version = {}", next.version)).await?;
        }
        Tx::Postgres(_) => {
            tx.raw(next.postgres).await?;
            tx.raw("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL); DELETE FROM schema_version")
                .await?;
            tx.execute(sql("INSERT INTO schema_version (version) VALUES ($1)").bind(next.version)).await?;
        }
    }
    tx.commit().await?;
    Ok(true)
}

/// SQLite's transaction has the write lock already.
async fn lock(tx: &mut Tx) -> Result<(), Failed> {
    if let Tx::Postgres(_) = tx {
        // Whoever comes later waits until the first has finished, but nobody makes the serving ones wait for long: a
        // migration that does not get its locks soon is undone, and tried again at the next start.
        tx.raw("SET LOCAL lock_timeout = 0").await?;
        tx.raw(format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        tx.raw("SET LOCAL lock_timeout = '5s'").await?;
    }
    Ok(())
}

/// The version of the schema that is there; 0 if there is none.
pub(crate) async fn version(tx: &mut Tx) -> Result<u64, Failed> {
    match tx {
        Tx::Sqlite(_) => number(&tx.fetch_one(sql("PRAGMA user_version")).await?, "user_version"),
        Tx::Postgres(_) => {
            let there = sql("SELECT count(*) AS there FROM pg_class WHERE oid = to_regclass('schema_version')");
            if number(&tx.fetch_one(there).await?, "there")? == 0 {
                return Ok(0);
            }
            number(&tx.fetch_one(sql("SELECT version FROM schema_version")).await?, "version")
        }
    }
}

#[cfg(test)]
mod tests;
