//! Certificates of the authorities.

use async_trait::async_trait;
use ztka_controller::store::{Action, AuthorityStore, ResourceKind};
use ztka_core::{DocumentKind, OrgId};
use ztka_identity::StoreError;
use ztka_pki::{HierarchyState, OrgState};

use crate::{
    Store,
    error::taken,
    row::{json, to_json},
    sql::sql,
};

/// No organisation has this id: it is not a label.
const HIERARCHY: &str = ".hierarchy";

#[async_trait]
impl AuthorityStore for Store {
    async fn hierarchy(&self) -> Result<Option<HierarchyState>, StoreError> {
        let query = sql("SELECT body FROM authorities WHERE name = $1").bind(HIERARCHY);
        let row = self.readers().fetch_optional(query).await?;
        Ok(row.as_ref().map(|row| json(row, "body")).transpose()?)
    }

    async fn create_hierarchy(&self, state: &HierarchyState) -> Result<(), StoreError> {
        let mut change = self.change(None, Action::Created, ResourceKind::Authority, "root").await?;
        let insert = sql("INSERT INTO authorities (name, body) VALUES ($1, $2)").bind(HIERARCHY).bind(to_json(state)?);
        change.execute(insert).await.map_err(taken("certificate authority", "root"))?;
        change.touch(DocumentKind::Trust).await?;
        Ok(change.commit().await?)
    }

    async fn replace_hierarchy(&self, next: &HierarchyState, org: Option<&OrgState>) -> Result<bool, StoreError> {
        // The change has the installation to itself, so that nobody comes between reading and writing.
        let mut change = self.change(None, Action::Updated, ResourceKind::Authority, "root").await?;
        let query = sql("SELECT body FROM authorities WHERE name = $1").bind(HIERARCHY);
        let Some(row) = change.fetch_optional(query).await? else { return Ok(false) };
        let kept: HierarchyState = json(&row, "body")?;
        if kept.generation.checked_add(1) != Some(next.generation) {
            return Ok(false);
        }
        let update = sql("UPDATE authorities SET body = $1 WHERE name = $2").bind(to_json(next)?).bind(HIERARCHY);
        change.execute(update).await?;
        if let Some(org) = org {
            let upsert = "INSERT INTO authorities (name, body) VALUES ($1, $2) \
                          ON CONFLICT (name) DO UPDATE SET body = excluded.body";
            change.execute(sql(upsert).bind(org.org.as_str()).bind(to_json(org)?)).await?;
        }
        change.touch(DocumentKind::Trust).await?;
        change.commit().await?;
        Ok(true)
    }

    async fn org_authority(&self, org: &OrgId) -> Result<Option<OrgState>, StoreError> {
        let query = sql("SELECT body FROM authorities WHERE name = $1").bind(org.as_str());
        let row = self.readers().fetch_optional(query).await?;
        Ok(row.as_ref().map(|row| json(row, "body")).transpose()?)
    }

    async fn org_authorities(&self) -> Result<Vec<OrgState>, StoreError> {
        let query = sql("SELECT body FROM authorities WHERE name <> $1 ORDER BY name").bind(HIERARCHY);
        let rows = self.readers().fetch_all(query).await?;
        Ok(rows.iter().map(|row| json(row, "body")).collect::<Result<_, _>>()?)
    }

    async fn create_org_authority(&self, state: &OrgState) -> Result<OrgState, StoreError> {
        let mut write = self.write().await?;
        let insert = sql("INSERT INTO authorities (name, body) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        write.execute(insert.bind(state.org.as_str()).bind(to_json(state)?)).await?;
        let query = sql("SELECT body FROM authorities WHERE name = $1").bind(state.org.as_str());
        let kept = json(&write.fetch_one(query).await?, "body")?;
        write.commit().await?;
        Ok(kept)
    }

    async fn exchange_org_authority(&self, before: &OrgState, after: &OrgState) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let query = sql("SELECT body FROM authorities WHERE name = $1").bind(before.org.as_str());
        let Some(row) = write.fetch_optional(query).await? else { return Ok(false) };
        if json::<OrgState>(&row, "body")? != *before {
            return Ok(false);
        }
        // As it was read: of two at once, one finds it so.
        let update = sql("UPDATE authorities SET body = $1 WHERE name = $2 AND body = $3");
        let update = update.bind(to_json(after)?).bind(before.org.as_str()).bind(row.str("body")?.to_owned());
        let changed = write.execute(update).await?;
        write.commit().await?;
        Ok(changed > 0)
    }
}
