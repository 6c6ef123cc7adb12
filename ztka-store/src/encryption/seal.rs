//! Seals what is in clear, or under an earlier data key, under an organisation's newest one: a few rows at a time, while
//! others write.

use ztka_core::OrgId;
use ztka_identity::StoreError;

use super::{INSTALLATION, Place, Sealer, envelope::key_of, keyring::DATA};
use crate::{
    Failed, Store, audit,
    jobs::Done,
    recordings,
    sql::{Row, Statement, Tx, sql},
};

/// Rows of one step.
const AT_ONCE: i64 = 64;
/// A data key goes when nothing is under it and it has not sealed for so long (ten minutes, in microseconds): no transaction
/// of a controller that had not heard of its successor lasts as long.
const RETIRED: i64 = 600_000_000;

/// What is sealed, in the order in which it is gone through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Target {
    Users,
    Roles,
    Bindings,
    Policy,
    History,
    Series,
    Events,
    Receipts,
    Recordings,
    Chunks,
    Keys,
}

impl Target {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Users, "users"),
        (Self::Roles, "roles"),
        (Self::Bindings, "bindings"),
        (Self::Policy, "policy"),
        (Self::History, "history"),
        (Self::Series, "series"),
        (Self::Events, "events"),
        (Self::Receipts, "receipts"),
        (Self::Recordings, "recordings"),
        (Self::Chunks, "recording-chunks"),
        (Self::Keys, "keys"),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(target, _)| *target == self).map_or("users", |(_, word)| word)
    }

    fn next(self) -> Option<Self> {
        let place = Self::ALL.iter().position(|(target, _)| *target == self)?;
        Self::ALL.get(place + 1).map(|(target, _)| *target)
    }

    /// The next rows of an organisation, by their key.
    fn page(self, org: &str, after: &str) -> Statement {
        let by_text = |text| sql(text).bind(org).bind(after).bind(AT_ONCE);
        let by_number = |text| sql(text).bind(org).bind(after.parse::<i64>().unwrap_or(i64::MIN)).bind(AT_ONCE);
        // What is of nobody that there is, is the installation's.
        let own = org != INSTALLATION;
        match self {
            Self::Users => by_text(
                "SELECT id AS place, name AS clear, sealed, attributes, sealed_attributes FROM users \
                 WHERE org = $1 AND id > $2 ORDER BY id LIMIT $3",
            ),
            Self::Roles => by_text(
                "SELECT name AS place, body AS clear, sealed FROM roles WHERE org = $1 AND name > $2 \
                 ORDER BY name LIMIT $3",
            ),
            Self::Bindings => by_text(
                "SELECT name AS place, body AS clear, sealed FROM bindings WHERE org = $1 AND name > $2 \
                 ORDER BY name LIMIT $3",
            ),
            Self::Policy => {
                let (kind, name) = of_object(after);
                let text = "SELECT kind || '/' || name AS place, kind, name, body AS clear, sealed FROM policy_objects \
                            WHERE org = $1 AND (kind, name) > ($2, $3) ORDER BY kind, name LIMIT $4";
                sql(text).bind(org).bind(kind).bind(name).bind(AT_ONCE)
            }
            Self::History => {
                let (version, object) = after.split_once('/').unwrap_or(("-1", ""));
                let ((kind, name), version) = (of_object(object), version.parse::<i64>().unwrap_or(-1));
                // By the primary key: there may be a great many.
                let text = "SELECT CAST(version AS TEXT) || '/' || kind || '/' || name AS place, \
                            version, kind, name, body AS clear, sealed FROM policy_edits \
                            WHERE org = $1 AND (version, kind, name) > ($2, $3, $4) \
                            ORDER BY version, kind, name LIMIT $5";
                sql(text).bind(org).bind(version).bind(kind).bind(name).bind(AT_ONCE)
            }
            Self::Series => by_text(
                "SELECT kind || '/' || subject AS place, wire, sealed, feed FROM series \
                 WHERE org = $1 AND org <> '' AND kind || '/' || subject > $2 AND (wire IS NOT NULL OR sealed IS NOT NULL) \
                 ORDER BY kind || '/' || subject LIMIT $3",
            ),
            Self::Events if own => by_number(
                "SELECT number, org, user_name, namespace, payload AS clear, sealed FROM events \
                 WHERE org = $1 AND number > $2 ORDER BY number LIMIT $3",
            ),
            Self::Events => by_number(
                "SELECT number, org, user_name, namespace, payload AS clear, sealed FROM events \
                 WHERE NOT EXISTS (SELECT 1 FROM versions v WHERE v.org = events.org AND v.org <> $1) \
                 AND number > $2 ORDER BY number LIMIT $3",
            ),
            Self::Receipts if own => by_number(
                "SELECT number, cluster, time, payload AS clear, sealed FROM receipts \
                 WHERE cluster IN (SELECT id FROM clusters WHERE org = $1) AND number > $2 ORDER BY number LIMIT $3",
            ),
            Self::Receipts => by_number(
                "SELECT number, cluster, time, payload AS clear, sealed FROM receipts \
                 WHERE NOT EXISTS (SELECT 1 FROM clusters c WHERE c.id = receipts.cluster AND c.org <> $1) \
                 AND number > $2 ORDER BY number LIMIT $3",
            ),
            Self::Recordings => by_text(
                "SELECT id AS place, body AS clear, sealed FROM recordings WHERE org = $1 AND id > $2 ORDER BY id LIMIT $3",
            ),
            Self::Chunks => {
                let (recording, number) = after.split_once('/').unwrap_or_default();
                let text = "SELECT recording || '/' || CAST(number AS TEXT) AS place, recording, number, body, sealed \
                            FROM recording_chunks WHERE org = $1 AND (recording, number) > ($2, $3) \
                            ORDER BY recording, number LIMIT $4";
                sql(text).bind(org).bind(recording).bind(number.parse::<i64>().unwrap_or(-1)).bind(AT_ONCE)
            }
            // All of them, of whom the others' are passed over: there are a few for each organisation.
            Self::Keys => by_text(
                "SELECT name AS place, sealed FROM private_keys WHERE $1 = $1 AND name > $2 ORDER BY name LIMIT $3",
            ),
        }
    }
}

