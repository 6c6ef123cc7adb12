//! A policy changed as a whole, and its history.

use std::collections::BTreeMap;

use async_trait::async_trait;
use ztka_authz::{Binding, Cluster, PolicyDocument, Role};
use ztka_controller::store::{
    Action, POLICY_HISTORY, POLICY_VERSIONS, PolicyChange, PolicyEdit, PolicyStore, PolicyVersion, ResourceKind,
};
use ztka_core::{DocumentKind, OrgId};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    bodies::Bodies,
    change::Change,
    encryption::{Place, Sealer},
    resources::body_of,
    room,
    row::{micros, number, signed, text, time, to_json},
    sql::{Row, Statement, Tx, Value, sql},
};

/// Rows of one statement.
const AT_ONCE: usize = 500;

/// Where the body of an object is that has no table of its own.
fn object_of<'a>(org: &'a str, row: &'a str) -> Place<'a> {
    Place { org, table: "policy_objects", column: "body", row }
}

/// Where what an object was is.
fn edit_of<'a>(org: &'a str, row: &'a str) -> Place<'a> {
    Place { org, table: "policy_edits", column: "body", row }
}

/// What is read of a policy in one moment; see [`Store::policy_of`].
pub(crate) struct Rows {
    clusters: Vec<Cluster>,
    roles: Bodies<Role>,
    bindings: Bodies<Binding>,
    objects: Vec<Row>,
}

impl Rows {
    pub(crate) async fn read(store: &Store, read: &mut Tx, org: &OrgId) -> Result<Self, Failed> {
        let clusters = "SELECT id, name, labels, project, namespaces FROM clusters \
                        WHERE org = $1 AND deleted IS NULL ORDER BY id";
        let mut listed = Vec::new();
        let each = |row: Row| {
            listed.push(cluster(&row)?);
            Ok(())
        };
        read.each(sql(clusters).bind(org.as_str()), each).await?;
        let roles = Bodies::read(store, read, "roles", org.as_str()).await?;
        let bindings = Bodies::read(store, read, "bindings", org.as_str()).await?;
        let objects = sql("SELECT kind, name, body, sealed FROM policy_objects WHERE org = $1 ORDER BY kind, name");
        let objects = read.fetch_all(objects.bind(org.as_str())).await?;
        Ok(Self { clusters: listed, roles, bindings, objects })
    }
}

fn cluster(row: &Row) -> Result<Cluster, Failed> {
    use crate::row::json;

    let known = Cluster::new(text(row, "id")?, text::<String>(row, "name")?);
    let project = row.some_str("project")?.map(str::to_owned);
    Ok(Cluster { labels: json(row, "labels")?, project, namespaces: json(row, "namespaces")?, ..known })
}

impl Store {
    /// The policy in these rows.
    pub(crate) async fn policy_of(&self, org: &OrgId, rows: Rows) -> Result<PolicyDocument, Failed> {
        let Rows { clusters, roles, bindings, objects } = rows;
        let roles = roles.opened(self, "roles", org.as_str()).await?;
        let bindings = bindings.opened(self, "bindings", org.as_str()).await?;
        let mut document = PolicyDocument { clusters, roles, bindings, ..PolicyDocument::default() };
        for row in &objects {
            let kind: ResourceKind = text(row, "kind")?;
            let place = format!("{kind}/{}", row.str("name")?);
            let body = self.text_at(object_of(org.as_str(), &place), row, "body", "sealed").await?;
            let corrupt = |_| Failed::Corrupt("body");
            match kind {
                ResourceKind::Project => document.projects.push(serde_json::from_str(&body).map_err(corrupt)?),
                ResourceKind::PolicyGroup => document.groups.push(serde_json::from_str(&body).map_err(corrupt)?),
                ResourceKind::Denial => document.denials.push(serde_json::from_str(&body).map_err(corrupt)?),
                ResourceKind::Guardrails => document.guardrails = serde_json::from_str(&body).map_err(corrupt)?,
                ResourceKind::Settings => document.settings = serde_json::from_str(&body).map_err(corrupt)?,
                _ => return Err(Failed::Corrupt("kind")),
            }
        }
        Ok(document)
    }
}

/// Rows to be written, gathered until there are enough for a statement.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    /// What is done where the row is there already.
    otherwise: &'static str,
    rows: Vec<Vec<Value>>,
}

