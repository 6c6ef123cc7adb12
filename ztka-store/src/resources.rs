//! Clusters with their agents, proxies, roles and bindings.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_authz::{Binding, Role};
use ztka_controller::store::{Action, Cluster, Instance, LARGEST_POLICY, Overdue, Proxy, ResourceKind, ResourceStore};
use ztka_core::{BindingName, ClusterId, DocumentKind, InstanceId, OrgId, ProxyId, RoleName};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    bodies::Bodies,
    change::Change,
    encryption::Place,
    error::taken,
    room,
    row::{json, micros, number, some_time, text, time, to_json},
    sql::{Row, sql},
};

pub(crate) fn cluster(row: &Row) -> Result<Cluster, Failed> {
    Ok(Cluster {
        id: text(row, "id")?,
        org: text(row, "org")?,
        name: text(row, "name")?,
        labels: json(row, "labels")?,
        created: time(row, "created")?,
    })
}

fn instance(row: &Row) -> Result<Instance, Failed> {
    Ok(Instance {
        id: text(row, "id")?,
        org: text(row, "org")?,
        cluster: text(row, "cluster")?,
        not_after: time(row, "not_after")?,
        renewed: some_time(row, "renewed")?,
    })
}

pub(crate) fn proxy(row: &Row) -> Result<Proxy, Failed> {
    Ok(Proxy {
        id: text(row, "id")?,
        created: time(row, "created")?,
        not_after: some_time(row, "not_after")?,
        renewed: some_time(row, "renewed")?,
    })
}

/// Whether followers could still take the policy, with what this change has done so far: counts everything.
pub(crate) async fn need_room(change: &mut Change, org: &OrgId) -> Result<(), StoreError> {
    // What is sealed is 49 bytes longer. Beside its texts a cluster has some quotes and the words for its fields.
    let query = "SELECT (SELECT coalesce(sum(length(body) + coalesce(length(sealed) - 49, 0)), 0) FROM roles WHERE org = $1) \
                 + (SELECT coalesce(sum(length(body) + coalesce(length(sealed) - 49, 0)), 0) FROM bindings WHERE org = $1) \
                 + (SELECT coalesce(sum(length(body) + coalesce(length(sealed) - 49, 0)), 0) FROM policy_objects WHERE org = $1) \
                 + (SELECT coalesce(sum(length(id) + length(name) + length(labels) + length(namespaces) \
                    + length(coalesce(project, '')) + 62), 0) FROM clusters \
                    WHERE org = $1 AND deleted IS NULL) AS size";
    let size = number(&change.fetch_one(sql(query).bind(org.as_str())).await?, "size")?;
    room::keep(change, org, size).await?;
    if usize::try_from(size).is_ok_and(|size| size <= LARGEST_POLICY) {
        return Ok(());
    }
    let message = "the policy of the organisation would be larger than 11 MiB; delete some of it, or \
                   name less in them";
    Err(StoreError::Refused(message.into()))
}

/// Where the body of a role or binding is.
pub(crate) fn body_of<'a>(table: &'static str, org: &'a str, name: &'a str) -> Place<'a> {
    Place { org, table, column: "body", row: name }
}

#[async_trait]
impl ResourceStore for Store {
    async fn create_cluster(&self, cluster: &Cluster) -> Result<(), StoreError> {
        let (org, id) = (Some(&cluster.org), cluster.id.as_str());
        let mut change = self.change(org, Action::Created, ResourceKind::Cluster, id).await?;
        let insert = sql("INSERT INTO clusters (id, org, name, labels, created) VALUES ($1, $2, $3, $4, $5)")
            .bind(cluster.id.as_str())
            .bind(cluster.org.as_str())
            .bind(cluster.name.as_str())
            .bind(to_json(&cluster.labels)?)
            .bind(micros(cluster.created));
        change.execute(insert).await.map_err(taken("cluster", &cluster.name))?;
        room::grow(&mut change, &cluster.org, room::of_cluster(cluster)?).await?;
        // The projection of the policy to it, which is at the policy's own version from then on.
        let projection = sql("INSERT INTO series (kind, org, subject, version) VALUES ('policy', $1, $2, $3)");
        let version = change.version();
        change.execute(projection.bind(cluster.org.as_str()).bind(id).bind(version)).await?;
        change.touch(DocumentKind::Policy).await?;
        Ok(change.commit().await?)
    }

    async fn cluster(&self, id: &ClusterId) -> Result<Option<Cluster>, StoreError> {
        let query = sql("SELECT * FROM clusters WHERE id = $1 AND deleted IS NULL").bind(id.as_str());
        Ok(self.readers().fetch_optional(query).await?.as_ref().map(cluster).transpose()?)
    }

    async fn clusters(&self, org: &OrgId) -> Result<Vec<Cluster>, StoreError> {
        let query = sql("SELECT * FROM clusters WHERE org = $1 AND deleted IS NULL ORDER BY name");
        let rows = self.readers().fetch_all(query.bind(org.as_str())).await?;
        Ok(rows.iter().map(cluster).collect::<Result<_, _>>()?)
    }

