//! The schema and its versions.

use sqlx::{Row as _, SqlitePool};

/// Each brings the schema from the version before it to its own place in the list, counted from 1.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_init.sql")];

/// The schema that this version writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

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
        found: i64,
    },
    /// The database does not do as it is told.
    #[error("its schema cannot be read or brought up to date; check the file and the disk")]
    Failed(#[source] sqlx::Error),
}

/// Brings the schema up to date, in one transaction.
pub(crate) async fn run(writer: &SqlitePool) -> Result<(), MigrateError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(MigrateError::Failed)?;
    let row = sqlx::query("PRAGMA user_version").fetch_one(&mut *transaction).await.map_err(MigrateError::Failed)?;
    let found: i64 = row.try_get(0).map_err(MigrateError::Failed)?;
    if found > SCHEMA_VERSION {
        return Err(MigrateError::Newer { found });
    }
    let missing = MIGRATIONS.iter().zip(1_i64..).filter(|(_, version)| *version > found);
    for (sql, version) in missing {
        sqlx::raw_sql(*sql).execute(&mut *transaction).await.map_err(MigrateError::Failed)?;
        // A pragma takes no parameters; the value is a number of ours.
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {version}"));
        sqlx::raw_sql(pragma).execute(&mut *transaction).await.map_err(MigrateError::Failed)?;
    }
    transaction.commit().await.map_err(MigrateError::Failed)
}