/// Kind and name from the place of a policy's object.
fn of_object(place: &str) -> (&str, &str) {
    place.split_once('/').unwrap_or_default()
}

fn begin(state: &str) -> (Target, &str) {
    let (word, after) = state.split_once(' ').unwrap_or((state, ""));
    let target = Target::ALL.iter().find(|(_, known)| *known == word).map_or(Target::Users, |(target, _)| *target);
    (target, after)
}

impl Store {
    /// A step of a job of kind `seal`: its state is the table, and the key after which it goes on.
    pub(crate) async fn seal_step(&self, org: &str, state: &str) -> Result<Done, StoreError> {
        let (target, after) = begin(state);
        let sealer = self.sealer(org).await?;
        let mut tx = match org {
            INSTALLATION => self.write().await?,
            // Roles and bindings may be deleted and made again; nobody does so meanwhile.
            _ => match self.hold(&org.parse::<OrgId>().map_err(|_| Failed::Corrupt("subject"))?).await {
                Err(StoreError::NotFound { .. }) => return Ok(Done { tx: self.write().await?, next: None, rows: 0 }),
                held => held?,
            },
        };
        if sealer.key().is_none() {
            return Ok(Done { tx, next: None, rows: 0 });
        }
        let found = tx.fetch_all(target.page(org, after)).await?;
        let (mut sealed, mut last) = (0, None);
        for row in &found {
            last = Some(self.seal_row(&mut tx, &sealer, org, target, row, &mut sealed).await?);
        }
        let next = match (last, target.next()) {
            (Some(last), _) => Some(format!("{} {last}", target.word())),
            (None, Some(next)) => Some(next.word().to_owned()),
            (None, None) => {
                self.retire(&mut tx, &sealer, org).await?;
                None
            }
        };
        Ok(Done { tx, next, rows: sealed })
    }

