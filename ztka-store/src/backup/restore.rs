//! Filling a database from a backup.

use std::path::Path;

use jiff::Timestamp;
use tokio::{fs::File, io::BufReader};

use super::{
    BackupError, BackupKey, Contents, check, connect, head, history,
    record::{Reader, Record, Table},
    rows, schema, schema_of,
};
use crate::{
    Failed, Location, SCHEMA_VERSION, migrate, postgres,
    row::number,
    sql::{Pool, Statement, Tx, Value, sql},
};

/// Rows of one statement at most; of the widest table these are some 1,500 parameters.
const ROWS: usize = 64;
/// And bytes: documents are large.
const BYTES: usize = 1 << 20;

/// How a backup is restored.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the database holds is replaced.
    pub force: bool,
    /// Now.
    pub now: Timestamp,
}

/// What a restore has done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replaced {
    /// What the backup held, and the database holds now.
    pub contents: Contents,
    /// The epoch of the history that begins now.
    pub epoch: u64,
}

/// Fills the database from the backup in `file`, and begins a new history.
///
/// The backup is read to its end first. Then everything happens in one transaction: after an error, or `kill -9`, the
/// database is as it was (an empty one may have its tables). A backup of an earlier version goes into an empty database,
/// which is then brought up to date.
///
/// # Errors
/// [`BackupError`]
pub async fn restore(location: &Location, key: &BackupKey, file: &Path, plan: Plan) -> Result<Replaced, BackupError> {
    let open = async || File::open(file).await.map(BufReader::new).map_err(BackupError::Read);
    let checked = check(open().await?, key).await?;
    let failed = |error: migrate::MigrateError| BackupError::Database(error.into());
    let pool = connect(location, true).await?;
    if let Pool::Postgres(_) = pool {
        let unsuitable = |source| crate::OpenError::Unsuitable { location: location.clone(), source };
        postgres::check(&pool).await.map_err(unsuitable)?;
    }
    let found = schema_of(&mut super::alone(&pool).await?, location).await?;
    if found == 0 {
        migrate::run(&pool, checked.schema).await.map_err(failed)?;
    } else if found != checked.schema {
        let found = found.unsigned_abs();
        return Err(BackupError::OtherSchema { found, backup: checked.schema });
    }
    let mut tx = pool.write().await?;
    need_alone(&mut tx).await?;
    let tables = schema::tables(checked.schema).await?;
    if !plan.force && !is_empty(&mut tx).await? {
        return Err(BackupError::NotEmpty);
    }
    let before = number(&tx.fetch_one(sql("SELECT value FROM meta WHERE key = 'epoch'")).await?, "value")?;
    for table in tables.iter().rev() {
        tx.execute(Statement::made(format!("DELETE FROM \"{}\"", table.name), Vec::new())).await?;
    }
    let mut reader = Reader::begin(open().await?, key).await?;
    head(&mut reader).await?;
    for table in &tables {
        fill(&mut tx, table, &mut reader).await?;
    }
    // It may have been replaced since it was read.
    if !matches!(reader.next().await?, Record::End(total) if total == checked.total()) {
        return Err(BackupError::Damaged("it was changed while it was read".into()));
    }
    reader.end().await?;
    for table in &tables {
        let count = Statement::made(format!("SELECT count(*) AS rows FROM \"{}\"", table.name), Vec::new());
        if checked.rows.get(&table.name) != Some(&number(&tx.fetch_one(count).await?, "rows")?) {
            return Err(BackupError::Damaged(format!("the table {} does not have its rows", table.name)));
        }
    }
    go_on_counting(&mut tx, &tables).await?;
    let epoch = history::begin(&mut tx, &tables, before, plan.now).await?;
    tx.commit().await?;
    migrate::run(&pool, SCHEMA_VERSION).await.map_err(failed)?;
    pool.close().await;
    Ok(Replaced { contents: checked, epoch })
}

