//! Lists in pages: keyset queries, one row more than asked for.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_authz::{Binding, Role};
use ztka_controller::store::{Cluster, Deletion, Page, PageStore, Paged, Proxy, Revocation};
use ztka_core::{OrgId, UserId};
use ztka_identity::{Credential, Group, Org, StoreError, User};

use crate::{
    Failed, Store,
    bodies::Bodies,
    identity, jobs, resources, revocations,
    row::{micros, org_or_empty},
    sql::{Row, Statement, sql},
};

/// Where a list goes on that is ordered by a time and by more.
struct After<const N: usize> {
    time: i64,
    rest: [String; N],
}

impl<const N: usize> After<N> {
    /// From `begin` on if there is no key yet.
    fn of(page: &Page, begin: i64) -> Result<Self, StoreError> {
        let Some(key) = &page.after else { return Ok(Self { time: begin, rest: [const { String::new() }; N] }) };
        let mut parts = key.splitn(N + 1, ' ');
        let time = parts.next().and_then(|time| time.parse().ok());
        let rest: Vec<String> = parts.map(str::to_owned).collect();
        match (time, <[String; N]>::try_from(rest)) {
            (Some(time), Ok(rest)) => Ok(Self { time, rest }),
            _ => Err(StoreError::Refused("no page of this list ends there; begin with the first one".into())),
        }
    }
}

fn key<const N: usize>(time: Timestamp, rest: [&str; N]) -> String {
    format!("{} {}", micros(time), rest.join(" "))
}

/// The name or id that the page comes after: nothing is called `''`.
fn name(page: &Page) -> &str {
    page.after.as_deref().unwrap_or_default()
}

/// One more, to see whether there are more.
fn rows(page: &Page) -> i64 {
    i64::from(page.limit) + 1
}

fn paged<T>(
    found: &[Row],
    page: &Page,
    read: impl Fn(&Row) -> Result<T, Failed>,
    key: impl Fn(&T) -> String,
) -> Result<Paged<T>, StoreError> {
    Ok(Paged::of(found.iter().map(read).collect::<Result<_, _>>()?, page, key))
}

impl Store {
    async fn bodies_page<T: serde::de::DeserializeOwned + Send>(
        &self,
        table: &'static str,
        org: &OrgId,
        page: &Page,
        some: Statement,
    ) -> Result<Vec<T>, StoreError> {
        let some = some.bind(org.as_str()).bind(name(page)).bind(rows(page));
        let rows = self.readers().fetch_all(some).await?;
        Ok(Bodies::of(self, table, org.as_str(), &rows)?.opened(self, table, org.as_str()).await?)
    }
}

#[async_trait]
impl PageStore for Store {
    async fn orgs_page(&self, page: &Page) -> Result<Paged<Org>, StoreError> {
        let query = sql("SELECT * FROM orgs WHERE deleted IS NULL AND name > $1 ORDER BY name LIMIT $2");
        let found = self.readers().fetch_all(query.bind(name(page)).bind(rows(page))).await?;
        paged(&found, page, identity::org, |org| org.name.to_string())
    }

    async fn users_page(&self, org: &OrgId, page: &Page) -> Result<Paged<User>, StoreError> {
        let query = sql("SELECT * FROM users WHERE org = $1 AND id > $2 ORDER BY id LIMIT $3");
        let found = self.readers().fetch_all(query.bind(org.as_str()).bind(name(page)).bind(rows(page))).await?;
        let mut users = Vec::with_capacity(found.len());
        for row in &found {
            users.push(self.read_user(row).await?);
        }
        Ok(Paged::of(users, page, |user| user.id.to_string()))
    }

    async fn groups_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Group>, StoreError> {
        let query = "SELECT g.name AS name, m.user_id AS user_id FROM (SELECT org, name FROM user_groups \
                     WHERE org = $1 AND name > $2 ORDER BY name LIMIT $3) g \
                     LEFT JOIN members m ON m.org = g.org AND m.group_name = g.name ORDER BY g.name, m.user_id";
        let query = sql(query).bind(org.as_str()).bind(name(page)).bind(rows(page));
        let found = self.readers().fetch_all(query).await?;
        Ok(Paged::of(identity::groups(org, &found)?, page, |group| group.name.to_string()))
    }