impl Table {
    fn new(name: &'static str, columns: &'static [&'static str], otherwise: &'static str) -> Self {
        Self { name, columns, otherwise, rows: Vec::new() }
    }

    async fn add(&mut self, tx: &mut Tx, row: Vec<Value>) -> Result<(), Failed> {
        self.rows.push(row);
        if self.rows.len() >= AT_ONCE { self.write(tx).await } else { Ok(()) }
    }

    async fn write(&mut self, tx: &mut Tx) -> Result<(), Failed> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let width = self.columns.len();
        let places = (0..rows.len()).map(|row| {
            let places = (1..=width).map(|column| format!("${}", row * width + column));
            format!("({})", places.collect::<Vec<_>>().join(", "))
        });
        let places = places.collect::<Vec<_>>().join(", ");
        let columns = self.columns.join(", ");
        let text = ["INSERT", "INTO", self.name, &format!("({columns})"), "VALUES", &places, self.otherwise].join(" ");
        tx.execute(Statement::made(text, rows.into_iter().flatten().collect())).await.map(drop)
    }
}

/// The tables that a change writes to.
struct Writing {
    changes: Table,
    edits: Table,
    roles: Table,
    bindings: Table,
    objects: Table,
}

impl Writing {
    fn new() -> Self {
        let body = "ON CONFLICT (org, name) DO UPDATE SET body = excluded.body, sealed = excluded.sealed, \
                    version = excluded.version";
        Self {
            changes: Table::new("changes", &["org", "version", "kind", "name", "action"], ""),
            edits: Table::new("policy_edits", &["org", "version", "kind", "name", "action", "body", "sealed"], ""),
            roles: Table::new("roles", &["org", "name", "body", "sealed", "version"], body),
            bindings: Table::new(
                "bindings",
                &["org", "name", "role", "body", "sealed", "version"],
                "ON CONFLICT (org, name) DO UPDATE SET body = excluded.body, sealed = excluded.sealed, \
                 version = excluded.version, role = excluded.role",
            ),
            objects: Table::new(
                "policy_objects",
                &["org", "kind", "name", "body", "sealed", "version"],
                "ON CONFLICT (org, kind, name) DO UPDATE SET body = excluded.body, sealed = excluded.sealed, \
                 version = excluded.version",
            ),
        }
    }

    async fn finish(&mut self, tx: &mut Tx) -> Result<(), Failed> {
        // Roles before bindings, as those refer to them.
        for table in [&mut self.changes, &mut self.edits, &mut self.roles, &mut self.bindings, &mut self.objects] {
            table.write(tx).await?;
        }
        Ok(())
    }

    /// Writes one object, at `version`.
    async fn put(
        &mut self,
        tx: &mut Tx,
        sealer: &Sealer,
        org: &str,
        edit: &PolicyEdit,
        version: u64,
    ) -> Result<(), StoreError> {
        let PolicyEdit { kind, name, after, .. } = edit;
        let version = signed(version);
        match (kind, after) {
            (ResourceKind::Cluster, Some(body)) => {
                let cluster: Cluster = serde_json::from_str(body).map_err(Failed::Json)?;
                let update = "UPDATE clusters SET labels = $1, project = $2, namespaces = $3, version = $4 \
                              WHERE id = $5 AND org = $6 AND deleted IS NULL";
                let update = sql(update)
                    .bind(to_json(&cluster.labels)?)
                    .bind(cluster.project.as_deref())
                    .bind(to_json(&cluster.namespaces)?)
                    .bind(version)
                    .bind(name)
                    .bind(org);
                match tx.execute(update).await? {
                    0 => return Err(StoreError::not_found("cluster", name)),
                    _ => return Ok(()),
                }
            }
            (ResourceKind::Cluster, None) => {
                return Err(StoreError::Refused("a cluster is not deleted by its policy; delete the cluster".into()));
            }
            (ResourceKind::Role, Some(body)) => {
                let (body, sealed) = sealer.seal(body_of("roles", org, name), body.clone())?;
                let row = vec![org.into(), name.into(), body.into(), sealed.into(), version.into()];
                self.roles.add(tx, row).await?;
            }
            (ResourceKind::Binding, Some(body)) => {
                let binding: Binding = serde_json::from_str(body).map_err(Failed::Json)?;
                let (body, sealed) = sealer.seal(body_of("bindings", org, name), body.clone())?;
                let row =
                    vec![org.into(), name.into(), binding.role.into(), body.into(), sealed.into(), version.into()];
                self.bindings.add(tx, row).await?;
            }
            (ResourceKind::Role, None) => {
                tx.execute(sql("DELETE FROM roles WHERE org = $1 AND name = $2").bind(org).bind(name)).await?;
            }
            (ResourceKind::Binding, None) => {
                tx.execute(sql("DELETE FROM bindings WHERE org = $1 AND name = $2").bind(org).bind(name)).await?;
            }
            (kind, Some(body)) if PolicyEdit::KINDS.contains(kind) => {
                let place = format!("{kind}/{name}");
                let (body, sealed) = sealer.seal(object_of(org, &place), body.clone())?;
                let row =
                    vec![org.into(), kind.as_str().into(), name.into(), body.into(), sealed.into(), version.into()];
                self.objects.add(tx, row).await?;
            }
            (kind, None) if PolicyEdit::KINDS.contains(kind) => {
                let delete = sql("DELETE FROM policy_objects WHERE org = $1 AND kind = $2 AND name = $3");
                tx.execute(delete.bind(org).bind(kind.as_str()).bind(name)).await?;
            }
            (kind, _) => return Err(StoreError::unavailable(format!("{kind} is no part of a policy"))),
        }
        Ok(())
    }