    /// Removes data keys that nothing is under. What this job has seen in its one pass is under the newest; what others have
    /// written meanwhile is under one that was the newest a minute before at most.
    async fn retire(&self, tx: &mut Tx, sealer: &Sealer, org: &str) -> Result<(), Failed> {
        let Some(newest) = sealer.key() else { return Ok(()) };
        let query = sql("SELECT created FROM data_keys WHERE id = $1").bind(newest);
        let Some(row) = tx.fetch_optional(query).await? else { return Ok(()) };
        let since = row.number("created")?;
        let begun = sql("SELECT created FROM jobs WHERE kind = 'seal' AND subject = $1").bind(org);
        let begun = tx.fetch_optional(begun).await?.map(|row| row.number("created")).transpose()?;
        if begun.is_some_and(|begun| begun >= since.saturating_add(RETIRED)) {
            let text = "DELETE FROM data_keys WHERE org = $1 AND kind = $2 AND id <> $3 AND created <= $4";
            tx.execute(sql(text).bind(org).bind(DATA).bind(newest).bind(since)).await?;
        }
        Ok(())
    }

    /// Seals the attributes of a user, if there are any, and they are not under the newest key.
    async fn seal_attributes(&self, tx: &mut Tx, sealer: &Sealer, at: Place<'_>, row: &Row) -> Result<u64, Failed> {
        let old = row.some_bytes("sealed_attributes")?;
        let current = old.is_some() && old.and_then(key_of) == sealer.key();
        if current || (old.is_none() && row.str("attributes")? == "{}") {
            return Ok(0);
        }
        let (clear, new) = sealer.seal(at, self.text_at(at, row, "attributes", "sealed_attributes").await?)?;
        let text = "UPDATE users SET attributes = $1, sealed_attributes = $2 WHERE id = $3";
        tx.execute(sql(text).bind(clear).bind(new).bind(at.row)).await
    }