    async fn delete_cluster(&self, org: &OrgId, id: &ClusterId, now: Timestamp) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Deleted, ResourceKind::Cluster, id.as_str()).await?;
        let delete = sql("UPDATE clusters SET deleted = $1 WHERE id = $2 AND org = $3 AND deleted IS NULL");
        if change.execute(delete.bind(micros(now)).bind(id.as_str()).bind(org.as_str())).await? == 0 {
            return Err(StoreError::not_found("cluster", id));
        }
        let forget = sql("DELETE FROM series WHERE kind = 'policy' AND org = $1 AND subject = $2");
        change.execute(forget.bind(org.as_str()).bind(id.as_str())).await?;
        change.touch(DocumentKind::Policy).await?;
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }

    async fn record_instance(&self, instance: &Instance) -> Result<(), StoreError> {
        let mut held = self.hold(&instance.org).await?;
        let found = sql("SELECT 1 FROM clusters WHERE id = $1 AND org = $2 AND deleted IS NULL");
        let found = found.bind(instance.cluster.as_str()).bind(instance.org.as_str());
        held.fetch_optional(found).await?.ok_or_else(|| StoreError::not_found("cluster", &instance.cluster))?;
        let insert = "INSERT INTO instances (id, org, cluster, not_after, renewed) VALUES ($1, $2, $3, $4, $5) \
                      ON CONFLICT (id) DO UPDATE SET not_after = CASE \
                          WHEN instances.not_after < excluded.not_after THEN excluded.not_after \
                          ELSE instances.not_after END, renewed = CASE \
                          WHEN instances.not_after < excluded.not_after THEN excluded.renewed \
                          ELSE instances.renewed END \
                      WHERE instances.cluster = excluded.cluster";
        let insert = sql(insert)
            .bind(instance.id.as_str())
            .bind(instance.org.as_str())
            .bind(instance.cluster.as_str())
            .bind(micros(instance.not_after))
            .bind(instance.renewed.map(micros));
        if held.execute(insert).await? == 0 {
            return Err(StoreError::exists("agent", &instance.id));
        }
        Ok(held.commit().await?)
    }

    async fn instance(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let query = sql("SELECT * FROM instances WHERE id = $1").bind(id.as_str());
        Ok(self.readers().fetch_optional(query).await?.as_ref().map(instance).transpose()?)
    }

    async fn instances(&self, cluster: &ClusterId, now: Timestamp) -> Result<Vec<Instance>, StoreError> {
        let query = sql("SELECT * FROM instances WHERE cluster = $1 AND not_after > $2 ORDER BY id");
        let rows = self.readers().fetch_all(query.bind(cluster.as_str()).bind(micros(now))).await?;
        Ok(rows.iter().map(instance).collect::<Result<_, _>>()?)
    }

    async fn create_proxy(&self, proxy: &Proxy) -> Result<(), StoreError> {
        let mut change = self.change(None, Action::Created, ResourceKind::Proxy, proxy.id.as_str()).await?;
        let insert = sql("INSERT INTO proxies (id, created, not_after, renewed) VALUES ($1, $2, $3, $4)")
            .bind(proxy.id.as_str())
            .bind(micros(proxy.created))
            .bind(proxy.not_after.map(micros))
            .bind(proxy.renewed.map(micros));
        change.execute(insert).await.map_err(taken("proxy", &proxy.id))?;
        Ok(change.commit().await?)
    }

    async fn record_proxy(&self, id: &ProxyId, renewed: Timestamp, not_after: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let update = "UPDATE proxies SET renewed = CASE WHEN not_after > $1 THEN renewed ELSE $2 END, \
                      not_after = CASE WHEN not_after > $1 THEN not_after ELSE $1 END WHERE id = $3";
        let update = sql(update).bind(micros(not_after)).bind(micros(renewed)).bind(id.as_str());
        if write.execute(update).await? == 0 {
            return Err(StoreError::not_found("proxy", id));
        }
        Ok(write.commit().await?)
    }

    async fn overdue(&self, now: Timestamp) -> Result<Overdue, StoreError> {
        // Divided first: the product of two times would be larger than a number. Not replicas: a pod that is gone never
        // renews, and what they all depend on is the cluster's own credential.
        let query = "SELECT (SELECT count(*) FROM instances i JOIN clusters c ON c.id = i.cluster \
                     WHERE c.deleted IS NULL AND i.not_after > $1 \
                     AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.id = i.id) \
                     AND $1 - i.renewed >= (i.not_after - i.renewed) / 9 * 7) AS agents, \
                     (SELECT count(*) FROM proxies WHERE not_after > $1 \
                     AND $1 - renewed >= (not_after - renewed) / 9 * 7) AS proxies";
        let row = self.readers().fetch_one(sql(query).bind(micros(now))).await?;
        Ok(Overdue { agents: number(&row, "agents")?, proxies: number(&row, "proxies")? })
    }

    async fn proxies(&self) -> Result<Vec<Proxy>, StoreError> {
        let rows = self.readers().fetch_all(sql("SELECT * FROM proxies ORDER BY created, id")).await?;
        Ok(rows.iter().map(proxy).collect::<Result<_, _>>()?)
    }

    async fn create_role(&self, org: &OrgId, name: &RoleName, role: &Role) -> Result<(), StoreError> {
        let sealer = self.sealer(org.as_str()).await?;
        let body = to_json(role)?;
        let bytes = body.len();
        let (body, sealed) = sealer.seal(body_of("roles", org.as_str(), name.as_str()), body)?;
        let mut change = self.change(Some(org), Action::Created, ResourceKind::Role, name.as_str()).await?;
        let insert = sql("INSERT INTO roles (org, name, body, sealed) VALUES ($1, $2, $3, $4)");
        let insert = insert.bind(org.as_str()).bind(name.as_str()).bind(body).bind(sealed);
        change.execute(insert).await.map_err(taken("role", name))?;
        room::grow(&mut change, org, bytes).await?;
        change.touch(DocumentKind::Policy).await?;
        Ok(change.commit().await?)
    }

    async fn roles(&self, org: &OrgId) -> Result<Vec<Role>, StoreError> {
        self.at_hand(org.as_str()).await?;
        let mut read = self.read().await?;
        let bodies = Bodies::read(self, &mut read, "roles", org.as_str()).await?;
        drop(read);
        Ok(bodies.opened(self, "roles", org.as_str()).await?)
    }

    async fn delete_role(&self, org: &OrgId, name: &RoleName) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Deleted, ResourceKind::Role, name.as_str()).await?;
        let used = sql("SELECT name FROM bindings WHERE org = $1 AND role = $2 ORDER BY name LIMIT 1");
        if let Some(row) = change.fetch_optional(used.bind(org.as_str()).bind(name.as_str())).await? {
            let binding: BindingName = text(&row, "name")?;
            let message = format!("the binding \"{binding}\" gives the role \"{name}\"; delete the binding first");
            return Err(StoreError::Refused(message));
        }
        let delete = "DELETE FROM roles WHERE org = $1 AND name = $2 \
                      RETURNING CAST(octet_length(body) + coalesce(octet_length(sealed) - 49, 0) AS BIGINT) AS size";
        let delete = sql(delete).bind(org.as_str()).bind(name.as_str());
        let deleted = change.fetch_optional(delete).await?.ok_or_else(|| StoreError::not_found("role", name))?;
        room::shrink(&mut change, org, number(&deleted, "size")?).await?;
        change.touch(DocumentKind::Policy).await?;
        Ok(change.commit().await?)
    }

    async fn create_binding(
        &self,
        org: &OrgId,
        name: &BindingName,
        binding: &Binding,
        stored_role: Option<&RoleName>,
    ) -> Result<(), StoreError> {
        let sealer = self.sealer(org.as_str()).await?;
        let body = to_json(binding)?;
        let bytes = body.len();
        let (body, sealed) = sealer.seal(body_of("bindings", org.as_str(), name.as_str()), body)?;
        let mut change = self.change(Some(org), Action::Created, ResourceKind::Binding, name.as_str()).await?;
        if let Some(role) = stored_role {
            let found = sql("SELECT 1 FROM roles WHERE org = $1 AND name = $2").bind(org.as_str()).bind(role.as_str());
            change.fetch_optional(found).await?.ok_or_else(|| StoreError::not_found("role", role))?;
        }
        let insert = sql("INSERT INTO bindings (org, name, role, body, sealed) VALUES ($1, $2, $3, $4, $5)");
        let insert = insert.bind(org.as_str()).bind(name.as_str()).bind(&binding.role).bind(body).bind(sealed);
        change.execute(insert).await.map_err(taken("binding", name))?;
        room::grow(&mut change, org, bytes).await?;
        change.touch(DocumentKind::Policy).await?;
        Ok(change.commit().await?)
    }

    async fn bindings(&self, org: &OrgId) -> Result<Vec<Binding>, StoreError> {
        self.at_hand(org.as_str()).await?;
        let mut read = self.read().await?;
        let bodies = Bodies::read(self, &mut read, "bindings", org.as_str()).await?;
        drop(read);
        Ok(bodies.opened(self, "bindings", org.as_str()).await?)
    }

    async fn delete_binding(&self, org: &OrgId, name: &BindingName) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Deleted, ResourceKind::Binding, name.as_str()).await?;
        let delete = "DELETE FROM bindings WHERE org = $1 AND name = $2 \
                      RETURNING CAST(octet_length(body) + coalesce(octet_length(sealed) - 49, 0) AS BIGINT) AS size";
        let delete = sql(delete).bind(org.as_str()).bind(name.as_str());
        let deleted = change.fetch_optional(delete).await?.ok_or_else(|| StoreError::not_found("binding", name))?;
        room::shrink(&mut change, org, number(&deleted, "size")?).await?;
        change.touch(DocumentKind::Policy).await?;
        Ok(change.commit().await?)
    }
}
