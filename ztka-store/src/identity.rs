//! Organisations, users, groups, credentials and sessions.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_controller::store::{Action, ResourceKind};
use ztka_core::{Attributes, CredentialId, DocumentKind, GroupName, OrgId, UserId, UserName};
use ztka_identity::{AdminRole, Credential, Directory, Group, IdentityStore, LoginSession, Org, StoreError, User};

use crate::{
    Failed, Store,
    change::Change,
    encryption::{Place, Sealer},
    error::taken,
    row::{micros, number, some_time, text, time, to_json},
    sql::{Row, sql},
};

pub(crate) fn org(row: &Row) -> Result<Org, Failed> {
    Ok(Org {
        id: text(row, "id")?,
        name: text(row, "name")?,
        created: time(row, "created")?,
        longest_credential: row.some_number("longest_credential")?.map(SignedDuration::from_secs),
    })
}

fn admin_word(admin: AdminRole) -> &'static str {
    match admin {
        AdminRole::SystemAdmin => "system-admin",
        AdminRole::OrgAdmin => "org-admin",
    }
}

fn user(row: &Row, name: UserName, attributes: Attributes) -> Result<User, Failed> {
    let admin = match row.some_str("admin")? {
        None => None,
        Some("system-admin") => Some(AdminRole::SystemAdmin),
        Some("org-admin") => Some(AdminRole::OrgAdmin),
        Some(_) => return Err(Failed::Corrupt("admin")),
    };
    Ok(User {
        id: text(row, "id")?,
        org: text(row, "org")?,
        name,
        admin,
        attributes,
        disabled: some_time(row, "disabled")?,
        created: time(row, "created")?,
    })
}

pub(crate) fn credential(row: &Row) -> Result<Credential, Failed> {
    Ok(Credential {
        id: text(row, "id")?,
        org: text(row, "org")?,
        user: text(row, "user_id")?,
        created: time(row, "created")?,
        not_after: time(row, "not_after")?,
        renewed: some_time(row, "renewed")?,
        last_used: some_time(row, "last_used")?,
        revoked: some_time(row, "revoked")?,
    })
}

/// The groups of these rows, each of which is a member, or a group without any.
pub(crate) fn groups(org: &OrgId, rows: &[Row]) -> Result<Vec<Group>, Failed> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let name: GroupName = text(row, "name")?;
        let is_next = groups.last().is_none_or(|last| last.name != name);
        if is_next {
            groups.push(Group { org: org.clone(), name, members: Vec::new() });
        }
        let has_member = row.some_str("user_id")?.is_some();
        if let (true, Some(group)) = (has_member, groups.last_mut()) {
            group.members.push(text(row, "user_id")?);
        }
    }
    Ok(groups)
}

/// Where the name of a user is.
pub(crate) fn name_of<'a>(org: &'a str, user: &'a str) -> Place<'a> {
    Place { org, table: "users", column: "name", row: user }
}

/// Where the attributes of a user are.
fn attributes_of<'a>(org: &'a str, user: &'a str) -> Place<'a> {
    Place { org, table: "users", column: "attributes", row: user }
}

/// The columns of a user's attributes; there is nothing to hide where there is none.
fn written(sealer: &Sealer, user: &User, attributes: &Attributes) -> Result<(String, Option<Vec<u8>>), Failed> {
    let text = to_json(attributes)?;
    match attributes.is_empty() {
        true => Ok((text, None)),
        false => sealer.seal(attributes_of(user.org.as_str(), user.id.as_str()), text),
    }
}

impl Store {
    /// The attributes of user `id`, from a row that has their columns.
    pub(crate) async fn read_attributes(&self, org: &str, id: &str, row: &Row) -> Result<Attributes, Failed> {
        let text = self.text_at(attributes_of(org, id), row, "attributes", "sealed_attributes").await?;
        serde_json::from_str(&text).map_err(|_| Failed::Corrupt("attributes"))
    }

    pub(crate) async fn read_user(&self, row: &Row) -> Result<User, Failed> {
        let place = name_of(row.str("org")?, row.str("id")?);
        let name = self.text_at(place, row, "name", "sealed").await?;
        let attributes = self.read_attributes(row.str("org")?, row.str("id")?, row).await?;
        user(row, name.parse().map_err(|_| Failed::Corrupt("name"))?, attributes)
    }

