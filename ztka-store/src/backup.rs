//! Backups: everything that a database holds at one moment, encrypted, in one form for both databases.
//!
//! [`back_up`] reads in one transaction that sees one moment, while controllers go on writing, and writes a stream; neither
//! holds more than a row and a chunk in memory. [`restore`] reads the whole file once to see that all of it is there, then
//! fills a database in one transaction, which also begins a new history: the epoch is raised, so that proxies and agents
//! believe what comes now although they have seen newer versions. `docs/backup.md` is the operator's page.
//!
//! What is encrypted in the database is so in the backup; the master key is in neither.
mod fits;
mod history;
mod key;
mod record;
mod restore;
mod schema;
mod stream;

use std::{collections::BTreeMap, io, time::Duration};

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use ztka_core::BoxError;
use ztka_identity::OutageKind;

use self::record::{Head, Reader, Record, Table, Writer};
pub use self::{
    fits::fits,
    history::new_history,
    key::BackupKey,
    restore::{Plan, Replaced, restore},
};
use crate::{
    Failed, Location, OpenError, Patience, SCHEMA_VERSION, migrate, postgres,
    row::number,
    sql::{Pool, Tx, sql},
    sqlite,
};

/// The form of the records that this version writes.
const FORM: u32 = 1;

/// What a backup holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contents {
    /// Version of the schema that it has.
    pub schema: i64,
    /// The epoch of the history that was backed up.
    pub epoch: u64,
    /// When it was made.
    pub created: Timestamp,
    /// Version of the program that has made it.
    pub program: String,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
}

impl Contents {
    /// Rows of all tables.
    pub fn total(&self) -> u64 {
        self.rows.values().sum()
    }
}

