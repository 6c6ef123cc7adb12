//! Organisations, users, groups, credentials and sessions.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};
use ztka_core::{CredentialId, DocumentKind, GroupName, OrgId, UserId, UserName};
use ztka_identity::{AdminRole, Credential, Group, IdentityStore, LoginSession, Org, StoreError, User};

use crate::{
    SqliteStore,
    database::{failed, taken},
    documents::{next_version, touch},
    row::{corrupt, micros, some_time, text, time},
};

fn org(row: &SqliteRow) -> Result<Org, StoreError> {
    Ok(Org { id: text(row, "id")?, name: text(row, "name")?, created: time(row, "created")? })
}

fn admin_word(admin: AdminRole) -> &'static str {
    match admin {
        AdminRole::SystemAdmin => "system-admin",
        AdminRole::OrgAdmin => "org-admin",
    }
}

fn user(row: &SqliteRow) -> Result<User, StoreError> {
    let admin: Option<&str> = row.try_get("admin").map_err(failed)?;
    let admin = match admin {
        None => None,
        Some("system-admin") => Some(AdminRole::SystemAdmin),
        Some("org-admin") => Some(AdminRole::OrgAdmin),
        Some(_) => return Err(corrupt("admin")),
    };
    Ok(User {
        id: text(row, "id")?,
        org: text(row, "org")?,
        name: text(row, "name")?,
        admin,
        disabled: some_time(row, "disabled")?,
        created: time(row, "created")?,
    })
}

fn credential(row: &SqliteRow) -> Result<Credential, StoreError> {
    Ok(Credential {
        id: text(row, "id")?,
        org: text(row, "org")?,
        user: text(row, "user")?,
        created: time(row, "created")?,
        not_after: time(row, "not_after")?,
        revoked: some_time(row, "revoked")?,
    })
}

type Write = Transaction<'static, Sqlite>;

/// The organisation has to be there.
pub(crate) async fn need_org(write: &mut Write, org: &OrgId) -> Result<(), StoreError> {
    let found = sqlx::query("SELECT 1 FROM orgs WHERE id = ?").bind(org.as_str());
    let found = found.fetch_optional(&mut **write).await.map_err(failed)?;
    found.map(drop).ok_or_else(|| StoreError::not_found("organisation", org))
}

/// The user has to be there; the row has all of their columns.
async fn need_user(write: &mut Write, id: &UserId) -> Result<User, StoreError> {
    let found = sqlx::query("SELECT * FROM users WHERE id = ?").bind(id.as_str());
    let found = found.fetch_optional(&mut **write).await.map_err(failed)?;
    found.as_ref().map(user).transpose()?.ok_or_else(|| StoreError::not_found("user", id))
}

/// The session documents of a user say something new.
async fn touch_sessions(write: &mut Write, user: &UserId) -> Result<(), StoreError> {
    let version = next_version(write).await?;
    let sql = "UPDATE series SET version = ? WHERE kind = 'session' AND org = (SELECT org FROM users WHERE id = ?) AND \
               subject IN (SELECT id FROM credentials WHERE user = ?)";
    let done = sqlx::query(sql).bind(version).bind(user.as_str()).bind(user.as_str()).execute(&mut **write).await;
    done.map(drop).map_err(failed)
}

async fn need_membership(write: &mut Write, org: &OrgId, group: &GroupName, member: &UserId) -> Result<(), StoreError> {
    if need_user(write, member).await?.org != *org {
        return Err(StoreError::not_found("user", member));
    }
    let found = sqlx::query("SELECT 1 FROM user_groups WHERE org = ? AND name = ?");
    let found = found.bind(org.as_str()).bind(group.as_str()).fetch_optional(&mut **write).await.map_err(failed)?;
    found.map(drop).ok_or_else(|| StoreError::not_found("group", group))
}