    async fn credentials_page(&self, user: &UserId, page: &Page) -> Result<Paged<Credential>, StoreError> {
        let After { time, rest: [id] } = After::of(page, i64::MAX)?;
        let query = "SELECT * FROM credentials WHERE user_id = $1 AND (created < $2 OR (created = $2 AND id > $3)) \
                     ORDER BY created DESC, id LIMIT $4";
        let query = sql(query).bind(user.as_str()).bind(time).bind(id).bind(rows(page));
        let found = self.readers().fetch_all(query).await?;
        paged(&found, page, identity::credential, |held| key(held.created, [held.id.as_str()]))
    }

    async fn clusters_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Cluster>, StoreError> {
        let query = "SELECT * FROM clusters WHERE org = $1 AND deleted IS NULL AND name > $2 ORDER BY name LIMIT $3";
        let query = sql(query).bind(org.as_str()).bind(name(page)).bind(rows(page));
        let found = self.readers().fetch_all(query).await?;
        paged(&found, page, resources::cluster, |cluster| cluster.name.to_string())
    }

    async fn roles_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Role>, StoreError> {
        let some = "SELECT name, body, sealed FROM roles WHERE org = $1 AND name > $2 ORDER BY name LIMIT $3";
        let roles = self.bodies_page("roles", org, page, sql(some)).await?;
        Ok(Paged::of(roles, page, |role: &Role| role.name.clone()))
    }

    async fn bindings_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Binding>, StoreError> {
        let some = "SELECT name, body, sealed FROM bindings WHERE org = $1 AND name > $2 ORDER BY name LIMIT $3";
        let bindings = self.bodies_page("bindings", org, page, sql(some)).await?;
        Ok(Paged::of(bindings, page, |binding: &Binding| binding.name.clone()))
    }

    async fn proxies_page(&self, page: &Page) -> Result<Paged<Proxy>, StoreError> {
        let After { time, rest: [id] } = After::of(page, i64::MIN)?;
        let query =
            "SELECT * FROM proxies WHERE created > $1 OR (created = $1 AND id > $2) ORDER BY created, id LIMIT $3";
        let found = self.readers().fetch_all(sql(query).bind(time).bind(id).bind(rows(page))).await?;
        paged(&found, page, resources::proxy, |proxy| key(proxy.created, [proxy.id.as_str()]))
    }

    async fn revocations_page(
        &self,
        org: Option<&OrgId>,
        now: Timestamp,
        page: &Page,
    ) -> Result<Paged<Revocation>, StoreError> {
        let After { time, rest: [kind, named] } = After::of(page, i64::MIN)?;
        let query = "SELECT * FROM revocations WHERE org = $1 AND (ends IS NULL OR ends > $2) \
                     AND (since > $3 OR (since = $3 AND (kind > $4 OR (kind = $4 AND name > $5)))) \
                     ORDER BY since, kind, name LIMIT $6";
        let query = sql(query).bind(org_or_empty(org)).bind(micros(now)).bind(time).bind(kind).bind(named);
        let found = self.readers().fetch_all(query.bind(rows(page))).await?;
        paged(&found, page, revocations::revocation, |revoked| {
            key(revoked.since, [revoked.what.kind(), revoked.what.name()])
        })
    }

    async fn deletions_page(&self, page: &Page) -> Result<Paged<Deletion>, StoreError> {
        let After { time, rest: [org] } = After::of(page, i64::MAX)?;
        let query = "SELECT d.org AS org, d.since AS since, d.finished AS finished, d.removed AS removed, j.failed AS failed \
                     FROM deleted_orgs d LEFT JOIN jobs j ON j.kind = 'delete-org' AND j.subject = d.org \
                     WHERE d.since < $1 OR (d.since = $1 AND d.org > $2) ORDER BY d.since DESC, d.org LIMIT $3";
        let found = self.readers().fetch_all(sql(query).bind(time).bind(org).bind(rows(page))).await?;
        paged(&found, page, jobs::deletion, |gone| key(gone.since, [gone.org.as_str()]))
    }
}