/// Why there is no backup, or why it cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The key cannot be used, or is another one.
    #[error("{0}")]
    Key(String),
    /// The file is something else.
    #[error("this is not a backup of ztka, or not the beginning of one")]
    NotOne,
    /// It ends before its end.
    #[error("the backup is not whole: it ends early, or its end was changed; take another one")]
    Truncated,
    /// It was changed since.
    #[error("the backup is damaged: {0}; take another one")]
    Damaged(String),
    /// A newer program has made it.
    #[error("the backup was made by a newer version ({program}, schema {schema}); restore it with that")]
    #[expect(missing_docs, reason = "the message says it")]
    Newer { program: String, schema: i64 },
    /// What is encrypted in it is under another master key.
    #[error(
        "the backup is encrypted under the master key {needed}, and what is given is {given}; give the master key of that \
         time, without which nothing that is encrypted could be read again"
    )]
    #[expect(missing_docs, reason = "the message says it")]
    OtherMaster { needed: String, given: String },
    /// There is something already.
    #[error(
        "the database holds an installation already, and was left as it is; restore into an empty one, or say --force to replace what is there"
    )]
    NotEmpty,
    /// What is there has another schema.
    #[error(
        "the database has schema {found}, the backup {backup}; restore into an empty database, which is brought up to date then"
    )]
    #[expect(missing_docs, reason = "the message says it")]
    OtherSchema { found: u64, backup: i64 },
    /// A controller is at work.
    #[error("a controller has the database open; stop every controller first, or it would write over what is restored")]
    InUse,
    /// There is no such database.
    #[error("there is no database {0}; name the controller's data_dir or database")]
    NoDatabase(Location),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not do as it is told. Nothing has changed.
    #[error("the database does not do as asked")]
    Database(#[source] BoxError),
    /// The backup cannot be written.
    #[error("the backup cannot be written; check the disk")]
    Write(#[source] io::Error),
    /// The backup cannot be read.
    #[error("the backup cannot be read")]
    Read(#[source] io::Error),
}

impl From<Failed> for BackupError {
    fn from(failed: Failed) -> Self {
        Self::Database(failed.into())
    }
}

/// Connections to a database that stays at the schema that it has. None is made.
async fn connect(location: &Location, alone: bool) -> Result<Pool, BackupError> {
    let failed = |source| OpenError::open(location, source);
    let mut patience = Patience::default();
    if alone {
        // Nobody is there, or somebody stays.
        patience.lock = Duration::from_secs(2);
    }
    Ok(match location {
        Location::Sqlite(path) => {
            let opening = sqlite::Opening::of(path, patience).map_err(failed)?;
            let opening = if alone { opening.alone() } else { opening };
            let opened = if alone { opening.writers().await } else { opening.readers().await };
            opened.map_err(|error| match crate::error::outage(&error) {
                // Its lock does not come, or not before the time for a connection is over.
                Some(OutageKind::Busy | OutageKind::Exhausted) => BackupError::InUse,
                _ => failed(error).into(),
            })?
        }
        Location::Postgres(url) => {
            let opening = postgres::Opening::of(url, patience).map_err(failed)?.named("ztka-backup");
            if alone { opening.writers().await.map_err(failed)? } else { opening.readers().await.map_err(failed)? }
        }
    })
}

/// A transaction of the only one who has the database open.
async fn alone(pool: &Pool) -> Result<Tx, BackupError> {
    pool.write().await.map_err(|failed| match (pool, &failed) {
        (Pool::Sqlite(_), Failed::Outage(outage)) if outage.kind() == OutageKind::Busy => BackupError::InUse,
        _ => failed.into(),
    })
}

/// The schema that is there, which is not newer than those known here.
async fn schema_of(tx: &mut Tx, location: &Location) -> Result<i64, BackupError> {
    let found = migrate::version(tx).await?;
    match i64::try_from(found) {
        Ok(version) if version <= SCHEMA_VERSION => Ok(version),
        _ => {
            let source = migrate::MigrateError::Newer { found };
            Err(OpenError::Schema { location: location.clone(), source }.into())
        }
    }
}

/// Writes everything that the database holds now to `out`, encrypted. Controllers go on meanwhile.
///
/// Not cancellation-safe: what was written of it is no backup.
///
/// # Errors
/// [`BackupError`]
pub async fn back_up<W: AsyncWrite + Unpin>(
    location: &Location,
    key: &BackupKey,
    now: Timestamp,
    out: W,
) -> Result<(Contents, W), BackupError> {
    if let Location::Sqlite(path) = location
        && !path.exists()
    {
        return Err(BackupError::NoDatabase(location.clone()));
    }
    let pool = connect(location, false).await?;
    let mut tx = pool.read().await?;
    let schema = schema_of(&mut tx, location).await?;
    if schema == 0 {
        return Err(BackupError::NoDatabase(location.clone()));
    }
    let epoch = number(&tx.fetch_one(sql("SELECT value FROM meta WHERE key = 'epoch'")).await?, "value")?;
    let head = Head {
        form: FORM,
        schema,
        epoch: crate::row::signed(epoch),
        created: now.as_microsecond(),
        program: env!("CARGO_PKG_VERSION").into(),
    };
    let mut contents = contents(&head)?;
    let mut writer = Writer::begin(out, key).await?;
    writer.json(1, &head).await?;
    for table in schema::tables(schema).await? {
        let rows = copy(&mut tx, &table, &mut writer).await?;
        contents.rows.insert(table.name, rows);
    }
    drop(tx);
    pool.close().await;
    let out = writer.finish(contents.total()).await?;
    Ok((contents, out))
}

fn contents(head: &Head) -> Result<Contents, BackupError> {
    let senseless = || BackupError::Damaged("what it says of itself makes no sense".into());
    Ok(Contents {
        schema: head.schema,
        epoch: u64::try_from(head.epoch).map_err(|_| senseless())?,
        created: Timestamp::from_microsecond(head.created).map_err(|_| senseless())?,
        program: head.program.clone(),
        rows: BTreeMap::new(),
    })
}

async fn copy<W: AsyncWrite + Unpin>(tx: &mut Tx, table: &Table, writer: &mut Writer<W>) -> Result<u64, BackupError> {
    writer.json(2, table).await?;
    let mut rows = tx.rows(table.selection());
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        let value = |(place, (_, kind)): (usize, &(String, crate::sql::Kind))| Ok(row.value(place, *kind)?);
        writer.row(table.columns.iter().enumerate().map(value)).await?;
        count += 1;
    }
    writer.table_end(count).await?;
    Ok(count)
}

/// Reads a whole backup, and says what is in it: decrypted, in order, complete, with a checksum and counts that agree.
///
/// # Errors
/// [`BackupError`]
pub async fn check<R: AsyncRead + Unpin>(input: R, key: &BackupKey) -> Result<Contents, BackupError> {
    let mut reader = Reader::begin(input, key).await?;
    let mut contents = head(&mut reader).await?;
    let tables = schema::tables(contents.schema).await?;
    let mut expected = tables.iter();
    loop {
        match reader.next().await? {
            Record::Table(table) if Some(&table) == expected.next() => {
                let rows = rows(&mut reader, async |_| Ok(())).await?;
                contents.rows.insert(table.name, rows);
            }
            Record::End(total) if total == contents.total() && expected.next().is_none() => break,
            _ => return Err(BackupError::Damaged("its tables are not those of its schema".into())),
        }
    }
    reader.end().await?;
    Ok(contents)
}

/// The first record, of a backup that this version can read.
async fn head<R: AsyncRead + Unpin>(reader: &mut Reader<R>) -> Result<Contents, BackupError> {
    match reader.next().await? {
        Record::Head(head) if head.form > FORM || head.schema > SCHEMA_VERSION => {
            Err(BackupError::Newer { program: head.program, schema: head.schema })
        }
        Record::Head(head) => contents(&head),
        _ => Err(BackupError::Damaged("it does not begin with what it is of".into())),
    }
}

/// Gives each row of the table that has begun away; returns how many there were, which is how many there should be.
async fn rows<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    mut take: impl AsyncFnMut(Vec<crate::sql::Value>) -> Result<(), BackupError>,
) -> Result<u64, BackupError> {
    let mut count = 0;
    loop {
        match reader.next().await? {
            Record::Row(values) => {
                take(values).await?;
                count += 1;
            }
            Record::TableEnd(rows) if rows == count => return Ok(count),
            _ => return Err(BackupError::Damaged("a table has not as many rows as it says".into())),
        }
    }
}

#[cfg(test)]
mod tests;
