//! A statement, its values, its rows and its transaction, on either database.
//!
//! Both databases understand almost all of the SQL here: `$1` is a parameter to both, so are `ON CONFLICT` and
//! `RETURNING`. What is bound and read has one of three types, each with a column type of its own on either side: text
//! (`TEXT`), number (`INTEGER`, `BIGINT`) and bytes (`BLOB`, `BYTEA`). Nothing is converted on the way.

use std::{borrow::Cow, io, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use serde::{Deserialize, Serialize};
use sqlx::{
    AssertSqlSafe, Postgres, Row as _, Sqlite, Transaction,
    postgres::{PgArguments, PgRow},
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use tokio::time::timeout;
use ztka_identity::{Outage, OutageKind};

use crate::Failed;

/// What a column holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(Option<String>),
    Number(Option<i64>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($from:ty => $value:ident => $make:expr;)+) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $make
            }
        })+
    };
}

values! {
    &str => text => Self::Text(Some(text.to_owned()));
    String => text => Self::Text(Some(text));
    &String => text => Self::Text(Some(text.clone()));
    Option<&str> => text => Self::Text(text.map(str::to_owned));
    Option<String> => text => Self::Text(text);
    i64 => number => Self::Number(Some(number));
    Option<i64> => number => Self::Number(number);
    bool => flag => Self::Number(Some(flag.into()));
    &[u8] => bytes => Self::Bytes(Some(bytes.to_vec()));
    Vec<u8> => bytes => Self::Bytes(Some(bytes));
    Option<Vec<u8>> => bytes => Self::Bytes(bytes);
}

/// A statement with its values.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
    /// It may take as long as it takes.
    patient: bool,
}

/// A server that has said nothing for so long says nothing any more: it was stopped, or packets get lost. Longer than
/// anything waits for a lock there.
const ANSWER: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(30) };

/// What a server answers, unless it does not.
async fn answered<T>(patient: bool, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    if patient {
        return answer.await;
    }
    let silent = |_| sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the server has said nothing for 30 s"));
    timeout(ANSWER, answer).await.map_err(silent)?
}

/// A statement in the SQL that both databases speak. A test prepares every text that is given to this function.
pub(crate) fn sql(text: &'static str) -> Statement {
    Statement { text: Cow::Borrowed(text), values: Vec::new(), patient: false }
}

impl Statement {
    /// A statement that is made here and now, of names that are in the schema; over whole tables, so it may take long.
    pub(crate) fn made(text: String, values: Vec<Value>) -> Self {
        Self { text: Cow::Owned(text), values, patient: true }
    }

    /// The next parameter.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Goes on with this text, and a parameter if there is one.
    pub(crate) fn and(mut self, text: &'static str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.values.push(value.into());
            let place = self.values.len();
            self.text.to_mut().push_str(&format!("{text}${place}"));
        }
        self
    }

    /// Goes on with this text, and that one of these values has to be there.
    pub(crate) fn among(mut self, text: &'static str, values: Vec<impl Into<Value>>) -> Self {
        let places = values.into_iter().map(|value| {
            self.values.push(value.into());
            format!("${}", self.values.len())
        });
        let places = places.collect::<Vec<_>>().join(", ");
        self.text.to_mut().push_str(&format!("{text}({places})"));
        self
    }

    fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        self.values.into_iter().fold(sqlx::query(AssertSqlSafe(self.text)), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
            Value::Bytes(bytes) => query.bind(bytes),
        })
    }

    fn postgres(self) -> Query<'static, Postgres, PgArguments> {
        self.values.into_iter().fold(sqlx::query(AssertSqlSafe(self.text)), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
            Value::Bytes(bytes) => query.bind(bytes),
        })
    }
}

