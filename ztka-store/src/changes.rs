//! The change feed, read.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use ztka_controller::store::{ChangeStore, Changes, Conditional, Listed, Listing};
use ztka_core::{OrgId, Revision};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    row::{number, org_or_empty, signed, text},
    sql::{Row, sql},
};

/// Everything that has a version, of one organisation.
const OF_ORG: &str = "SELECT 'org' AS kind, id AS name, version FROM orgs WHERE id = $1 \
     UNION ALL SELECT 'user', id, version FROM users WHERE org = $1 \
     UNION ALL SELECT 'group', name, version FROM user_groups WHERE org = $1 \
     UNION ALL SELECT 'credential', id, version FROM credentials WHERE org = $1 \
     UNION ALL SELECT 'cluster', id, version FROM clusters WHERE org = $1 AND deleted IS NULL \
     UNION ALL SELECT 'role', name, version FROM roles WHERE org = $1 \
     UNION ALL SELECT 'binding', name, version FROM bindings WHERE org = $1 \
     UNION ALL SELECT kind, name, version FROM policy_objects WHERE org = $1";
/// And of the installation. Organisations have versions of their own; their place in this feed is not kept.
const OF_INSTALLATION: &str = "SELECT 'org' AS kind, id AS name, 0 AS version FROM orgs WHERE deleted IS NULL \
     UNION ALL SELECT 'proxy', id, version FROM proxies";

fn listed(row: &Row) -> Result<Listed, Failed> {
    Ok(Listed { kind: text(row, "kind")?, name: row.str("name")?.to_owned(), version: number(row, "version")? })
}

fn change(row: &Row) -> Result<ztka_controller::store::Change, Failed> {
    Ok(ztka_controller::store::Change {
        version: number(row, "version")?,
        kind: text(row, "kind")?,
        name: row.str("name")?.to_owned(),
        action: text(row, "action")?,
    })
}

#[async_trait]
impl ChangeStore for Store {
    async fn list(&self, org: Option<&OrgId>) -> Result<Listing, StoreError> {
        let mut read = self.read().await?;
        let head = "SELECT version, (SELECT value FROM meta WHERE key = 'epoch') AS epoch FROM versions WHERE org = $1";
        let row = read.fetch_optional(sql(head).bind(org_or_empty(org))).await?;
        let row = row.ok_or_else(|| StoreError::not_found("organisation", org_or_empty(org)))?;
        let revision = Revision { epoch: number(&row, "epoch")?, version: number(&row, "version")? };
        let rows = match org {
            Some(org) => read.fetch_all(sql(OF_ORG).bind(org.as_str())).await?,
            None => read.fetch_all(sql(OF_INSTALLATION)).await?,
        };
        let mut resources = rows.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        resources.sort();
        Ok(Listing { revision, resources })
    }

    async fn changes(&self, org: Option<&OrgId>, after: Revision, limit: u32) -> Result<Changes, StoreError> {
        // One statement sees one moment: which changes are kept, and these.
        let query = "SELECT v.version AS head, v.compacted AS compacted, \
                     (SELECT value FROM meta WHERE key = 'epoch') AS epoch, c.version AS version, c.kind AS kind, \
                     c.name AS name, c.action AS action \
                     FROM versions v LEFT JOIN changes c ON c.org = v.org AND c.version > $2 \
                     WHERE v.org = $1 ORDER BY c.version LIMIT $3";
        let query = sql(query).bind(org_or_empty(org)).bind(signed(after.version)).bind(i64::from(limit.max(1)));
        let rows = self.readers().fetch_all(query).await?;
        let first = rows.first().ok_or_else(|| StoreError::not_found("organisation", org_or_empty(org)))?;
        let head = Revision { epoch: number(first, "epoch")?, version: number(first, "head")? };
        let kept = number(first, "compacted")?..=head.version;
        if after.epoch != head.epoch || !kept.contains(&after.version) {
            return Err(StoreError::Compacted);
        }
        // A join without a match is one row of nothing.
        let there = rows.iter().filter(|row| !matches!(row.some_number("version"), Ok(None)));
        Ok(Changes { changes: there.map(change).collect::<Result<_, Failed>>()?, head })
    }

    fn at_version(&self, version: u64) -> Conditional {
        let store = Arc::new(self.expecting(version));
        Conditional { identity: store.clone(), resources: store.clone(), policy: store }
    }

    fn hint(&self) -> watch::Receiver<u64> {
        self.hints().subscribe()
    }
}