    /// Seals one row if it is not under the newest key; tells where the next begins.
    async fn seal_row(
        &self,
        tx: &mut Tx,
        sealer: &Sealer,
        org: &str,
        target: Target,
        row: &Row,
        sealed: &mut u64,
    ) -> Result<String, Failed> {
        let place = match target {
            Target::Events | Target::Receipts => row.number("number")?.to_string(),
            _ => row.str("place")?.to_owned(),
        };
        let old = row.some_bytes("sealed")?;
        let at = |org, table, column, row| Place { org, table, column, row };
        if target == Target::Users {
            *sealed += self.seal_attributes(tx, sealer, at(org, "users", "attributes", &place), row).await?;
        }
        // What an edit has made has nothing before it.
        let nothing = target == Target::History && old.is_none() && row.some_str("clear")?.is_none();
        if nothing || (old.is_some() && old.and_then(key_of) == sealer.key()) {
            return Ok(place);
        }
        let update = match target {
            Target::Users => {
                let at = at(org, "users", "name", &place);
                let name = self.text_at(at, row, "clear", "sealed").await?;
                let (_, new) = sealer.seal(at, name.clone())?;
                let blind = sealer.searchable("users.name", &name);
                let text = "UPDATE users SET name = $1, sealed = $2 WHERE id = $3";
                sql(text).bind(blind).bind(new).bind(&place)
            }
            Target::Roles => {
                let at = at(org, "roles", "body", &place);
                let (clear, new) = sealer.seal(at, self.text_at(at, row, "clear", "sealed").await?)?;
                let text = "UPDATE roles SET body = $1, sealed = $2 WHERE org = $3 AND name = $4";
                sql(text).bind(clear).bind(new).bind(org).bind(&place)
            }
            Target::Bindings => {
                let at = at(org, "bindings", "body", &place);
                let (clear, new) = sealer.seal(at, self.text_at(at, row, "clear", "sealed").await?)?;
                let text = "UPDATE bindings SET body = $1, sealed = $2 WHERE org = $3 AND name = $4";
                sql(text).bind(clear).bind(new).bind(org).bind(&place)
            }
            Target::Policy => {
                let at = at(org, "policy_objects", "body", &place);
                let (clear, new) = sealer.seal(at, self.text_at(at, row, "clear", "sealed").await?)?;
                let text =
                    "UPDATE policy_objects SET body = $1, sealed = $2 WHERE org = $3 AND kind = $4 AND name = $5";
                sql(text).bind(clear).bind(new).bind(org).bind(row.str("kind")?).bind(row.str("name")?)
            }
            Target::History => {
                let at = at(org, "policy_edits", "body", &place);
                let (clear, new) = sealer.seal(at, self.text_at(at, row, "clear", "sealed").await?)?;
                let text = "UPDATE policy_edits SET body = $1, sealed = $2 \
                            WHERE org = $3 AND version = $4 AND kind = $5 AND name = $6";
                let key = sql(text).bind(clear).bind(new).bind(org).bind(row.number("version")?);
                key.bind(row.str("kind")?).bind(row.str("name")?)
            }
            Target::Series => {
                let at = at(org, "series", "wire", &place);
                let wire = match old {
                    Some(old) => self.unseal(at, old).await?,
                    None => row.bytes("wire")?.to_vec(),
                };
                let (clear, new) = sealer.seal_bytes(at, &wire)?;
                // Unless something newer has been signed meanwhile.
                let text = "UPDATE series SET wire = $1, sealed = $2 \
                            WHERE org = $3 AND kind || '/' || subject = $4 AND feed = $5";
                sql(text).bind(clear).bind(new).bind(org).bind(&place).bind(row.number("feed")?)
            }
            Target::Events => {
                let at = at(row.str("org")?, "events", "payload", &place);
                let payload = self.text_at(at, row, "clear", "sealed").await?;
                let [user, namespace] = match old {
                    // By the same index key already.
                    Some(_) => [row.str("user_name")?.to_owned(), row.str("namespace")?.to_owned()],
                    None => [
                        audit::blind(sealer, "events.user_name", row.str("user_name")?),
                        audit::blind(sealer, "events.namespace", row.str("namespace")?),
                    ],
                };
                let (clear, new) = sealer.seal(at, payload)?;
                let text =
                    "UPDATE events SET payload = $1, sealed = $2, user_name = $3, namespace = $4 WHERE number = $5";
                sql(text).bind(clear).bind(new).bind(user).bind(namespace).bind(row.number("number")?)
            }
            Target::Receipts => {
                let of = audit::receipt_row(row.str("cluster")?, row.number("time")?);
                let at = at(org, "receipts", "payload", &of);
                let (clear, new) = sealer.seal(at, self.text_at(at, row, "clear", "sealed").await?)?;
                let text = "UPDATE receipts SET payload = $1, sealed = $2 WHERE number = $3";
                sql(text).bind(clear).bind(new).bind(row.number("number")?)
            }
            Target::Recordings => {
                let at = recordings::body_of(org, &place);
                let (clear, new) = sealer.seal(at, self.text_at(at, row, "clear", "sealed").await?)?;
                let text = "UPDATE recordings SET body = $1, sealed = $2 WHERE id = $3";
                sql(text).bind(clear).bind(new).bind(&place)
            }
            Target::Chunks => {
                let at = recordings::chunk_of(org, &place);
                let wire = match old {
                    Some(old) => self.unseal(at, old).await?,
                    None => row.bytes("body")?.to_vec(),
                };
                let (clear, new) = sealer.seal_bytes(at, &wire)?;
                let text = "UPDATE recording_chunks SET body = $1, sealed = $2 WHERE recording = $3 AND number = $4";
                sql(text).bind(clear).bind(new).bind(row.str("recording")?).bind(row.number("number")?)
            }
            Target::Keys => {
                if crate::keys::org_of(&place) != org {
                    return Ok(place);
                }
                let (Some(old), Some(keyring)) = (old, &self.keyring) else { return Ok(place) };
                let at = crate::keys::place(&place);
                let key = keyring.unseal_private(self, at, old).await?;
                let (_, new) = sealer.seal_bytes(at, &key)?;
                let text = "UPDATE private_keys SET sealed = $1 WHERE name = $2 AND sealed = $3";
                sql(text).bind(new).bind(&place).bind(old)
            }
        };
        *sealed += tx.execute(update).await?;
        Ok(place)
    }
}
