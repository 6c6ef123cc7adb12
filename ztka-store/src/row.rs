//! Columns to types and back; what was stored is checked again when it is read.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, sqlite::SqliteRow};
use ztka_core::OrgId;
use ztka_identity::StoreError;

use crate::database::failed;

/// What a column holds is not what was put there.
#[derive(Debug, thiserror::Error)]
#[error("the column {column} of the database holds something that this program has not written")]
pub(crate) struct Corrupt {
    column: &'static str,
}

pub(crate) fn corrupt(column: &'static str) -> StoreError {
    StoreError::unavailable(Corrupt { column })
}

/// The text of a column, parsed.
pub(crate) fn text<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: &str = row.try_get(column).map_err(failed)?;
    text.parse().map_err(|_| corrupt(column))
}

/// The JSON of a column, read.
pub(crate) fn json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: &str = row.try_get(column).map_err(failed)?;
    serde_json::from_str(text).map_err(|_| corrupt(column))
}

/// JSON for a column.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::unavailable)
}

/// The time in a column.
pub(crate) fn time(row: &SqliteRow, column: &'static str) -> Result<Timestamp, StoreError> {
    let micros: i64 = row.try_get(column).map_err(failed)?;
    Timestamp::from_microsecond(micros).map_err(|_| corrupt(column))
}

/// The time in a column that may be empty.
pub(crate) fn some_time(row: &SqliteRow, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
    let micros: Option<i64> = row.try_get(column).map_err(failed)?;
    micros.map(Timestamp::from_microsecond).transpose().map_err(|_| corrupt(column))
}

/// The number in a column, which is never negative.
pub(crate) fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column).map_err(failed)?;
    u64::try_from(number).map_err(|_| corrupt(column))
}

/// A time for a column.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A number for a column; numbers of ours stay far below the limit.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An organisation for a column, where none is the installation.
pub(crate) fn org_or_empty(org: Option<&OrgId>) -> &str {
    org.map_or("", OrgId::as_str)
}
