//! A transaction that changes a resource of an organisation, under the organisation's next version.

use std::ops::{Deref, DerefMut};

use ztka_controller::store::{Action, ResourceKind};
use ztka_core::{DocumentKind, OrgId};
use ztka_identity::StoreError;

use crate::{
    Failed,
    hints::Hints,
    room,
    row::{number, org_or_empty, signed},
    sql::{Tx, sql},
};

/// Old changes are removed at every so many versions,
const SWEEP: u64 = 64;
/// and for each of those at most this many, so that no change takes long.
const SWEPT: u64 = 4 * SWEEP;

/// A transaction that changes one resource of an organisation; it is undone unless it is committed.
///
/// It begins with raising the organisation's version, in a row that stays locked until the transaction ends. So changes of
/// one organisation happen one after the other on PostgreSQL too: what is checked first stays true until the commit, and
/// no version becomes visible before a smaller one. Who has changed what is written down for the feed at the same time,
/// so that no version is without a change; the version of what is undone is used again.
pub(crate) struct Change {
    tx: Tx,
    hints: Hints,
    org: Option<OrgId>,
    version: u64,
    action: Action,
    kind: ResourceKind,
    name: String,
    /// So many changes are kept,
    history: u64,
    /// and those up to this version are gone already.
    compacted: u64,
    /// By how much the policy has changed is counted; see [`crate::room`].
    counted: bool,
}

impl Change {
    pub(crate) async fn begin(
        mut tx: Tx,
        hints: Hints,
        history: u64,
        org: Option<&OrgId>,
        action: Action,
        kind: ResourceKind,
        name: &str,
    ) -> Result<Self, StoreError> {
        let raise = sql(
            "UPDATE versions SET version = version + 1 WHERE org = $1 AND deleted IS NULL RETURNING version, compacted",
        );
        let row = tx.fetch_optional(raise.bind(org_or_empty(org))).await?;
        let row = row.ok_or_else(|| StoreError::not_found("organisation", org_or_empty(org)))?;
        let (version, compacted) = (number(&row, "version")?, number(&row, "compacted")?);
        let (org, name) = (org.cloned(), name.to_owned());
        let mut change = Self { tx, hints, org, version, action, kind, name, history, compacted, counted: false };
        change.record().await?;
        change.sweep(version.saturating_sub(1)).await?;
        Ok(change)
    }

    /// Goes on as the first change of an organisation that this transaction has made.
    pub(crate) async fn first_of(&mut self, org: &OrgId) -> Result<(), Failed> {
        self.org = Some(org.clone());
        (self.version, self.compacted) = (1, 0);
        let insert = sql("INSERT INTO versions (org, version, compacted) VALUES ($1, 1, 0)").bind(org.as_str());
        self.tx.execute(insert).await?;
        self.record().await
    }

    /// Goes on as another change of the same kind, under the next version.
    pub(crate) async fn also(&mut self, name: &str) -> Result<(), Failed> {
        let raise = sql("UPDATE versions SET version = version + 1 WHERE org = $1 RETURNING version");
        let row = self.tx.fetch_one(raise.bind(org_or_empty(self.org.as_ref()))).await?;
        (self.version, self.name) = (number(&row, "version")?, name.to_owned());
        self.record().await?;
        self.sweep(self.version.saturating_sub(1)).await
    }

    /// The transaction, of a deletion, to be committed with something else; whoever watches sees it without a hint.
    pub(crate) fn into_tx(self) -> Tx {
        self.tx
    }

    async fn record(&mut self) -> Result<(), Failed> {
        let record = sql("INSERT INTO changes (org, version, kind, name, action) VALUES ($1, $2, $3, $4, $5)")
            .bind(org_or_empty(self.org.as_ref()))
            .bind(signed(self.version))
            .bind(self.kind.as_str())
            .bind(&self.name)
            .bind(self.action.as_str());
        self.tx.execute(record).await.map(drop)
    }

    /// Removes old changes, if a sweep is due among the versions after `last`; of many versions more than of one.
    async fn sweep(&mut self, last: u64) -> Result<(), Failed> {
        let due = (self.version / SWEEP).saturating_sub(last / SWEEP);
        let until = self.version.saturating_sub(self.history).min(self.compacted + due * SWEPT);
        if due == 0 || until <= self.compacted {
            return Ok(());
        }
        let (from, org, until) = (until, org_or_empty(self.org.as_ref()), signed(until));
        let forget = sql("DELETE FROM changes WHERE org = $1 AND version <= $2").bind(org).bind(until);
        if self.tx.execute(forget).await? > 0 {
            let note = sql("UPDATE versions SET compacted = $2 WHERE org = $1").bind(org).bind(until);
            self.tx.execute(note).await?;
            self.compacted = from;
        }
        Ok(())
    }

