//! Certificates of the authorities.

use async_trait::async_trait;
use ztka_controller::store::AuthorityStore;
use ztka_core::{DocumentKind, OrgId};
use ztka_identity::StoreError;
use ztka_pki::{HierarchyState, OrgState};

use crate::{
    SqliteStore,
    database::{failed, taken},
    documents::touch,
    row::{json, to_json},
};

/// No organisation has this id: it is not a label.
const HIERARCHY: &str = ".hierarchy";

#[async_trait]
impl AuthorityStore for SqliteStore {
    async fn hierarchy(&self) -> Result<Option<HierarchyState>, StoreError> {
        let query = sqlx::query("SELECT body FROM authorities WHERE name = ?").bind(HIERARCHY);
        let row = query.fetch_optional(self.readers()).await.map_err(failed)?;
        row.as_ref().map(|row| json(row, "body")).transpose()
    }

    async fn create_hierarchy(&self, state: &HierarchyState) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let insert = sqlx::query("INSERT INTO authorities (name, body) VALUES (?, ?)");
        let insert = insert.bind(HIERARCHY).bind(to_json(state)?);
        insert.execute(&mut *write).await.map_err(taken("certificate authority", "root"))?;
        touch(&mut write, DocumentKind::Trust, None).await?;
        write.commit().await.map_err(failed)
    }

    async fn org_authority(&self, org: &OrgId) -> Result<Option<OrgState>, StoreError> {
        let query = sqlx::query("SELECT body FROM authorities WHERE name = ?").bind(org.as_str());
        let row = query.fetch_optional(self.readers()).await.map_err(failed)?;
        row.as_ref().map(|row| json(row, "body")).transpose()
    }

    async fn org_authorities(&self) -> Result<Vec<OrgState>, StoreError> {
        let query = sqlx::query("SELECT body FROM authorities WHERE name <> ? ORDER BY name").bind(HIERARCHY);
        let rows = query.fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(|row| json(row, "body")).collect()
    }

    async fn create_org_authority(&self, state: &OrgState) -> Result<OrgState, StoreError> {
        let mut write = self.write().await?;
        let insert = sqlx::query("INSERT OR IGNORE INTO authorities (name, body) VALUES (?, ?)");
        let insert = insert.bind(state.org.as_str()).bind(to_json(state)?);
        insert.execute(&mut *write).await.map_err(failed)?;
        let query = sqlx::query("SELECT body FROM authorities WHERE name = ?").bind(state.org.as_str());
        let kept = json(&query.fetch_one(&mut *write).await.map_err(failed)?, "body")?;
        write.commit().await.map_err(failed)?;
        Ok(kept)
    }
}
