//! What is inside of a backup: records one behind the other, and at the end their number and their hash.
//!
//! A byte for what it is, then numbers of fixed size (little endian) and texts behind their length:
//!
//! | | |
//! |---|---|
//! | 1 | head: JSON, [`Head`] |
//! | 2 | a table begins: JSON, [`Table`] |
//! | 3 | a row of it: each value as 0 (none), or 1 (text), 2 (number), 3 (bytes) and itself |
//! | 4 | the table ends: how many rows it has |
//! | 5 | the end: how many rows there are, SHA-256 of everything before it |

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    BackupError,
    key::BackupKey,
    stream::{Opener, Sealer},
};
use crate::sql::{Kind, Value};

/// No value is longer: the longest, a signed document, is 16 MiB at most.
const LONGEST: u32 = 64 << 20;
const HASH: usize = 32;

/// What a backup is of.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Head {
    /// Version of the records; this is 1.
    pub(super) form: u32,
    /// Version of the schema.
    pub(super) schema: i64,
    /// The epoch of the history that was backed up.
    pub(super) epoch: i64,
    /// Microseconds since 1970.
    pub(super) created: i64,
    /// Version of the program that has written it.
    pub(super) program: String,
}

/// A table with its columns, in the order of the values of each row.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<(String, Kind)>,
}

impl Table {
    /// The names of its columns, one behind the other.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        names.join(", ")
    }

    /// The query of all of its rows.
    pub(super) fn selection(&self) -> String {
        format!("SELECT {} FROM \"{}\"", self.names(), self.name)
    }
}

/// One of them.
pub(super) enum Record {
    Head(Head),
    Table(Table),
    Row(Vec<Value>),
    TableEnd(u64),
    End(u64),
}

pub(super) struct Writer<W> {
    out: Sealer<W>,
    hash: Context,
    buffer: Vec<u8>,
}

fn length(bytes: &[u8]) -> Result<[u8; 4], BackupError> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= LONGEST);
    Ok(length.ok_or_else(|| BackupError::Database("a value is longer than any that is written".into()))?.to_le_bytes())
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) async fn begin(out: W, key: &BackupKey) -> Result<Self, BackupError> {
        Ok(Self { out: Sealer::begin(out, key).await?, hash: Context::new(&SHA256), buffer: Vec::new() })
    }

    pub(super) async fn json(&mut self, kind: u8, value: &impl Serialize) -> Result<(), BackupError> {
        let json = serde_json::to_vec(value).map_err(|error| BackupError::Database(error.into()))?;
        self.buffer.push(kind);
        self.buffer.extend(length(&json)?);
        self.buffer.extend(json);
        self.write().await
    }

    pub(super) async fn row(
        &mut self,
        values: impl Iterator<Item = Result<Value, BackupError>>,
    ) -> Result<(), BackupError> {
        self.buffer.push(3);
        for value in values {
            match value? {
                Value::Text(Some(text)) => self.some(1, text.as_bytes())?,
                Value::Bytes(Some(bytes)) => self.some(3, &bytes)?,
                Value::Number(Some(number)) => {
                    self.buffer.push(2);
                    self.buffer.extend(number.to_le_bytes());
                }
                Value::Text(None) | Value::Number(None) | Value::Bytes(None) => self.buffer.push(0),
            }
        }
        self.write().await
    }

    pub(super) async fn table_end(&mut self, rows: u64) -> Result<(), BackupError> {
        self.buffer.push(4);
        self.buffer.extend(rows.to_le_bytes());
        self.write().await
    }

    pub(super) async fn finish(mut self, rows: u64) -> Result<W, BackupError> {
        self.buffer.push(5);
        self.buffer.extend(rows.to_le_bytes());
        self.write().await?;
        self.out.write(self.hash.finish().as_ref()).await?;
        self.out.finish().await
    }

    fn some(&mut self, kind: u8, bytes: &[u8]) -> Result<(), BackupError> {
        self.buffer.push(kind);
        self.buffer.extend(length(bytes)?);
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    async fn write(&mut self) -> Result<(), BackupError> {
        self.hash.update(&self.buffer);
        self.out.write(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }
}

pub(super) struct Reader<R> {
    input: Opener<R>,
    hash: Context,
    /// Columns of the table that has begun.
    columns: Vec<Kind>,
}

fn senseless(what: &str) -> BackupError {
    BackupError::Damaged(format!("{what} makes no sense"))
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) async fn begin(input: R, key: &BackupKey) -> Result<Self, BackupError> {
        Ok(Self { input: Opener::begin(input, key).await?, hash: Context::new(&SHA256), columns: Vec::new() })
    }

    /// The next record; behind [`Record::End`] there is none.
    pub(super) async fn next(&mut self) -> Result<Record, BackupError> {
        match self.array::<1>().await? {
            [1] => Ok(Record::Head(self.json().await?)),
            [2] => {
                let table: Table = self.json().await?;
                self.columns = table.columns.iter().map(|(_, kind)| *kind).collect();
                Ok(Record::Table(table))
            }
            [3] => {
                let mut values = Vec::with_capacity(self.columns.len());
                for place in 0..self.columns.len() {
                    let kind = self.columns.get(place).copied().unwrap_or(Kind::Text);
                    values.push(self.value(kind).await?);
                }
                Ok(Record::Row(values))
            }
            [4] => Ok(Record::TableEnd(u64::from_le_bytes(self.array().await?))),
            [5] => {
                let rows = u64::from_le_bytes(self.array().await?);
                let hash = self.hash.clone().finish();
                if self.array::<HASH>().await? != hash.as_ref() {
                    return Err(BackupError::Damaged("its checksum is another one".into()));
                }
                Ok(Record::End(rows))
            }
            _ => Err(senseless("a record")),
        }
    }

    /// Nothing may stand behind the end.
    pub(super) async fn end(self) -> Result<(), BackupError> {
        self.input.end().await
    }

    async fn value(&mut self, kind: Kind) -> Result<Value, BackupError> {
        Ok(match (self.array::<1>().await?, kind) {
            ([0], Kind::Text) => Value::Text(None),
            ([0], Kind::Number) => Value::Number(None),
            ([0], Kind::Bytes) => Value::Bytes(None),
            ([1], Kind::Text) => {
                let text = String::from_utf8(self.some().await?);
                Value::Text(Some(text.map_err(|_| senseless("a text"))?))
            }
            ([2], Kind::Number) => Value::Number(Some(i64::from_le_bytes(self.array().await?))),
            ([3], Kind::Bytes) => Value::Bytes(Some(self.some().await?)),
            _ => return Err(senseless("a value")),
        })
    }

    async fn json<T: DeserializeOwned>(&mut self) -> Result<T, BackupError> {
        serde_json::from_slice(&self.some().await?).map_err(|_| senseless("what it says of itself"))
    }

    async fn some(&mut self) -> Result<Vec<u8>, BackupError> {
        let length = u32::from_le_bytes(self.array().await?);
        if length > LONGEST {
            return Err(senseless("the length of a value"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| senseless("the length of a value"))?];
        self.input.read(&mut bytes).await?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.input.read(&mut bytes).await?;
        self.hash.update(&bytes);
        Ok(bytes)
    }
}
