//! Clusters with their agents, proxies, roles and bindings.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use ztka_authz::{Binding, Role};
use ztka_controller::store::{Cluster, Instance, Proxy, ResourceStore};
use ztka_core::{BindingName, ClusterId, DocumentKind, OrgId, ProxyId, RoleName};
use ztka_identity::StoreError;

use crate::{
    SqliteStore,
    database::{failed, taken},
    documents::touch,
    identity::need_org,
    row::{json, micros, some_time, text, time, to_json},
};

fn cluster(row: &SqliteRow) -> Result<Cluster, StoreError> {
    Ok(Cluster {
        id: text(row, "id")?,
        org: text(row, "org")?,
        name: text(row, "name")?,
        labels: json(row, "labels")?,
        created: time(row, "created")?,
    })
}

#[async_trait]
impl ResourceStore for SqliteStore {
    async fn create_cluster(&self, cluster: &Cluster) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_org(&mut write, &cluster.org).await?;
        let sql = "INSERT INTO clusters (id, org, name, labels, created) VALUES (?, ?, ?, ?, ?)";
        let insert = sqlx::query(sql)
            .bind(cluster.id.as_str())
            .bind(cluster.org.as_str())
            .bind(cluster.name.as_str())
            .bind(to_json(&cluster.labels)?)
            .bind(micros(cluster.created));
        insert.execute(&mut *write).await.map_err(taken("cluster", &cluster.name))?;
        touch(&mut write, DocumentKind::Policy, Some(&cluster.org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn cluster(&self, id: &ClusterId) -> Result<Option<Cluster>, StoreError> {
        let query = sqlx::query("SELECT * FROM clusters WHERE id = ? AND deleted IS NULL").bind(id.as_str());
        query.fetch_optional(self.readers()).await.map_err(failed)?.as_ref().map(cluster).transpose()
    }

    async fn clusters(&self, org: &OrgId) -> Result<Vec<Cluster>, StoreError> {
        let query = sqlx::query("SELECT * FROM clusters WHERE org = ? AND deleted IS NULL ORDER BY name");
        let rows = query.bind(org.as_str()).fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(cluster).collect()
    }

    async fn delete_cluster(&self, org: &OrgId, id: &ClusterId, now: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let sql = "UPDATE clusters SET deleted = ? WHERE id = ? AND org = ? AND deleted IS NULL";
        let delete = sqlx::query(sql).bind(micros(now)).bind(id.as_str()).bind(org.as_str());
        if delete.execute(&mut *write).await.map_err(failed)?.rows_affected() == 0 {
            return Err(StoreError::not_found("cluster", id));
        }
        touch(&mut write, DocumentKind::Policy, Some(org)).await?;
        touch(&mut write, DocumentKind::Revocations, Some(org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn record_instance(&self, instance: &Instance) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let found = sqlx::query("SELECT 1 FROM clusters WHERE id = ? AND org = ? AND deleted IS NULL");
        let found = found.bind(instance.cluster.as_str()).bind(instance.org.as_str());
        if found.fetch_optional(&mut *write).await.map_err(failed)?.is_none() {
            return Err(StoreError::not_found("cluster", &instance.cluster));
        }
        let sql = "INSERT INTO instances (id, org, cluster, not_after) VALUES (?, ?, ?, ?) \
                   ON CONFLICT (id) DO UPDATE SET not_after = max(not_after, excluded.not_after) \
                   WHERE cluster = excluded.cluster";
        let insert = sqlx::query(sql)
            .bind(instance.id.as_str())
            .bind(instance.org.as_str())
            .bind(instance.cluster.as_str())
            .bind(micros(instance.not_after));
        if insert.execute(&mut *write).await.map_err(failed)?.rows_affected() == 0 {
            return Err(StoreError::exists("agent", &instance.id));
        }
        write.commit().await.map_err(failed)
    }

    async fn instances(&self, cluster: &ClusterId, now: Timestamp) -> Result<Vec<Instance>, StoreError> {
        let query = sqlx::query("SELECT * FROM instances WHERE cluster = ? AND not_after > ? ORDER BY id");
        let query = query.bind(cluster.as_str()).bind(micros(now));
        let instance = |row: &SqliteRow| {
            Ok(Instance {
                id: text(row, "id")?,
                org: text(row, "org")?,
                cluster: text(row, "cluster")?,
                not_after: time(row, "not_after")?,
            })
        };
        query.fetch_all(self.readers()).await.map_err(failed)?.iter().map(instance).collect()
    }

    async fn create_proxy(&self, proxy: &Proxy) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let insert = sqlx::query("INSERT INTO proxies (id, created, not_after) VALUES (?, ?, ?)");
        let insert = insert.bind(proxy.id.as_str()).bind(micros(proxy.created)).bind(proxy.not_after.map(micros));
        insert.execute(&mut *write).await.map_err(taken("proxy", &proxy.id))?;
        write.commit().await.map_err(failed)
    }

    async fn record_proxy(&self, id: &ProxyId, not_after: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let update = sqlx::query("UPDATE proxies SET not_after = max(coalesce(not_after, 0), ?) WHERE id = ?");
        let update = update.bind(micros(not_after)).bind(id.as_str());
        if update.execute(&mut *write).await.map_err(failed)?.rows_affected() == 0 {
            return Err(StoreError::not_found("proxy", id));
        }
        write.commit().await.map_err(failed)
    }

    async fn proxies(&self) -> Result<Vec<Proxy>, StoreError> {
        let query = sqlx::query("SELECT * FROM proxies ORDER BY created, id");
        let proxy = |row: &SqliteRow| {
            Ok(Proxy { id: text(row, "id")?, created: time(row, "created")?, not_after: some_time(row, "not_after")? })
        };
        query.fetch_all(self.readers()).await.map_err(failed)?.iter().map(proxy).collect()
    }

    async fn create_role(&self, org: &OrgId, name: &RoleName, role: &Role) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_org(&mut write, org).await?;
        let insert = sqlx::query("INSERT INTO roles (org, name, body) VALUES (?, ?, ?)");
        let insert = insert.bind(org.as_str()).bind(name.as_str()).bind(to_json(role)?);
        insert.execute(&mut *write).await.map_err(taken("role", name))?;
        touch(&mut write, DocumentKind::Policy, Some(org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn roles(&self, org: &OrgId) -> Result<Vec<Role>, StoreError> {
        let query = sqlx::query("SELECT body FROM roles WHERE org = ? ORDER BY name").bind(org.as_str());
        let rows = query.fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(|row| json(row, "body")).collect()
    }

    async fn delete_role(&self, org: &OrgId, name: &RoleName) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let used = sqlx::query("SELECT name FROM bindings WHERE org = ? AND role = ? ORDER BY name LIMIT 1");
        let used = used.bind(org.as_str()).bind(name.as_str()).fetch_optional(&mut *write).await.map_err(failed)?;
        if let Some(row) = used {
            let binding: BindingName = text(&row, "name")?;
            let message = format!("the binding \"{binding}\" gives the role \"{name}\"; delete the binding first");
            return Err(StoreError::Refused(message));
        }
        let delete = sqlx::query("DELETE FROM roles WHERE org = ? AND name = ?");
        let delete = delete.bind(org.as_str()).bind(name.as_str());
        if delete.execute(&mut *write).await.map_err(failed)?.rows_affected() == 0 {
            return Err(StoreError::not_found("role", name));
        }
        touch(&mut write, DocumentKind::Policy, Some(org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn create_binding(
        &self,
        org: &OrgId,
        name: &BindingName,
        binding: &Binding,
        stored_role: Option<&RoleName>,
    ) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_org(&mut write, org).await?;
        if let Some(role) = stored_role {
            let found = sqlx::query("SELECT 1 FROM roles WHERE org = ? AND name = ?");
            let found = found.bind(org.as_str()).bind(role.as_str());
            let found = found.fetch_optional(&mut *write).await.map_err(failed)?;
            found.ok_or_else(|| StoreError::not_found("role", role))?;
        }
        let insert = sqlx::query("INSERT INTO bindings (org, name, role, body) VALUES (?, ?, ?, ?)");
        let insert = insert.bind(org.as_str()).bind(name.as_str()).bind(&binding.role).bind(to_json(binding)?);
        insert.execute(&mut *write).await.map_err(taken("binding", name))?;
        touch(&mut write, DocumentKind::Policy, Some(org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn bindings(&self, org: &OrgId) -> Result<Vec<Binding>, StoreError> {
        let query = sqlx::query("SELECT body FROM bindings WHERE org = ? ORDER BY name").bind(org.as_str());
        let rows = query.fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(|row| json(row, "body")).collect()
    }

    async fn delete_binding(&self, org: &OrgId, name: &BindingName) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let delete = sqlx::query("DELETE FROM bindings WHERE org = ? AND name = ?");
        let delete = delete.bind(org.as_str()).bind(name.as_str());
        if delete.execute(&mut *write).await.map_err(failed)?.rows_affected() == 0 {
            return Err(StoreError::not_found("binding", name));
        }
        touch(&mut write, DocumentKind::Policy, Some(org)).await?;
        write.commit().await.map_err(failed)
    }
}