    async fn some_user(&self, row: Option<Row>) -> Result<Option<User>, Failed> {
        match row {
            Some(row) => self.read_user(&row).await.map(Some),
            None => Ok(None),
        }
    }

    /// The user has to be there.
    async fn need_user(&self, change: &mut Change, id: &UserId) -> Result<User, StoreError> {
        let row = change.fetch_optional(sql("SELECT * FROM users WHERE id = $1").bind(id.as_str())).await?;
        self.some_user(row).await?.ok_or_else(|| StoreError::not_found("user", id))
    }

    /// A change of the organisation that the user belongs to, which a user never leaves.
    async fn change_of_user(&self, id: &UserId) -> Result<Change, StoreError> {
        let missing = || StoreError::not_found("user", id);
        let found = self.user(id).await?.ok_or_else(missing)?;
        let mut change = self.change(Some(&found.org), Action::Updated, ResourceKind::User, id.as_str()).await?;
        self.need_user(&mut change, id).await?;
        Ok(change)
    }
}

fn disabled(user: &User) -> StoreError {
    StoreError::Refused(format!("the user {:?} is disabled; enable the user first", user.name.as_str()))
}

fn too_many() -> StoreError {
    let most = Directory::MOST_CREDENTIALS;
    StoreError::Refused(format!(
        "the user has {most} credentials that are not over, and may not have more; ask for shorter ones, and wait until \
         some are over"
    ))
}

/// The session documents of a user say something new.
async fn touch_sessions(change: &mut Change, user: &UserId) -> Result<(), Failed> {
    let touch = "UPDATE series SET version = $1 WHERE kind = 'session' AND org = (SELECT org FROM users WHERE id = $2) \
                 AND subject IN (SELECT id FROM credentials WHERE user_id = $2)";
    let touch = sql(touch).bind(change.version()).bind(user.as_str());
    change.execute(touch).await.map(drop)
}

/// Group and user have to be there and of this organisation.
async fn need_membership(
    change: &mut Change,
    org: &OrgId,
    group: &GroupName,
    member: &UserId,
) -> Result<(), StoreError> {
    let of_org = sql("SELECT 1 FROM users WHERE id = $1 AND org = $2").bind(member.as_str()).bind(org.as_str());
    if change.fetch_optional(of_org).await?.is_none() {
        return Err(StoreError::not_found("user", member));
    }
    let found = sql("SELECT 1 FROM user_groups WHERE org = $1 AND name = $2").bind(org.as_str()).bind(group.as_str());
    change.fetch_optional(found).await?.map(drop).ok_or_else(|| StoreError::not_found("group", group))
}

#[async_trait]
impl IdentityStore for Store {
    async fn create_org(&self, org: &Org) -> Result<(), StoreError> {
        let mut change = self.change(None, Action::Created, ResourceKind::Org, org.id.as_str()).await?;
        let insert = sql("INSERT INTO orgs (id, name, created) VALUES ($1, $2, $3)");
        let insert = insert.bind(org.id.as_str()).bind(org.name.as_str()).bind(micros(org.created));
        change.execute(insert).await.map_err(taken("organisation", &org.name))?;
        change.first_of(&org.id).await?;
        change.touch(DocumentKind::Policy).await?;
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }

    async fn org(&self, id: &OrgId) -> Result<Option<Org>, StoreError> {
        let query = sql("SELECT * FROM orgs WHERE id = $1 AND deleted IS NULL").bind(id.as_str());
        Ok(self.readers().fetch_optional(query).await?.as_ref().map(org).transpose()?)
    }

    async fn orgs(&self) -> Result<Vec<Org>, StoreError> {
        let rows = self.readers().fetch_all(sql("SELECT * FROM orgs WHERE deleted IS NULL ORDER BY name")).await?;
        Ok(rows.iter().map(org).collect::<Result<_, _>>()?)
    }

