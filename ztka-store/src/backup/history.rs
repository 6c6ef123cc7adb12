//! A new history: what was given out before is not given out a second time.

use jiff::Timestamp;

use super::{BackupError, connect, record::Table, schema, schema_of};
use crate::{
    Failed, Location,
    row::number,
    sql::{Kind, Statement, Tx, Value, sql},
};

/// An epoch has room for so many documents and events.
const NUMBERS: u32 = 20;

/// Begins a new history in a database that was put back by other means than [`restore`](super::restore): a snapshot of its
/// disk, a recovery to a point in time, a standby that had not everything. Returns the new epoch.
///
/// # Errors
/// [`BackupError`]; nothing has changed then.
pub async fn new_history(location: &Location, now: Timestamp) -> Result<u64, BackupError> {
    if let Location::Sqlite(path) = location
        && !path.exists()
    {
        return Err(BackupError::NoDatabase(location.clone()));
    }
    let pool = connect(location, true).await?;
    let mut tx = super::alone(&pool).await?;
    let schema = schema_of(&mut tx, location).await?;
    if schema == 0 {
        return Err(BackupError::NoDatabase(location.clone()));
    }
    super::restore::need_alone(&mut tx).await?;
    let epoch = begin(&mut tx, &schema::tables(schema).await?, 0, now).await?;
    tx.commit().await?;
    pool.close().await;
    Ok(epoch)
}

/// Raises the epoch above `least`, above the one that is there, and above any that a restore of the same backup has begun
/// before: by the clock, since the database may not know of it.
pub(super) async fn begin(tx: &mut Tx, tables: &[Table], least: u64, now: Timestamp) -> Result<u64, Failed> {
    let found = number(&tx.fetch_one(sql("SELECT value FROM meta WHERE key = 'epoch'")).await?, "value")?;
    let clock = u64::try_from(now.as_second()).unwrap_or_default();
    let epoch = (found.max(least) + 1).max(clock);
    // Who has seen the feed, or the events, up to some place asks for what is behind it: that has to be everything new.
    let place = epoch << NUMBERS;
    let meta = "UPDATE meta SET value = CASE WHEN value < $1 THEN $1 ELSE value END WHERE key IN ('feed', 'events')";
    tx.execute(sql(meta).bind(crate::row::signed(place))).await?;
    let raise = sql("UPDATE meta SET value = $1 WHERE key = 'epoch'");
    tx.execute(raise.bind(crate::row::signed(epoch))).await?;
    // For the record, which a controller writes when it starts.
    let note =
        "INSERT INTO meta (key, value) VALUES ('restored', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    tx.execute(sql(note).bind(crate::row::signed(epoch))).await?;
    // What was signed says the epoch before: everything is signed anew.
    for table in tables.iter().filter(|table| table.name == "series") {
        let bytes = table.columns.iter().filter(|(_, kind)| *kind == Kind::Bytes);
        let wire: String = bytes.map(|(name, _)| format!(", \"{name}\" = NULL")).collect();
        tx.execute(Statement::made(format!("UPDATE series SET signed = 0, issued = 0, feed = 0{wire}"), Vec::new()))
            .await?;
    }
    // Whoever had taken a job is not there any more.
    let has = |column: &str| {
        let jobs = tables.iter().filter(|table| table.name == "jobs");
        jobs.flat_map(|table| &table.columns).any(|(name, _)| name == column)
    };
    if has("holder") && has("lease") {
        tx.execute(Statement::made("UPDATE jobs SET holder = NULL, lease = 0".into(), Vec::new())).await?;
    }
    if tables.iter().any(|table| table.name == "crls") {
        raise_crls(tx, place).await?;
    }
    Ok(epoch)
}

/// The numbers of CRLs only grow, RFC 5280, section 5.2.3.
async fn raise_crls(tx: &mut Tx, place: u64) -> Result<(), Failed> {
    let text = "UPDATE crls SET number = CASE WHEN number < $1 THEN $1 ELSE number END";
    let place = Value::from(crate::row::signed(place));
    tx.execute(Statement::made(text.into(), vec![place])).await.map(drop)
}