    /// What is changed has to be at this version, if it is there; nobody changes it until the end of the transaction.
    pub(crate) async fn need_version(&mut self, expected: u64) -> Result<(), StoreError> {
        let of_org = |text| sql(text).bind(&self.name).bind(org_or_empty(self.org.as_ref()));
        let by_id = |text| sql(text).bind(&self.name);
        let current = match self.kind {
            _ if self.action == Action::Created => return Ok(()),
            ResourceKind::Org => by_id("SELECT version FROM orgs WHERE id = $1"),
            ResourceKind::User => by_id("SELECT version FROM users WHERE id = $1"),
            ResourceKind::Group => of_org("SELECT version FROM user_groups WHERE name = $1 AND org = $2"),
            ResourceKind::Credential => by_id("SELECT version FROM credentials WHERE id = $1"),
            ResourceKind::Cluster => by_id("SELECT version FROM clusters WHERE id = $1"),
            ResourceKind::Role => of_org("SELECT version FROM roles WHERE name = $1 AND org = $2"),
            ResourceKind::Binding => of_org("SELECT version FROM bindings WHERE name = $1 AND org = $2"),
            ResourceKind::Proxy => by_id("SELECT version FROM proxies WHERE id = $1"),
            ResourceKind::Project
            | ResourceKind::PolicyGroup
            | ResourceKind::Denial
            | ResourceKind::Guardrails
            | ResourceKind::Settings => {
                let text = "SELECT version FROM policy_objects WHERE name = $1 AND org = $2 AND kind = $3";
                of_org(text).bind(self.kind.as_str())
            }
            ResourceKind::Authority | ResourceKind::Revocation => return Ok(()),
        };
        let Some(row) = self.tx.fetch_optional(current).await? else { return Ok(()) };
        match number(&row, "version")? {
            version if version == expected => Ok(()),
            version => Err(StoreError::Changed { what: self.kind.as_str(), name: self.name.clone(), version }),
        }
    }

    /// Takes so many versions, and returns the first: the caller writes down what they have, and on each object which one
    /// has changed it.
    pub(crate) async fn take(&mut self, versions: usize) -> Result<u64, Failed> {
        let more = i64::try_from(versions.saturating_sub(1)).unwrap_or(i64::MAX);
        let org = org_or_empty(self.org.as_ref()).to_owned();
        let unsaid = sql("DELETE FROM changes WHERE org = $1 AND version = $2").bind(&org).bind(self.version());
        self.tx.execute(unsaid).await?;
        let raise = sql("UPDATE versions SET version = version + $1 WHERE org = $2 RETURNING version");
        let row = self.tx.fetch_one(raise.bind(more).bind(&org)).await?;
        let first = self.version;
        self.version = number(&row, "version")?;
        self.sweep(first).await?;
        Ok(first)
    }

    /// The newest version of the organisation.
    pub(crate) fn newest(&self) -> u64 {
        self.version
    }

    /// The version of the organisation that has this change.
    pub(crate) fn version(&self) -> i64 {
        signed(self.version)
    }

    /// By how much this has changed the policy is counted.
    pub(crate) fn policy_is_counted(&mut self) {
        self.counted = true;
    }

    /// The document of this kind says something new, or is new itself. A policy whose change was not counted
    /// ([`crate::room`]) is counted anew by the next one.
    pub(crate) async fn touch(&mut self, kind: DocumentKind) -> Result<(), Failed> {
        if kind == DocumentKind::Policy && !self.counted {
            room::forget(&mut self.tx, org_or_empty(self.org.as_ref())).await?;
        }
        let text = "INSERT INTO series (kind, org, subject, version) VALUES ($1, $2, '', $3) \
                    ON CONFLICT (kind, org, subject) DO UPDATE SET version = excluded.version";
        let touch = sql(text).bind(kind.to_string()).bind(org_or_empty(self.org.as_ref())).bind(self.version());
        self.tx.execute(touch).await.map(drop)
    }

    /// Notes on the resource which version has changed it.
    async fn stamp(&mut self) -> Result<(), Failed> {
        let version = self.version();
        let of_org = |text| sql(text).bind(version).bind(&self.name).bind(org_or_empty(self.org.as_ref()));
        let by_id = |text| sql(text).bind(version).bind(&self.name);
        let stamp = match self.kind {
            ResourceKind::Org => by_id("UPDATE orgs SET version = $1 WHERE id = $2"),
            ResourceKind::User => by_id("UPDATE users SET version = $1 WHERE id = $2"),
            ResourceKind::Group => of_org("UPDATE user_groups SET version = $1 WHERE name = $2 AND org = $3"),
            ResourceKind::Credential => by_id("UPDATE credentials SET version = $1 WHERE id = $2"),
            ResourceKind::Cluster => by_id("UPDATE clusters SET version = $1 WHERE id = $2"),
            ResourceKind::Role => of_org("UPDATE roles SET version = $1 WHERE name = $2 AND org = $3"),
            ResourceKind::Binding => of_org("UPDATE bindings SET version = $1 WHERE name = $2 AND org = $3"),
            ResourceKind::Proxy => by_id("UPDATE proxies SET version = $1 WHERE id = $2"),
            // Those of a policy are written with their version.
            ResourceKind::Project
            | ResourceKind::PolicyGroup
            | ResourceKind::Denial
            | ResourceKind::Guardrails
            | ResourceKind::Settings
            | ResourceKind::Authority
            | ResourceKind::Revocation => return Ok(()),
        };
        self.tx.execute(stamp).await.map(drop)
    }

    /// Makes it so, and gives a hint to whoever watches.
    pub(crate) async fn commit(mut self) -> Result<(), Failed> {
        if self.action != Action::Deleted {
            self.stamp().await?;
        }
        self.commit_stamped().await
    }

    /// The same where every object has its version already.
    pub(crate) async fn commit_stamped(self) -> Result<(), Failed> {
        self.tx.commit().await?;
        self.hints.give();
        Ok(())
    }
}

impl Deref for Change {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.tx
    }
}
