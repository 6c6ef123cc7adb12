//! Many roles or bindings, read one after the other: what is as large as a policy is in memory once, in its own form.

use serde::de::DeserializeOwned;

use crate::{
    Failed, Store,
    resources::body_of,
    row::number,
    sql::{Row, Tx, sql},
};

/// The roles or bindings of an organisation, by name.
pub(crate) struct Bodies<T> {
    read: Vec<T>,
    /// Those whose data key was not at hand: it may take another connection, and therefore comes after the transaction.
    /// With the place that each has to have.
    later: Vec<Later>,
}

struct Later {
    place: usize,
    name: String,
    sealed: Vec<u8>,
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(body).map_err(|_| Failed::Corrupt("body"))
}

impl<T: DeserializeOwned> Bodies<T> {
    /// Reads all rows of `roles` or `bindings`.
    pub(crate) async fn read(store: &Store, tx: &mut Tx, table: &'static str, org: &str) -> Result<Self, Failed> {
        let all = match table {
            "roles" => sql("SELECT name, body, sealed FROM roles WHERE org = $1 ORDER BY name"),
            _ => sql("SELECT name, body, sealed FROM bindings WHERE org = $1 ORDER BY name"),
        };
        // Exactly as much room as they need: growing would take twice that for a moment.
        let count = match table {
            "roles" => sql("SELECT count(*) AS bodies FROM roles WHERE org = $1"),
            _ => sql("SELECT count(*) AS bodies FROM bindings WHERE org = $1"),
        };
        let count = usize::try_from(number(&tx.fetch_one(count.bind(org)).await?, "bodies")?).unwrap_or_default();
        let mut bodies = Self { read: Vec::with_capacity(count), later: Vec::new() };
        tx.each(all.bind(org), |row| bodies.take(store, table, org, &row)).await?;
        Ok(bodies)
    }

    /// Of rows that are read already.
    pub(crate) fn of(store: &Store, table: &'static str, org: &str, rows: &[Row]) -> Result<Self, Failed> {
        let mut bodies = Self { read: Vec::new(), later: Vec::new() };
        rows.iter().try_for_each(|row| bodies.take(store, table, org, row))?;
        Ok(bodies)
    }

    fn take(&mut self, store: &Store, table: &'static str, org: &str, row: &Row) -> Result<(), Failed> {
        let Some(sealed) = row.some_bytes("sealed")? else {
            self.read.push(parsed(row.str("body")?.as_bytes())?);
            return Ok(());
        };
        let name = row.str("name")?;
        match store.unseal_now(body_of(table, org, name), sealed)? {
            Some(body) => self.read.push(parsed(&body)?),
            None => {
                let place = self.read.len() + self.later.len();
                self.later.push(Later { place, name: name.to_owned(), sealed: sealed.to_owned() });
            }
        }
        Ok(())
    }

    /// All of them, with what was left for later.
    pub(crate) async fn opened(self, store: &Store, table: &'static str, org: &str) -> Result<Vec<T>, Failed> {
        let Self { mut read, later } = self;
        if later.is_empty() {
            return Ok(read);
        }
        let mut all = Vec::with_capacity(read.len() + later.len());
        let mut ready = read.drain(..);
        for Later { place, name, sealed } in later {
            all.extend(ready.by_ref().take(place - all.len()));
            all.push(parsed(&store.unseal(body_of(table, org, &name), &sealed).await?)?);
        }
        all.extend(ready);
        Ok(all)
    }
}