    /// Notes one object in the feed and in the history.
    async fn note(
        &mut self,
        tx: &mut Tx,
        sealer: &Sealer,
        org: &str,
        edit: &PolicyEdit,
        (version, last): (u64, u64),
    ) -> Result<(), StoreError> {
        let (kind, name, action) = (edit.kind.as_str(), &edit.name, edit.action().as_str());
        let row = vec![org.into(), signed(version).into(), kind.into(), name.into(), action.into()];
        self.changes.add(tx, row).await?;
        let (body, sealed) = match &edit.before {
            None => (None, None),
            Some(before) => {
                let place = format!("{last}/{kind}/{name}");
                let (body, sealed) = sealer.seal(edit_of(org, &place), before.clone())?;
                (Some(body), sealed)
            }
        };
        let row =
            vec![org.into(), signed(last).into(), kind.into(), name.into(), action.into(), body.into(), sealed.into()];
        Ok(self.edits.add(tx, row).await?)
    }
}

/// The policy has to be at this version, under the organisation's lock.
async fn need_basis(change: &mut Change, org: &str, basis: u64) -> Result<(), StoreError> {
    let query = sql("SELECT version FROM series WHERE kind = 'policy' AND org = $1 AND subject = ''").bind(org);
    let row = change.fetch_optional(query).await?.ok_or_else(|| StoreError::not_found("organisation", org))?;
    match number(&row, "version")? {
        version if version == basis => Ok(()),
        version => Err(StoreError::Changed { what: "policy", name: org.into(), version }),
    }
}

/// Notes the version in the history, with what was before the first one, and forgets old ones.
async fn remember(tx: &mut Tx, org: &str, version: u64, change: &PolicyChange) -> Result<(), Failed> {
    let insert = "INSERT INTO policy_versions (org, version, at, author, act, edits, size) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let kept = sql("SELECT version, size FROM policy_versions WHERE org = $1 ORDER BY version DESC").bind(org);
    let mut kept = tx.fetch_all(kept).await?;
    if kept.is_empty() {
        let first = sql(insert).bind(org).bind(signed(change.basis)).bind(micros(change.at)).bind(None::<&str>);
        tx.execute(first.bind("before").bind(0_i64).bind(0_i64)).await?;
    }
    let size: usize = change.edits.iter().filter_map(|edit| edit.before.as_ref()).map(String::len).sum();
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    let row = sql(insert).bind(org).bind(signed(version)).bind(micros(change.at)).bind(change.author.as_str());
    let edits = i64::try_from(change.edits.len()).unwrap_or(i64::MAX);
    tx.execute(row.bind(change.act.as_str()).bind(edits).bind(signed(size))).await?;
    // What the oldest one has changed is not needed any more: it is what there was then.
    let (mut total, mut count, mut oldest) = (size, 1, version);
    for row in kept.drain(..) {
        total = total.saturating_add(number(&row, "size")?);
        count += 1;
        if count > POLICY_VERSIONS || total > POLICY_HISTORY {
            let forget = sql("DELETE FROM policy_versions WHERE org = $1 AND version < $2");
            tx.execute(forget.bind(org).bind(signed(oldest))).await?;
            let forget = sql("DELETE FROM policy_edits WHERE org = $1 AND version <= $2");
            tx.execute(forget.bind(org).bind(signed(oldest))).await?;
            break;
        }
        oldest = number(&row, "version")?;
    }
    Ok(())
}

