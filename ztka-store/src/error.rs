//! What goes wrong with a database, as the traits of the other crates say it.

use std::io::ErrorKind;

use ztka_identity::{Outage, OutageKind, StoreError};

/// A statement was not carried out, or its answer makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The database says no, or nothing.
    #[error(transparent)]
    Sql(sqlx::Error),
    /// It fails in a way that an operator can do something about.
    #[error("a statement was not carried out")]
    Outage(#[from] Outage),
    /// What a column holds is not what was put there.
    #[error("the column {0} of the database holds something that this program has not written")]
    Corrupt(&'static str),
    /// What is sealed is not what was put there.
    #[error(
        "the column {1} of {0} holds something that was not sealed for this place, or whose data key is gone; restore a \
         backup"
    )]
    NotOpened(&'static str, &'static str),
    /// It is sealed, and there is no master key.
    #[error("the database is encrypted, and was opened without its master key")]
    Locked,
    /// The master key does not do what it should.
    #[error("the data keys of the database cannot be used")]
    Master(#[source] crate::MasterKeyError),
    /// No randomness, or more than a cipher takes.
    #[error("a value cannot be sealed: the system gives no randomness")]
    Sealing,
    /// A value cannot be written as JSON.
    #[error("a value cannot be stored")]
    Json(#[source] serde_json::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        match outage(&error) {
            Some(kind) => Self::Outage(Outage::new(kind, error)),
            None => Self::Sql(error),
        }
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        Self::unavailable(failed)
    }
}

impl From<Failed> for ztka_pki::StoreError {
    fn from(failed: Failed) -> Self {
        Self::new(failed)
    }
}

impl Failed {
    /// A row that has to be unique is there already.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// In which way the database fails, if it does.
pub(crate) fn outage(error: &sqlx::Error) -> Option<OutageKind> {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code()?;
            match error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                Some(_) => of_sqlite(code.parse().ok()?),
                None => of_postgres(&code),
            }
        }
        sqlx::Error::Io(error) if error.kind() == ErrorKind::NotFound => Some(OutageKind::Unreachable),
        sqlx::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => Some(OutageKind::Unreachable),
        // A server that ends leaves half a message, or none.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => Some(OutageKind::Cut),
        sqlx::Error::Tls(_) => Some(OutageKind::Unreachable),
        sqlx::Error::PoolTimedOut => Some(OutageKind::Exhausted),
        _ => None,
    }
}

/// <https://www.sqlite.org/rescode.html>: the low byte is what it is, the others are details.
fn of_sqlite(code: u32) -> Option<OutageKind> {
    match code & 0xff {
        5 | 6 => Some(OutageKind::Busy),
        8 => Some(OutageKind::ReadOnly),
        // A short read, a checksum: what is there is not what was written.
        10 if matches!(code >> 8, 2 | 32) => Some(OutageKind::Damaged),
        10 => Some(OutageKind::Disk),
        11 | 26 => Some(OutageKind::Damaged),
        13 => Some(OutageKind::Full),
        14 => Some(OutageKind::Disk),
        _ => None,
    }
}

/// PostgreSQL, appendix A: the first two characters are the class.
fn of_postgres(code: &str) -> Option<OutageKind> {
    match code {
        "53100" => Some(OutageKind::Full),
        "53300" => Some(OutageKind::Exhausted),
        "25006" => Some(OutageKind::ReadOnly),
        // A lock that does not come; two that wait for each other; a statement that takes too long.
        "55P03" | "40P01" | "57014" => Some(OutageKind::Busy),
        // Not yet, or not any more: nothing of this connection's was begun.
        "57P03" => Some(OutageKind::Unreachable),
        "57P01" | "57P02" | "57P05" | "25P03" | "25P04" => Some(OutageKind::Cut),
        "XX001" | "XX002" => Some(OutageKind::Damaged),
        "58030" => Some(OutageKind::Disk),
        _ if code.starts_with("08") => Some(OutageKind::Cut),
        _ if code.starts_with("53") => Some(OutageKind::Exhausted),
        _ => None,
    }
}

/// The store failed, unless a unique name was taken.
pub(crate) fn taken(what: &'static str, name: impl ToString) -> impl FnOnce(Failed) -> StoreError {
    move |failed| match failed.is_duplicate() {
        true => StoreError::exists(what, name),
        false => failed.into(),
    }
}
