//! Whether a master key is the one that a backup needs, before anything is written.

use std::collections::BTreeMap;

use tokio::io::AsyncRead;

use super::{
    BackupError, BackupKey, head,
    record::{Reader, Record, Table},
    rows,
};
use crate::{
    Masters,
    encryption::{key_of, legacy_context, wrapped_context},
    sql::Value,
};

/// The place of a column in the rows of a table.
fn column(table: &Table, name: &str) -> Option<usize> {
    table.columns.iter().position(|(column, _)| column == name)
}

fn text(values: &[Value], place: Option<usize>) -> Option<&str> {
    match values.get(place?)? {
        Value::Text(text) => text.as_deref(),
        _ => None,
    }
}

fn bytes(values: &[Value], place: Option<usize>) -> Option<&[u8]> {
    match values.get(place?)? {
        Value::Bytes(bytes) => bytes.as_deref(),
        _ => None,
    }
}

/// A key in the backup, and what it is authenticated with.
struct Sample {
    context: Vec<u8>,
    wrapped: Vec<u8>,
}

/// Whether what is encrypted in a backup can be opened with these master keys: each data key says which one wraps it, and of
/// each of those one is opened. Reads the whole backup.
///
/// # Errors
/// [`BackupError::OtherMaster`] if one that is needed is not among them; any other [`BackupError`].
pub async fn fits<R: AsyncRead + Unpin>(input: R, key: &BackupKey, masters: &Masters) -> Result<(), BackupError> {
    let mut reader = Reader::begin(input, key).await?;
    head(&mut reader).await?;
    let (mut needed, mut legacy) = (BTreeMap::new(), None);
    loop {
        match reader.next().await? {
            Record::Table(table) if table.name == "data_keys" => needed = of_data_keys(&mut reader, &table).await?,
            Record::Table(table) if table.name == "private_keys" => legacy = of_legacy(&mut reader, &table).await?,
            Record::Table(_) => {
                rows(&mut reader, async |_| Ok(())).await?;
            }
            Record::End(_) => break,
            _ => return Err(BackupError::Damaged("its tables are not those of its schema".into())),
        }
    }
    reader.end().await?;
    let other = |needed: String| BackupError::OtherMaster { needed, given: masters.ids() };
    for (id, Sample { context, wrapped }) in needed {
        let master = masters.named(&id).ok_or_else(|| other(id.clone()))?;
        master.unwrap(&context, &wrapped).await.map_err(|_| other(id))?;
    }
    if let Some(Sample { context, wrapped }) = legacy {
        let opened = masters.open_legacy(&context, &wrapped).await;
        opened.map_err(|_| other("of its time, which it does not name".into()))?;
    }
    Ok(())
}

/// For each master key a data key that it wraps.
async fn of_data_keys<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    table: &Table,
) -> Result<BTreeMap<String, Sample>, BackupError> {
    let place = |name| column(table, name);
    let (org, kind, id) = (place("org"), place("kind"), place("id"));
    let (master, wrapped) = (place("master"), place("wrapped"));
    let mut needed = BTreeMap::new();
    rows(reader, async |values| {
        let id = match id.and_then(|place| values.get(place)) {
            Some(Value::Number(id)) => *id,
            _ => None,
        };
        let (org, kind) = (text(&values, org), text(&values, kind));
        let (master, wrapped) = (text(&values, master), bytes(&values, wrapped));
        if let (Some(id), Some(org), Some(kind), Some(master), Some(wrapped)) = (id, org, kind, master, wrapped) {
            let context = wrapped_context(org, kind, id);
            needed.entry(master.to_owned()).or_insert_with(|| Sample { context, wrapped: wrapped.to_owned() });
        }
        Ok(())
    })
    .await?;
    Ok(needed)
}

/// A private key under a master key itself, as programs of schema 8 kept it.
async fn of_legacy<R: AsyncRead + Unpin>(reader: &mut Reader<R>, table: &Table) -> Result<Option<Sample>, BackupError> {
    let (name, sealed) = (column(table, "name"), column(table, "sealed"));
    let mut found = None;
    rows(reader, async |values| {
        if let (Some(name), Some(sealed)) = (text(&values, name), bytes(&values, sealed))
            && key_of(sealed).is_none()
        {
            found = Some(Sample { context: legacy_context(name), wrapped: sealed.to_owned() });
        }
        Ok(())
    })
    .await?;
    Ok(found)
}