#[async_trait]
impl PolicyStore for Store {
    async fn change_policy(&self, org: &OrgId, asked: &PolicyChange) -> Result<u64, StoreError> {
        let Some(one) = asked.edits.first() else {
            return Err(StoreError::unavailable("a change of nothing"));
        };
        let sealer = self.sealer(org.as_str()).await?;
        let mut change = self.change(Some(org), one.action(), one.kind, &one.name).await?;
        need_basis(&mut change, org.as_str(), asked.basis).await?;
        let first = change.take(asked.edits.len()).await?;
        let last = change.newest();
        let mut writing = Writing::new();
        // Nothing goes before what refers to it, and nothing comes before what it refers to.
        let (gone, rest): (Vec<_>, Vec<_>) =
            asked.edits.iter().zip(first..).partition(|(edit, _)| edit.after.is_none());
        for (edit, version) in gone.into_iter().rev().chain(rest) {
            writing.put(&mut change, &sealer, org.as_str(), edit, version).await?;
            writing.note(&mut change, &sealer, org.as_str(), edit, (version, last)).await?;
        }
        writing.finish(&mut change).await?;
        let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let more: usize = asked.edits.iter().map(|edit| bytes(&edit.after)).sum();
        let less: usize = asked.edits.iter().map(|edit| bytes(&edit.before)).sum();
        match more.checked_sub(less) {
            Some(more) => room::grow(&mut change, org, more).await?,
            None => room::shrink(&mut change, org, u64::try_from(less - more).unwrap_or(u64::MAX)).await?,
        }
        remember(&mut change, org.as_str(), last, asked).await?;
        change.touch(DocumentKind::Policy).await?;
        change.commit_stamped().await?;
        Ok(last)
    }

    async fn policy_history(
        &self,
        org: &OrgId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<PolicyVersion>, StoreError> {
        let mut read = self.read().await?;
        let query = "SELECT version, at, author, act, edits FROM policy_versions WHERE org = $1 AND version < $2 \
                     ORDER BY version DESC LIMIT $3";
        let before = before.map_or(i64::MAX, signed);
        let rows = read.fetch_all(sql(query).bind(org.as_str()).bind(before).bind(i64::from(limit))).await?;
        let mut versions = Vec::with_capacity(rows.len());
        for row in &rows {
            let version = number(row, "version")?;
            let edits = "SELECT kind, name, action FROM policy_edits WHERE org = $1 AND version = $2 \
                         ORDER BY kind, name LIMIT $3";
            let shown = i64::try_from(PolicyVersion::SHOWN).unwrap_or(i64::MAX);
            let edits = read.fetch_all(sql(edits).bind(org.as_str()).bind(signed(version)).bind(shown)).await?;
            let edit = |row: &Row| -> Result<_, Failed> {
                Ok((text(row, "kind")?, row.str("name")?.to_owned(), text::<Action>(row, "action")?))
            };
            let author = row.some_str("author")?.map(str::parse).transpose();
            versions.push(PolicyVersion {
                version,
                at: time(row, "at")?,
                author: author.map_err(|_| Failed::Corrupt("author"))?,
                act: row.str("act")?.to_owned(),
                edits: number(row, "edits")?,
                first: edits.iter().map(edit).collect::<Result<_, _>>()?,
            });
        }
        Ok(versions)
    }

    async fn policy_back(&self, org: &OrgId, until: u64, to: u64) -> Result<Vec<PolicyEdit>, StoreError> {
        let mut read = self.read().await?;
        let oldest = sql("SELECT coalesce(min(version), 0) AS version FROM policy_versions WHERE org = $1");
        let oldest = number(&read.fetch_one(oldest.bind(org.as_str())).await?, "version")?;
        if to < until && (oldest == 0 || to < oldest) {
            return Err(StoreError::Compacted);
        }
        let query = "SELECT version, kind, name, body, sealed FROM policy_edits \
                     WHERE org = $1 AND version > $2 AND version <= $3 ORDER BY version, kind, name";
        // Of each object the oldest counts; the others are never held, and none is opened in vain.
        let mut oldest: BTreeMap<(ResourceKind, String), Row> = BTreeMap::new();
        let query = sql(query).bind(org.as_str()).bind(signed(to)).bind(signed(until));
        let keep = |row: Row| {
            oldest.entry((text(&row, "kind")?, row.str("name")?.to_owned())).or_insert(row);
            Ok(())
        };
        read.each(query, keep).await?;
        drop(read);
        let mut back = Vec::with_capacity(oldest.len());
        for ((kind, name), row) in oldest {
            let place = format!("{}/{kind}/{name}", number(&row, "version")?);
            let was = match (row.some_str("body")?, row.some_bytes("sealed")?) {
                (None, None) => None,
                _ => Some(self.text_at(edit_of(org.as_str(), &place), &row, "body", "sealed").await?),
            };
            back.push(((kind, name), was));
        }
        let edit = |((kind, name), after)| PolicyEdit { kind, name, before: None, after };
        Ok(back.into_iter().map(edit).collect())
    }
}
