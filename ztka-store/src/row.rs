//! Columns to types and back; what was stored is checked again when it is read.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use ztka_core::OrgId;

use crate::{Failed, sql::Row};

/// The text of a column, parsed.
pub(crate) fn text<T: FromStr>(row: &Row, column: &'static str) -> Result<T, Failed> {
    row.str(column)?.parse().map_err(|_| Failed::Corrupt(column))
}

/// The JSON of a column, read.
pub(crate) fn json<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, Failed> {
    serde_json::from_str(row.str(column)?).map_err(|_| Failed::Corrupt(column))
}

/// JSON for a column.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Failed> {
    serde_json::to_string(value).map_err(Failed::Json)
}

/// The time in a column.
pub(crate) fn time(row: &Row, column: &'static str) -> Result<Timestamp, Failed> {
    Timestamp::from_microsecond(row.number(column)?).map_err(|_| Failed::Corrupt(column))
}

/// The time in a column that may be empty.
pub(crate) fn some_time(row: &Row, column: &'static str) -> Result<Option<Timestamp>, Failed> {
    let micros = row.some_number(column)?;
    micros.map(Timestamp::from_microsecond).transpose().map_err(|_| Failed::Corrupt(column))
}

/// The number in a column, which is never negative.
pub(crate) fn number(row: &Row, column: &'static str) -> Result<u64, Failed> {
    u64::try_from(row.number(column)?).map_err(|_| Failed::Corrupt(column))
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

/// A text to search by. PostgreSQL's texts cannot have NUL, which a request may have in it; the payload keeps it.
pub(crate) fn searchable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