    async fn limit_credentials(&self, org: &OrgId, longest: Option<SignedDuration>) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Updated, ResourceKind::Org, org.as_str()).await?;
        let update = sql("UPDATE orgs SET longest_credential = $1 WHERE id = $2");
        let update = update.bind(longest.map(|longest| longest.as_secs())).bind(org.as_str());
        if change.execute(update).await? == 0 {
            return Err(StoreError::not_found("organisation", org));
        }
        Ok(change.commit().await?)
    }

    async fn delete_org(&self, org: &OrgId, now: Timestamp) -> Result<(), StoreError> {
        self.begin_deletion(org, now).await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let (org, id) = (Some(&user.org), user.id.as_str());
        let sealer = self.sealer(user.org.as_str()).await?;
        let (_, sealed) = sealer.seal(name_of(user.org.as_str(), id), user.name.to_string())?;
        let (attributes, sealed_attributes) = written(&sealer, user, &user.attributes)?;
        let mut change = self.change(org, Action::Created, ResourceKind::User, id).await?;
        // One from before may be in clear still, where a blind index is not the same.
        let clear = sql("SELECT 1 FROM users WHERE org = $1 AND name = $2");
        if change.fetch_optional(clear.bind(user.org.as_str()).bind(user.name.as_str())).await?.is_some() {
            return Err(StoreError::exists("user", &user.name));
        }
        let insert = "INSERT INTO users (id, org, name, sealed, admin, disabled, created, attributes, sealed_attributes) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let insert = sql(insert)
            .bind(user.id.as_str())
            .bind(user.org.as_str())
            .bind(sealer.searchable("users.name", user.name.as_str()))
            .bind(sealed)
            .bind(user.admin.map(admin_word))
            .bind(user.disabled.map(micros))
            .bind(micros(user.created))
            .bind(attributes)
            .bind(sealed_attributes);
        change.execute(insert).await.map_err(taken("user", &user.name))?;
        Ok(change.commit().await?)
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        let query = sql("SELECT * FROM users WHERE id = $1").bind(id.as_str());
        Ok(self.some_user(self.readers().fetch_optional(query).await?).await?)
    }

    async fn user_named(&self, org: &OrgId, name: &UserName) -> Result<Option<User>, StoreError> {
        let sealer = self.sealer(org.as_str()).await?;
        let query = sql("SELECT * FROM users WHERE org = $1 AND (name = $2 OR name = $3)")
            .bind(org.as_str())
            .bind(name.as_str())
            .bind(sealer.searchable("users.name", name.as_str()));
        Ok(self.some_user(self.readers().fetch_optional(query).await?).await?)
    }

    async fn users(&self, org: &OrgId) -> Result<Vec<User>, StoreError> {
        let query = sql("SELECT * FROM users WHERE org = $1").bind(org.as_str());
        let mut users = Vec::new();
        for row in self.readers().fetch_all(query).await? {
            users.push(self.read_user(&row).await?);
        }
        // Here, since the database does not know the names.
        users.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(users)
    }

    async fn disable_user(&self, id: &UserId, now: Timestamp) -> Result<(), StoreError> {
        let mut change = self.change_of_user(id).await?;
        let update = sql("UPDATE users SET disabled = coalesce(disabled, $1) WHERE id = $2");
        change.execute(update.bind(micros(now)).bind(id.as_str())).await?;
        let end = "UPDATE sessions SET active_until = $1 WHERE active_until > $1 \
                   AND credential IN (SELECT id FROM credentials WHERE user_id = $2)";
        change.execute(sql(end).bind(micros(now)).bind(id.as_str())).await?;
        touch_sessions(&mut change, id).await?;
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }

    async fn enable_user(&self, id: &UserId) -> Result<(), StoreError> {
        let mut change = self.change_of_user(id).await?;
        change.execute(sql("UPDATE users SET disabled = NULL WHERE id = $1").bind(id.as_str())).await?;
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }

    async fn set_attributes(&self, id: &UserId, before: &Attributes, after: &Attributes) -> Result<bool, StoreError> {
        let found = self.user(id).await?.ok_or_else(|| StoreError::not_found("user", id))?;
        // Sealed first: a new data key is a transaction of its own.
        let (clear, sealed) = written(&self.sealer(found.org.as_str()).await?, &found, after)?;
        let mut change = self.change(Some(&found.org), Action::Updated, ResourceKind::User, id.as_str()).await?;
        if self.need_user(&mut change, id).await?.attributes != *before {
            return Ok(false);
        }
        let update = sql("UPDATE users SET attributes = $1, sealed_attributes = $2 WHERE id = $3");
        change.execute(update.bind(clear).bind(sealed).bind(id.as_str())).await?;
        touch_sessions(&mut change, id).await?;
        change.commit().await?;
        Ok(true)
    }

    async fn create_group(&self, org: &OrgId, name: &GroupName) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Created, ResourceKind::Group, name.as_str()).await?;
        let insert = sql("INSERT INTO user_groups (org, name) VALUES ($1, $2)").bind(org.as_str()).bind(name.as_str());
        change.execute(insert).await.map_err(taken("group", name))?;
        Ok(change.commit().await?)
    }

    async fn groups(&self, org: &OrgId) -> Result<Vec<Group>, StoreError> {
        let query = "SELECT g.name AS name, m.user_id AS user_id FROM user_groups g \
                     LEFT JOIN members m ON m.org = g.org AND m.group_name = g.name \
                     WHERE g.org = $1 ORDER BY g.name, m.user_id";
        let rows = self.readers().fetch_all(sql(query).bind(org.as_str())).await?;
        Ok(groups(org, &rows)?)
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<GroupName>, StoreError> {
        let query = sql("SELECT group_name FROM members WHERE user_id = $1 ORDER BY group_name").bind(user.as_str());
        let rows = self.readers().fetch_all(query).await?;
        Ok(rows.iter().map(|row| text(row, "group_name")).collect::<Result<_, _>>()?)
    }

    async fn add_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Updated, ResourceKind::Group, group.as_str()).await?;
        need_membership(&mut change, org, group, user).await?;
        let insert = sql("INSERT INTO members (org, group_name, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
        change.execute(insert.bind(org.as_str()).bind(group.as_str()).bind(user.as_str())).await?;
        touch_sessions(&mut change, user).await?;
        Ok(change.commit().await?)
    }

    async fn remove_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
        let mut change = self.change(Some(org), Action::Updated, ResourceKind::Group, group.as_str()).await?;
        need_membership(&mut change, org, group, user).await?;
        let delete = sql("DELETE FROM members WHERE org = $1 AND group_name = $2 AND user_id = $3");
        change.execute(delete.bind(org.as_str()).bind(group.as_str()).bind(user.as_str())).await?;
        touch_sessions(&mut change, user).await?;
        Ok(change.commit().await?)
    }

    async fn create_credential(&self, credential: &Credential, session: &LoginSession) -> Result<(), StoreError> {
        let (org, id) = (Some(&credential.org), credential.id.as_str());
        let mut change = self.change(org, Action::Created, ResourceKind::Credential, id).await?;
        let owner = self.need_user(&mut change, &credential.user).await?;
        if owner.org != credential.org {
            return Err(StoreError::not_found("user", &credential.user));
        }
        if owner.disabled.is_some() {
            return Err(disabled(&owner));
        }
        let held = sql("SELECT count(*) AS held FROM credentials WHERE user_id = $1 AND not_after > $2");
        let now = credential.renewed.unwrap_or(credential.created);
        let held = change.fetch_one(held.bind(credential.user.as_str()).bind(micros(now))).await?;
        if usize::try_from(number(&held, "held")?).unwrap_or(usize::MAX) >= Directory::MOST_CREDENTIALS {
            return Err(too_many());
        }
        let insert = "INSERT INTO credentials (id, org, user_id, created, not_after, revoked, renewed) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let insert = sql(insert)
            .bind(credential.id.as_str())
            .bind(credential.org.as_str())
            .bind(credential.user.as_str())
            .bind(micros(credential.created))
            .bind(micros(credential.not_after))
            .bind(credential.revoked.map(micros))
            .bind(credential.renewed.map(micros));
        change.execute(insert).await.map_err(taken("credential", &credential.id))?;
        let insert = sql("INSERT INTO sessions (credential, active_until) VALUES ($1, $2)");
        change.execute(insert.bind(session.credential.as_str()).bind(micros(session.active_until))).await?;
        let insert = "INSERT INTO series (kind, org, subject, version, ends) VALUES ('session', $1, $2, $3, $4)";
        let insert = sql(insert)
            .bind(credential.org.as_str())
            .bind(credential.id.as_str())
            .bind(change.version())
            .bind(micros(credential.not_after));
        change.execute(insert).await?;
        Ok(change.commit().await?)
    }

    async fn credential(&self, id: &CredentialId) -> Result<Option<(Credential, LoginSession)>, StoreError> {
        let query = "SELECT c.*, s.active_until FROM credentials c JOIN sessions s ON s.credential = c.id \
                     WHERE c.id = $1";
        let Some(row) = self.readers().fetch_optional(sql(query).bind(id.as_str())).await? else { return Ok(None) };
        let session = LoginSession { credential: id.clone(), active_until: time(&row, "active_until")? };
        Ok(Some((credential(&row)?, session)))
    }

    async fn credentials(&self, user: &UserId) -> Result<Vec<Credential>, StoreError> {
        let query = sql("SELECT * FROM credentials WHERE user_id = $1 ORDER BY created DESC, id DESC");
        let rows = self.readers().fetch_all(query.bind(user.as_str())).await?;
        Ok(rows.iter().map(credential).collect::<Result<_, _>>()?)
    }

    async fn renew_credential(
        &self,
        id: &CredentialId,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<(), StoreError> {
        let missing = || StoreError::not_found("credential", id);
        let (found, _) = self.credential(id).await?.ok_or_else(missing)?;
        let org = Some(&found.org);
        let mut change = self.change(org, Action::Updated, ResourceKind::Credential, id.as_str()).await?;
        let owner = self.need_user(&mut change, &found.user).await?;
        if owner.disabled.is_some() {
            return Err(disabled(&owner));
        }
        // Before the certificate's end is changed: a session that ends with it goes on with it.
        let session = "UPDATE sessions SET active_until = $1 WHERE credential = $2 AND active_until = \
                       (SELECT not_after FROM credentials WHERE id = $2)";
        change.execute(sql(session).bind(micros(not_after)).bind(id.as_str())).await?;
        let update = sql("UPDATE credentials SET not_after = $1, renewed = $2 WHERE id = $3 AND revoked IS NULL");
        let update = update.bind(micros(not_after)).bind(micros(now)).bind(id.as_str());
        if change.execute(update).await? == 0 {
            return Err(StoreError::Refused("the credential is revoked; get a new one".into()));
        }
        let text = "INSERT INTO series (kind, org, subject, version, ends) VALUES ('session', $1, $2, $3, $4) \
                    ON CONFLICT (kind, org, subject) DO UPDATE SET version = excluded.version, ends = excluded.ends";
        let raise = sql(text).bind(found.org.as_str()).bind(id.as_str()).bind(change.version());
        change.execute(raise.bind(micros(not_after))).await?;
        Ok(change.commit().await?)
    }

    async fn note_uses(&self, uses: &[(CredentialId, Timestamp)]) -> Result<(), StoreError> {
        // In one order: two who note the same credentials wait for each other, and not in a circle.
        let mut uses: Vec<_> = uses.iter().map(|(id, at)| (id.as_str(), micros(*at))).collect();
        uses.sort_unstable();
        let mut write = self.write().await?;
        for (id, at) in uses {
            let note = "UPDATE credentials SET last_used = $1 WHERE id = $2 AND (last_used IS NULL OR last_used < $1)";
            write.execute(sql(note).bind(at).bind(id)).await?;
        }
        Ok(write.commit().await?)
    }

    async fn revoke_credential(&self, id: &CredentialId, now: Timestamp) -> Result<(), StoreError> {
        let missing = || StoreError::not_found("credential", id);
        let (found, _) = self.credential(id).await?.ok_or_else(missing)?;
        let org = Some(&found.org);
        let mut change = self.change(org, Action::Updated, ResourceKind::Credential, id.as_str()).await?;
        let update = sql("UPDATE credentials SET revoked = coalesce(revoked, $1) WHERE id = $2");
        if change.execute(update.bind(micros(now)).bind(id.as_str())).await? == 0 {
            return Err(missing());
        }
        let end = sql("UPDATE sessions SET active_until = $1 WHERE active_until > $1 AND credential = $2");
        change.execute(end.bind(micros(now)).bind(id.as_str())).await?;
        let raise = sql("UPDATE series SET version = $1 WHERE kind = 'session' AND org = $2 AND subject = $3");
        let raise = raise.bind(change.version()).bind(found.org.as_str()).bind(id.as_str());
        change.execute(raise).await?;
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }
}
