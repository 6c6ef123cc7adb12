//! Which tables a schema has, in an order in which they can be filled.
//!
//! It is read off an empty SQLite database in memory that is brought to that schema, so nobody has to keep a list. Table
//! and column names are the same on PostgreSQL, which a test holds.

use std::collections::BTreeMap;

use super::{BackupError, record::Table};
use crate::{
    Failed, migrate,
    sql::{Kind, Statement, Tx},
    sqlite,
};

/// The tables of schema `version`; those that others refer to come first.
pub(super) async fn tables(version: i64) -> Result<Vec<Table>, BackupError> {
    let pool = sqlite::in_memory().await.map_err(Failed::from)?;
    migrate::run(&pool, version).await.map_err(|error| BackupError::Database(error.into()))?;
    let mut tx = pool.read().await?;
    let columns = "SELECT m.name AS \"table\", p.name AS \"column\", p.type AS type FROM sqlite_schema m \
                   JOIN pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let mut all: BTreeMap<String, Table> = BTreeMap::new();
    for row in tx.fetch_all(Statement::made(columns.into(), Vec::new())).await? {
        let kind = match row.str("type")? {
            "TEXT" => Kind::Text,
            "INTEGER" => Kind::Number,
            "BLOB" => Kind::Bytes,
            _ => return Err(Failed::Corrupt("type").into()),
        };
        let name = row.str("table")?.to_owned();
        let table = all.entry(name.clone()).or_insert_with(|| Table { name, columns: Vec::new() });
        table.columns.push((row.str("column")?.to_owned(), kind));
    }
    all.values_mut().for_each(|table| table.columns.sort_by(|one, two| one.0.cmp(&two.0)));
    let references = references(&mut tx).await?;
    drop(tx);
    pool.close().await;
    let mut ordered = Vec::new();
    while !all.is_empty() {
        let is_free =
            |name: &String| !references.iter().any(|(from, to)| from == name && to != name && all.contains_key(to));
        let free: Vec<String> = all.keys().filter(|name| is_free(name)).cloned().collect();
        if free.is_empty() {
            return Err(BackupError::Database("the tables refer to each other in a circle".into()));
        }
        ordered.extend(free.iter().filter_map(|name| all.remove(name)));
    }
    Ok(ordered)
}

/// Which table has a foreign key of which.
async fn references(tx: &mut Tx) -> Result<Vec<(String, String)>, Failed> {
    let text = "SELECT m.name AS \"from\", f.\"table\" AS \"to\" FROM sqlite_schema m \
                JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'";
    let rows = tx.fetch_all(Statement::made(text.into(), Vec::new())).await?;
    rows.iter().map(|row| Ok((row.str("from")?.to_owned(), row.str("to")?.to_owned()))).collect()
}