/// No installation is here.
async fn is_empty(tx: &mut Tx) -> Result<bool, Failed> {
    let text = "SELECT (SELECT count(*) FROM orgs) + (SELECT count(*) FROM authorities) \
                + (SELECT count(*) FROM private_keys) + (SELECT count(*) FROM events) AS rows";
    Ok(number(&tx.fetch_one(sql(text)).await?, "rows")? == 0)
}

/// No controller has the database open. Of an SQLite file this is known from having opened it alone.
pub(super) async fn need_alone(tx: &mut Tx) -> Result<(), BackupError> {
    if let Tx::Postgres(_) = tx {
        let text = "SELECT count(*) AS there FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name = $1";
        let query = Statement::made(text.into(), vec![Value::from(postgres::CONTROLLER)]);
        if number(&tx.fetch_one(query).await?, "there")? > 0 {
            return Err(BackupError::InUse);
        }
    }
    Ok(())
}

/// The rows of one table.
async fn fill<R>(tx: &mut Tx, table: &Table, reader: &mut Reader<R>) -> Result<(), BackupError>
where
    R: tokio::io::AsyncRead + Unpin,
{
    if !matches!(reader.next().await?, Record::Table(next) if next == *table) {
        return Err(BackupError::Damaged("its tables are not those of its schema".into()));
    }
    // PostgreSQL would give out numbers of its own.
    let overriding = if matches!(tx, Tx::Postgres(_)) { "OVERRIDING SYSTEM VALUE " } else { "" };
    let mut some: Vec<Value> = Vec::new();
    let (mut waiting, mut bytes) = (0, 0);
    rows(reader, async |values| {
        bytes += values.iter().map(size).sum::<usize>();
        some.extend(values);
        waiting += 1;
        if waiting == ROWS || bytes >= BYTES {
            let statement = insertion(table, overriding, waiting, std::mem::take(&mut some));
            tx.execute(statement).await?;
            (waiting, bytes) = (0, 0);
        }
        Ok(())
    })
    .await?;
    if waiting > 0 {
        tx.execute(insertion(table, overriding, waiting, some)).await?;
    }
    Ok(())
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(Some(text)) => text.len(),
        Value::Bytes(Some(bytes)) => bytes.len(),
        Value::Text(None) | Value::Bytes(None) | Value::Number(_) => 8,
    }
}

fn insertion(table: &Table, overriding: &str, rows: usize, values: Vec<Value>) -> Statement {
    let width = table.columns.len();
    let row = |row: usize| {
        let places: Vec<_> = (1..=width).map(|column| format!("${}", row * width + column)).collect();
        format!("({})", places.join(", "))
    };
    let groups: Vec<_> = (0..rows).map(row).collect();
    let (name, names, groups) = (&table.name, table.names(), groups.join(", "));
    Statement::made(format!("INSERT INTO \"{name}\" ({names}) {overriding}VALUES {groups}"), values)
}

/// Numbers that PostgreSQL gives out itself go on behind the largest. SQLite sees to that by itself.
async fn go_on_counting(tx: &mut Tx, tables: &[Table]) -> Result<(), Failed> {
    if let Tx::Sqlite(_) = tx {
        return Ok(());
    }
    let identities = "SELECT table_name::text AS \"table\", column_name::text AS \"column\" FROM information_schema.columns \
                      WHERE table_schema = current_schema() AND is_identity = 'YES'";
    for row in tx.fetch_all(Statement::made(identities.into(), Vec::new())).await? {
        let (table, column) = (row.str("table")?.to_owned(), row.str("column")?.to_owned());
        if tables.iter().any(|known| known.name == table) {
            let text = format!(
                "SELECT setval(pg_get_serial_sequence('\"{table}\"', '{column}'), \
                 coalesce((SELECT max(\"{column}\") FROM \"{table}\"), 0) + 1, false) AS next"
            );
            tx.fetch_one(Statement::made(text, Vec::new())).await?;
        }
    }
    Ok(())
}