#[async_trait]
impl IdentityStore for SqliteStore {
    async fn create_org(&self, org: &Org) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let insert = sqlx::query("INSERT INTO orgs (id, name, created) VALUES (?, ?, ?)");
        let insert = insert.bind(org.id.as_str()).bind(org.name.as_str()).bind(micros(org.created));
        insert.execute(&mut *write).await.map_err(taken("organisation", &org.name))?;
        touch(&mut write, DocumentKind::Policy, Some(&org.id)).await?;
        touch(&mut write, DocumentKind::Revocations, Some(&org.id)).await?;
        write.commit().await.map_err(failed)
    }

    async fn org(&self, id: &OrgId) -> Result<Option<Org>, StoreError> {
        let query = sqlx::query("SELECT * FROM orgs WHERE id = ?").bind(id.as_str());
        query.fetch_optional(self.readers()).await.map_err(failed)?.as_ref().map(org).transpose()
    }

    async fn orgs(&self) -> Result<Vec<Org>, StoreError> {
        let rows = sqlx::query("SELECT * FROM orgs ORDER BY name").fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(org).collect()
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_org(&mut write, &user.org).await?;
        let sql = "INSERT INTO users (id, org, name, admin, disabled, created) VALUES (?, ?, ?, ?, ?, ?)";
        let insert = sqlx::query(sql)
            .bind(user.id.as_str())
            .bind(user.org.as_str())
            .bind(user.name.as_str())
            .bind(user.admin.map(admin_word))
            .bind(user.disabled.map(micros))
            .bind(micros(user.created));
        insert.execute(&mut *write).await.map_err(taken("user", &user.name))?;
        write.commit().await.map_err(failed)
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        let query = sqlx::query("SELECT * FROM users WHERE id = ?").bind(id.as_str());
        query.fetch_optional(self.readers()).await.map_err(failed)?.as_ref().map(user).transpose()
    }

    async fn user_named(&self, org: &OrgId, name: &UserName) -> Result<Option<User>, StoreError> {
        let query = sqlx::query("SELECT * FROM users WHERE org = ? AND name = ?");
        let query = query.bind(org.as_str()).bind(name.as_str());
        query.fetch_optional(self.readers()).await.map_err(failed)?.as_ref().map(user).transpose()
    }

    async fn users(&self, org: &OrgId) -> Result<Vec<User>, StoreError> {
        let query = sqlx::query("SELECT * FROM users WHERE org = ? ORDER BY name").bind(org.as_str());
        query.fetch_all(self.readers()).await.map_err(failed)?.iter().map(user).collect()
    }

    async fn disable_user(&self, id: &UserId, now: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let org = need_user(&mut write, id).await?.org;
        let update = sqlx::query("UPDATE users SET disabled = coalesce(disabled, ?) WHERE id = ?");
        update.bind(micros(now)).bind(id.as_str()).execute(&mut *write).await.map_err(failed)?;
        let sql = "UPDATE sessions SET active_until = min(active_until, ?) \
                   WHERE credential IN (SELECT id FROM credentials WHERE user = ?)";
        let end = sqlx::query(sql).bind(micros(now)).bind(id.as_str());
        end.execute(&mut *write).await.map_err(failed)?;
        touch_sessions(&mut write, id).await?;
        touch(&mut write, DocumentKind::Revocations, Some(&org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn enable_user(&self, id: &UserId) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let org = need_user(&mut write, id).await?.org;
        let update = sqlx::query("UPDATE users SET disabled = NULL WHERE id = ?").bind(id.as_str());
        update.execute(&mut *write).await.map_err(failed)?;
        touch(&mut write, DocumentKind::Revocations, Some(&org)).await?;
        write.commit().await.map_err(failed)
    }

    async fn create_group(&self, org: &OrgId, name: &GroupName) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_org(&mut write, org).await?;
        let insert = sqlx::query("INSERT INTO user_groups (org, name) VALUES (?, ?)");
        let insert = insert.bind(org.as_str()).bind(name.as_str());
        insert.execute(&mut *write).await.map_err(taken("group", name))?;
        write.commit().await.map_err(failed)
    }

    async fn groups(&self, org: &OrgId) -> Result<Vec<Group>, StoreError> {
        let sql = "SELECT g.name AS name, m.user AS user FROM user_groups g \
                   LEFT JOIN members m ON m.org = g.org AND m.group_name = g.name \
                   WHERE g.org = ? ORDER BY g.name, m.user";
        let rows = sqlx::query(sql).bind(org.as_str()).fetch_all(self.readers()).await.map_err(failed)?;
        let mut groups: Vec<Group> = Vec::new();
        for row in &rows {
            let name: GroupName = text(row, "name")?;
            let is_next = groups.last().is_none_or(|last| last.name != name);
            if is_next {
                groups.push(Group { org: org.clone(), name, members: Vec::new() });
            }
            let has_member = row.try_get::<Option<&str>, _>("user").map_err(failed)?.is_some();
            if let (true, Some(group)) = (has_member, groups.last_mut()) {
                group.members.push(text(row, "user")?);
            }
        }
        Ok(groups)
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<GroupName>, StoreError> {
        let query = sqlx::query("SELECT group_name FROM members WHERE user = ? ORDER BY group_name");
        let rows = query.bind(user.as_str()).fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(|row| text(row, "group_name")).collect()
    }

    async fn add_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_membership(&mut write, org, group, user).await?;
        let insert = sqlx::query("INSERT OR IGNORE INTO members (org, group_name, user) VALUES (?, ?, ?)");
        let insert = insert.bind(org.as_str()).bind(group.as_str()).bind(user.as_str());
        insert.execute(&mut *write).await.map_err(failed)?;
        touch_sessions(&mut write, user).await?;
        write.commit().await.map_err(failed)
    }

    async fn remove_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        need_membership(&mut write, org, group, user).await?;
        let delete = sqlx::query("DELETE FROM members WHERE org = ? AND group_name = ? AND user = ?");
        let delete = delete.bind(org.as_str()).bind(group.as_str()).bind(user.as_str());
        delete.execute(&mut *write).await.map_err(failed)?;
        touch_sessions(&mut write, user).await?;
        write.commit().await.map_err(failed)
    }

    async fn create_credential(&self, credential: &Credential, session: &LoginSession) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let owner = need_user(&mut write, &credential.user).await?;
        if owner.org != credential.org {
            return Err(StoreError::not_found("user", &credential.user));
        }
        if owner.disabled.is_some() {
            let message = format!("the user {:?} is disabled; enable the user first", owner.name.as_str());
            return Err(StoreError::Refused(message));
        }
        let sql = "INSERT INTO credentials (id, org, user, created, not_after, revoked) VALUES (?, ?, ?, ?, ?, ?)";
        let insert = sqlx::query(sql)
            .bind(credential.id.as_str())
            .bind(credential.org.as_str())
            .bind(credential.user.as_str())
            .bind(micros(credential.created))
            .bind(micros(credential.not_after))
            .bind(credential.revoked.map(micros));
        insert.execute(&mut *write).await.map_err(taken("credential", &credential.id))?;
        let insert = sqlx::query("INSERT INTO sessions (credential, active_until) VALUES (?, ?)");
        let insert = insert.bind(session.credential.as_str()).bind(micros(session.active_until));
        insert.execute(&mut *write).await.map_err(failed)?;
        let version = next_version(&mut write).await?;
        let sql = "INSERT INTO series (kind, org, subject, version, ends) VALUES ('session', ?, ?, ?, ?)";
        let insert = sqlx::query(sql)
            .bind(credential.org.as_str())
            .bind(credential.id.as_str())
            .bind(version)
            .bind(micros(credential.not_after));
        insert.execute(&mut *write).await.map_err(failed)?;
        write.commit().await.map_err(failed)
    }

    async fn credential(&self, id: &CredentialId) -> Result<Option<(Credential, LoginSession)>, StoreError> {
        let sql = "SELECT c.*, s.active_until FROM credentials c JOIN sessions s ON s.credential = c.id WHERE c.id = ?";
        let found = sqlx::query(sql).bind(id.as_str()).fetch_optional(self.readers()).await.map_err(failed)?;
        let Some(row) = found else { return Ok(None) };
        let session = LoginSession { credential: id.clone(), active_until: time(&row, "active_until")? };
        Ok(Some((credential(&row)?, session)))
    }

    async fn credentials(&self, user: &UserId) -> Result<Vec<Credential>, StoreError> {
        let query = sqlx::query("SELECT * FROM credentials WHERE user = ? ORDER BY created DESC, id DESC");
        let rows = query.bind(user.as_str()).fetch_all(self.readers()).await.map_err(failed)?;
        rows.iter().map(credential).collect()
    }

    async fn revoke_credential(&self, id: &CredentialId, now: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let sql = "UPDATE credentials SET revoked = coalesce(revoked, ?) WHERE id = ? RETURNING org";
        let update = sqlx::query(sql).bind(micros(now)).bind(id.as_str());
        let updated = update.fetch_optional(&mut *write).await.map_err(failed)?;
        let org: OrgId = text(&updated.ok_or_else(|| StoreError::not_found("credential", id))?, "org")?;
        let end = sqlx::query("UPDATE sessions SET active_until = min(active_until, ?) WHERE credential = ?");
        end.bind(micros(now)).bind(id.as_str()).execute(&mut *write).await.map_err(failed)?;
        let version = next_version(&mut write).await?;
        let raise = sqlx::query("UPDATE series SET version = ? WHERE kind = 'session' AND org = ? AND subject = ?");
        let raise = raise.bind(version).bind(org.as_str()).bind(id.as_str());
        raise.execute(&mut *write).await.map_err(failed)?;
        touch(&mut write, DocumentKind::Revocations, Some(&org)).await?;
        write.commit().await.map_err(failed)
    }
}