/// A row of an answer.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! columns {
    ($($(#[$doc:meta])+ $name:ident -> $type:ty;)+) => {
        impl Row {
            $($(#[$doc])+
            pub(crate) fn $name(&self, column: &'static str) -> Result<$type, Failed> {
                Ok(match self {
                    Self::Sqlite(row) => row.try_get(column)?,
                    Self::Postgres(row) => row.try_get(column)?,
                })
            })+
        }
    };
}

columns! {
    /// A text.
    str -> &str;
    /// A text that may be missing.
    some_str -> Option<&str>;
    /// A number.
    number -> i64;
    /// A number that may be missing.
    some_number -> Option<i64>;
    /// Bytes.
    bytes -> &[u8];
    /// Bytes that may be missing.
    some_bytes -> Option<&[u8]>;
}

/// The type of a column.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Text,
    Number,
    Bytes,
}

impl Row {
    /// The value of the column at `place`, which is of this type.
    pub(crate) fn value(&self, place: usize, kind: Kind) -> Result<Value, Failed> {
        macro_rules! read {
            ($row:ident) => {
                match kind {
                    Kind::Text => Value::Text($row.try_get(place)?),
                    Kind::Number => Value::Number($row.try_get(place)?),
                    Kind::Bytes => Value::Bytes($row.try_get(place)?),
                }
            };
        }
        Ok(match self {
            Self::Sqlite(row) => read!(row),
            Self::Postgres(row) => read!(row),
        })
    }
}

/// Most rows of one statement; 64 of 13 columns are far from either database's limit of parameters.
const MOST_ROWS: usize = 64;

/// How many rows of those left go into the next statement. Few sizes, so that few statements are prepared.
fn rows_at_once(left: usize) -> usize {
    let power = 1 << left.max(1).ilog2();
    power.min(MOST_ROWS)
}

/// `text`, the insertion of one row, as that of all these.
fn insertion<const N: usize>(text: &'static str, rows: Vec<[Value; N]>) -> Statement {
    let split = text.split_once("VALUES (").and_then(|(head, rest)| Some((head, rest.split_once(')')?.1)));
    let Some((head, tail)) = split else { return sql(text) };
    let mut place = 0;
    let groups = rows.iter().map(|row| {
        let places = row.iter().map(|_| {
            place += 1;
            format!("${place}")
        });
        format!("({})", places.collect::<Vec<_>>().join(", "))
    });
    let text = format!("{head}VALUES {}{tail}", groups.collect::<Vec<_>>().join(", "));
    Statement { text: text.into(), values: rows.into_iter().flatten().collect(), patient: false }
}

/// Where statements are carried out: a transaction, which is undone unless it is committed.
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    /// Carries a statement out; tells how many rows it changed.
    pub(crate) async fn execute(&mut self, statement: Statement) -> Result<u64, Failed> {
        Ok(match self {
            Self::Sqlite(tx) => statement.sqlite().execute(&mut **tx).await?.rows_affected(),
            Self::Postgres(tx) => {
                answered(statement.patient, statement.postgres().execute(&mut **tx)).await?.rows_affected()
            }
        })
    }

    /// Carries out `text`, the insertion of one row, for many: each goes to the database and back with others. Tells how
    /// many rows were inserted.
    pub(crate) async fn insert_all<const N: usize>(
        &mut self,
        text: &'static str,
        mut rows: std::vec::IntoIter<[Value; N]>,
    ) -> Result<u64, Failed> {
        let mut inserted = 0;
        while rows.len() > 0 {
            let count = rows_at_once(rows.len());
            let next = rows.by_ref().take(count).collect();
            inserted += self.execute(insertion(text, next)).await?;
        }
        Ok(inserted)
    }

    /// [`Self::insert_all`] of a statement that returns something of each row that it has inserted.
    pub(crate) async fn insert_all_returning<const N: usize>(
        &mut self,
        text: &'static str,
        mut rows: std::vec::IntoIter<[Value; N]>,
    ) -> Result<Vec<Row>, Failed> {
        let mut inserted = Vec::with_capacity(rows.len());
        while rows.len() > 0 {
            let count = rows_at_once(rows.len());
            let next = rows.by_ref().take(count).collect();
            inserted.extend(self.fetch_all(insertion(text, next)).await?);
        }
        Ok(inserted)
    }

    pub(crate) async fn fetch_optional(&mut self, statement: Statement) -> Result<Option<Row>, Failed> {
        Ok(match self {
            Self::Sqlite(tx) => statement.sqlite().fetch_optional(&mut **tx).await?.map(Row::Sqlite),
            Self::Postgres(tx) => {
                let row = answered(statement.patient, statement.postgres().fetch_optional(&mut **tx));
                row.await?.map(Row::Postgres)
            }
        })
    }

    pub(crate) async fn fetch_one(&mut self, statement: Statement) -> Result<Row, Failed> {
        self.fetch_optional(statement).await?.ok_or(Failed::Sql(sqlx::Error::RowNotFound))
    }

    pub(crate) async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<Row>, Failed> {
        Ok(match self {
            Self::Sqlite(tx) => {
                let rows = statement.sqlite().fetch_all(&mut **tx).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(tx) => {
                let rows = answered(statement.patient, statement.postgres().fetch_all(&mut **tx)).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Takes the rows of a query one after the other, as they come: never all of them at once.
    pub(crate) async fn each(
        &mut self,
        statement: Statement,
        mut take: impl FnMut(Row) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        match self {
            Self::Sqlite(tx) => {
                let mut rows = statement.sqlite().fetch(&mut **tx);
                while let Some(row) = rows.try_next().await? {
                    take(Row::Sqlite(row))?;
                }
            }
            Self::Postgres(tx) => {
                let patient = statement.patient;
                let mut rows = statement.postgres().fetch(&mut **tx);
                while let Some(row) = answered(patient, rows.try_next()).await? {
                    take(Row::Postgres(row))?;
                }
            }
        }
        Ok(())
    }

    /// The rows of a query one after the other, as they come: never all of them at once.
    pub(crate) fn rows(&mut self, text: String) -> BoxStream<'_, Result<Row, Failed>> {
        match self {
            Self::Sqlite(tx) => {
                let rows = sqlx::query(AssertSqlSafe(text)).fetch(&mut **tx);
                rows.map_ok(Row::Sqlite).map_err(Failed::from).boxed()
            }
            Self::Postgres(tx) => {
                let rows = sqlx::query(AssertSqlSafe(text)).fetch(&mut **tx);
                rows.map_ok(Row::Postgres).map_err(Failed::from).boxed()
            }
        }
    }

    /// Several statements without parameters, for migrations.
    pub(crate) async fn raw(&mut self, text: impl Into<Cow<'static, str>>) -> Result<(), Failed> {
        let text = sqlx::raw_sql(AssertSqlSafe(text.into()));
        match self {
            Self::Sqlite(tx) => text.execute(&mut **tx).await.map(drop)?,
            Self::Postgres(tx) => text.execute(&mut **tx).await.map(drop)?,
        }
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<(), Failed> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => answered(false, tx.commit()).await?,
        }
        Ok(())
    }
}

/// Connections to one of the two.
#[derive(Clone)]
pub(crate) enum Pool {
    Sqlite(sqlx::SqlitePool),
    Postgres(sqlx::PgPool),
}

impl Pool {
    /// A transaction that writes. On SQLite it has the one write lock from its beginning.
    pub(crate) async fn write(&self) -> Result<Tx, Failed> {
        Ok(match self {
            Self::Sqlite(pool) => Tx::Sqlite(self.tried(pool.begin_with("BEGIN IMMEDIATE").await)?),
            Self::Postgres(pool) => Tx::Postgres(self.tried(answered(false, pool.begin()).await)?),
        })
    }

    /// A transaction that reads everything as it is at one moment.
    pub(crate) async fn read(&self) -> Result<Tx, Failed> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(match self {
            Self::Sqlite(pool) => Tx::Sqlite(self.tried(pool.begin().await)?),
            Self::Postgres(pool) => Tx::Postgres(self.tried(answered(false, pool.begin_with(BEGIN)).await)?),
        })
    }

    pub(crate) async fn fetch_optional(&self, statement: Statement) -> Result<Option<Row>, Failed> {
        Ok(match self {
            Self::Sqlite(pool) => self.tried(statement.sqlite().fetch_optional(pool).await)?.map(Row::Sqlite),
            Self::Postgres(pool) => {
                let row = answered(statement.patient, statement.postgres().fetch_optional(pool)).await;
                self.tried(row)?.map(Row::Postgres)
            }
        })
    }

    pub(crate) async fn fetch_one(&self, statement: Statement) -> Result<Row, Failed> {
        self.fetch_optional(statement).await?.ok_or(Failed::Sql(sqlx::Error::RowNotFound))
    }

    pub(crate) async fn fetch_all(&self, statement: Statement) -> Result<Vec<Row>, Failed> {
        Ok(match self {
            Self::Sqlite(pool) => {
                let rows = self.tried(statement.sqlite().fetch_all(pool).await)?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(pool) => {
                let rows = answered(statement.patient, statement.postgres().fetch_all(pool)).await;
                let rows = self.tried(rows)?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// An outcome, with the reason why there was no connection.
    fn tried<T>(&self, outcome: Result<T, sqlx::Error>) -> Result<T, Failed> {
        outcome.map_err(|error| match error {
            // A server that does not answer has no connections; one that has too much to do has all of them.
            sqlx::Error::PoolTimedOut => Outage::new(self.why_none(), error).into(),
            error => error.into(),
        })
    }

    fn why_none(&self) -> OutageKind {
        match self {
            Self::Sqlite(_) => OutageKind::Busy,
            Self::Postgres(pool) if pool.size() < pool.options().get_max_connections() => OutageKind::Unreachable,
            Self::Postgres(_) => OutageKind::Exhausted,
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_are_one_statement() {
        let rows = vec![[Value::from(1), Value::from("a")], [Value::from(2), Value::from("b")]];
        // In small letters, so that nobody prepares it.
        let statement = insertion("insert into t (n, s) VALUES ($1, $2) on conflict do nothing", rows);
        assert_eq!(statement.text, "insert into t (n, s) VALUES ($1, $2), ($3, $4) on conflict do nothing");
        assert_eq!(statement.values.len(), 4);
    }

    #[test]
    fn any_number_of_rows_is_a_few_sizes() {
        let sizes = |mut left| {
            let mut sizes = Vec::new();
            while left > 0 {
                sizes.push(rows_at_once(left));
                left -= rows_at_once(left);
            }
            sizes
        };
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(207), [64, 64, 64, 8, 4, 2, 1]);
    }
}
