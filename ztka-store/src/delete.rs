//! Deletion of an organisation: cut off at once, then removed a little at a time.

use jiff::Timestamp;
use ztka_controller::store::{Action, JobKind, ResourceKind};
use ztka_core::{DocumentKind, OrgId};
use ztka_identity::StoreError;
use ztka_pki::{AuthorityName, HierarchyState, OrgState};

use crate::{
    Failed, Store,
    jobs::{Done, enqueue},
    room,
    row::{json, micros, org_or_empty, signed, to_json},
    sql::{Statement, Tx, sql},
};

/// Rows of one step.
const AT_ONCE: i64 = 256;

/// What is removed, in this order: keys first, so that nothing can be read any more wherever a copy of it is; then what refers
/// to something before that.
const STEPS: &[&str] = &[
    "data-keys",
    "private-keys",
    "tokens",
    "replicas",
    "receipts",
    "instances",
    "members",
    "groups",
    "sessions",
    "credentials",
    "users",
    "policy-edits",
    "policy-versions",
    "policy-objects",
    "bindings",
    "roles",
    "series",
    "log-tiles",
    "log-heads",
    "events",
    "recording-chunks",
    "recordings",
    "findings",
    "changes",
    "revocations",
    "journals",
    "acknowledgements",
    "bound-keys",
    "clusters",
    "authorities",
    "org",
];

/// The removal of at most [`AT_ONCE`] rows of an organisation (`$1`); none where it takes more than one statement.
fn removal(step: &str) -> Option<&'static str> {
    Some(match step {
        "data-keys" => "DELETE FROM data_keys WHERE id IN (SELECT id FROM data_keys WHERE org = $1 LIMIT $2)",
        "tokens" => {
            "DELETE FROM tokens WHERE id IN (SELECT t.id FROM tokens t JOIN clusters c ON c.id = t.cluster \
             WHERE c.org = $1 LIMIT $2)"
        }
        "replicas" => {
            "DELETE FROM replicas WHERE id IN (SELECT r.id FROM replicas r JOIN clusters c ON c.id = r.cluster \
             WHERE c.org = $1 LIMIT $2)"
        }
        "receipts" => {
            "DELETE FROM receipts WHERE number IN (SELECT r.number FROM receipts r JOIN clusters c ON c.id = r.cluster \
             WHERE c.org = $1 LIMIT $2)"
        }
        "instances" => {
            "DELETE FROM instances WHERE id IN (SELECT i.id FROM instances i JOIN clusters c ON c.id = i.cluster \
             WHERE c.org = $1 LIMIT $2)"
        }
        "members" => {
            "DELETE FROM members WHERE org = $1 AND user_id IN (SELECT user_id FROM members WHERE org = $1 LIMIT $2)"
        }
        "groups" => {
            "DELETE FROM user_groups WHERE org = $1 AND name IN (SELECT name FROM user_groups WHERE org = $1 LIMIT $2)"
        }
        "sessions" => {
            "DELETE FROM sessions WHERE credential IN (SELECT s.credential FROM sessions s \
             JOIN credentials c ON c.id = s.credential WHERE c.org = $1 LIMIT $2)"
        }
        "credentials" => "DELETE FROM credentials WHERE id IN (SELECT id FROM credentials WHERE org = $1 LIMIT $2)",
        "users" => "DELETE FROM users WHERE id IN (SELECT id FROM users WHERE org = $1 LIMIT $2)",
        "policy-edits" => {
            "DELETE FROM policy_edits WHERE org = $1 AND (version, kind, name) IN (SELECT version, kind, name \
             FROM policy_edits WHERE org = $1 ORDER BY version, kind, name LIMIT $2)"
        }
        "policy-versions" => {
            "DELETE FROM policy_versions WHERE org = $1 AND version IN (SELECT version FROM policy_versions \
             WHERE org = $1 LIMIT $2)"
        }
        "policy-objects" => {
            "DELETE FROM policy_objects WHERE org = $1 AND (kind, name) IN (SELECT kind, name FROM policy_objects \
             WHERE org = $1 ORDER BY kind, name LIMIT $2)"
        }
        "bindings" => {
            "DELETE FROM bindings WHERE org = $1 AND name IN (SELECT name FROM bindings WHERE org = $1 LIMIT $2)"
        }
        "roles" => "DELETE FROM roles WHERE org = $1 AND name IN (SELECT name FROM roles WHERE org = $1 LIMIT $2)",
        "series" => {
            "DELETE FROM series WHERE org = $1 AND subject IN (SELECT subject FROM series WHERE org = $1 LIMIT $2)"
        }
        "log-tiles" => {
            "DELETE FROM log_tiles WHERE org = $1 AND (level, tile) IN (SELECT level, tile FROM log_tiles \
             WHERE org = $1 LIMIT $2)"
        }
        "log-heads" => {
            "DELETE FROM log_heads WHERE org = $1 AND size IN (SELECT size FROM log_heads WHERE org = $1 LIMIT $2)"
        }
        "events" => "DELETE FROM events WHERE number IN (SELECT number FROM events WHERE org = $1 LIMIT $2)",
        "recording-chunks" => {
            "DELETE FROM recording_chunks WHERE (recording, number) IN (SELECT recording, number FROM recording_chunks \
             WHERE org = $1 ORDER BY recording, number LIMIT $2)"
        }
        "recordings" => "DELETE FROM recordings WHERE id IN (SELECT id FROM recordings WHERE org = $1 LIMIT $2)",
        "findings" => "DELETE FROM findings WHERE number IN (SELECT number FROM findings WHERE org = $1 LIMIT $2)",
        "changes" => {
            "DELETE FROM changes WHERE org = $1 AND version IN (SELECT version FROM changes WHERE org = $1 LIMIT $2)"
        }
        "revocations" => {
            "DELETE FROM revocations WHERE org = $1 AND name IN (SELECT name FROM revocations WHERE org = $1 LIMIT $2)"
        }
        // Both name their sender by its SPIFFE id; an organisation's id has none of LIKE's signs.
        "journals" => {
            "DELETE FROM journals WHERE source LIKE '%/org/' || CAST($1 AS TEXT) || '/%' AND journal IN (SELECT journal FROM journals \
             WHERE source LIKE '%/org/' || CAST($1 AS TEXT) || '/%' LIMIT $2)"
        }
        "acknowledgements" => {
            "DELETE FROM acknowledgements WHERE member IN (SELECT member FROM acknowledgements \
             WHERE member > 'org/' || CAST($1 AS TEXT) || '/' AND member < 'org/' || CAST($1 AS TEXT) || '0' LIMIT $2)"
        }
        "bound-keys" => {
            "DELETE FROM bound_keys WHERE key IN (SELECT key FROM bound_keys \
             WHERE subject > 'org/' || CAST($1 AS TEXT) || '/' AND subject < 'org/' || CAST($1 AS TEXT) || '0' LIMIT $2)"
        }
        "clusters" => "DELETE FROM clusters WHERE id IN (SELECT id FROM clusters WHERE org = $1 LIMIT $2)",
        _ => return None,
    })
}

impl Store {
    /// Cuts an organisation off: from the commit on nobody of it is let in, nothing of it is changed, its name is free, and
    /// it is removed by a job.
    pub(crate) async fn begin_deletion(&self, org: &OrgId, now: Timestamp) -> Result<(), StoreError> {
        if *org == OrgId::installation() {
            let refused = "the organisation of the installation's administrators stays; delete its users instead";
            return Err(StoreError::Refused(refused.into()));
        }
        let missing = || StoreError::not_found("organisation", org);
        let mut change = self.change(None, Action::Deleted, ResourceKind::Org, org.as_str()).await?;
        let close = sql("UPDATE versions SET deleted = $1 WHERE org = $2 AND deleted IS NULL");
        if change.execute(close.bind(micros(now)).bind(org.as_str())).await? == 0 {
            return Err(missing());
        }
        let free = sql("UPDATE orgs SET deleted = $1, name = '~' || id WHERE id = $2");
        if change.execute(free.bind(micros(now)).bind(org.as_str())).await? == 0 {
            return Err(missing());
        }
        let revoke =
            sql("INSERT INTO revocations (org, kind, name, since) VALUES ('', 'org', $1, $2) ON CONFLICT DO NOTHING");
        change.execute(revoke.bind(org.as_str()).bind(micros(now))).await?;
        change.touch(DocumentKind::Revocations).await?;
        let note = sql("INSERT INTO deleted_orgs (org, since) VALUES ($1, $2)");
        change.execute(note.bind(org.as_str()).bind(micros(now))).await?;
        enqueue(&mut change, JobKind::DeleteOrg, org.as_str(), now).await?;
        Ok(change.commit().await?)
    }

    /// A step of a job of kind `delete-org`: its state is what is removed.
    pub(crate) async fn delete_step(&self, org: &str, state: &str, now: Timestamp) -> Result<Done, StoreError> {
        let step = if state.is_empty() { STEPS.first().copied().unwrap_or_default() } else { state };
        let mut tx = self.write().await?;
        let rows = match (removal(step), step) {
            (Some(text), _) => tx.execute(sql(text).bind(org).bind(AT_ONCE)).await?,
            (None, "private-keys") => destroy_keys(&mut tx, org, now).await?,
            (None, "authorities") => {
                forget_rotations(&mut tx, org).await?;
                tx.execute(sql("DELETE FROM authorities WHERE name = $1").bind(org)).await?
            }
            (None, _) => {
                let end = |text| -> Statement { sql(text).bind(org) };
                tx.execute(end("DELETE FROM jobs WHERE kind IN ('seal', 'log') AND subject = $1")).await?;
                tx.execute(end("DELETE FROM logs WHERE org = $1")).await?;
                tx.execute(end("DELETE FROM orgs WHERE id = $1")).await?;
                tx.execute(end("DELETE FROM versions WHERE org = $1")).await?;
                room::forget(&mut tx, org).await?;
                let finished = sql("UPDATE deleted_orgs SET finished = $1 WHERE org = $2");
                tx.execute(finished.bind(micros(now)).bind(org)).await?;
                return Ok(Done { tx, next: None, rows: 1 });
            }
        };
        let note = sql("UPDATE deleted_orgs SET removed = removed + $1 WHERE org = $2");
        tx.execute(note.bind(signed(rows)).bind(org)).await?;
        if let (Some(keyring), "data-keys") = (&self.keyring, step) {
            keyring.forget(Some(org));
        }
        let next = STEPS.iter().position(|known| *known == step).and_then(|place| STEPS.get(place + 1));
        let again = removal(step).is_some() && rows > 0;
        Ok(Done { tx, next: if again { Some(step.to_owned()) } else { next.map(|next| (*next).to_owned()) }, rows })
    }

    /// What has come of organisations that are gone, from spools that were away.
    pub(crate) async fn forget_late(&self, tx: &mut Tx) -> Result<u64, Failed> {
        let late = [
            "DELETE FROM events WHERE number IN (SELECT e.number FROM deleted_orgs d JOIN events e ON e.org = d.org \
             WHERE d.finished IS NOT NULL LIMIT $1)",
            "DELETE FROM findings WHERE number IN (SELECT f.number FROM deleted_orgs d JOIN findings f ON f.org = d.org \
             WHERE d.finished IS NOT NULL LIMIT $1)",
            "DELETE FROM recording_chunks WHERE (recording, number) IN (SELECT c.recording, c.number FROM deleted_orgs d \
             JOIN recording_chunks c ON c.org = d.org WHERE d.finished IS NOT NULL LIMIT $1)",
            "DELETE FROM recordings WHERE id IN (SELECT r.id FROM deleted_orgs d JOIN recordings r ON r.org = d.org \
             WHERE d.finished IS NOT NULL LIMIT $1)",
            "DELETE FROM log_tiles WHERE (org, level, tile) IN (SELECT t.org, t.level, t.tile FROM deleted_orgs d \
             JOIN log_tiles t ON t.org = d.org WHERE d.finished IS NOT NULL LIMIT $1)",
            "DELETE FROM log_heads WHERE (org, size) IN (SELECT h.org, h.size FROM deleted_orgs d \
             JOIN log_heads h ON h.org = d.org WHERE d.finished IS NOT NULL LIMIT $1)",
            "DELETE FROM logs WHERE org IN (SELECT l.org FROM deleted_orgs d JOIN logs l ON l.org = d.org \
             WHERE d.finished IS NOT NULL LIMIT $1)",
        ];
        let mut rows = 0;
        for text in late {
            rows += tx.execute(sql(text).bind(AT_ONCE)).await?;
        }
        Ok(rows)
    }
}

/// Asks for the private keys of an organisation to be destroyed, wherever they are.
async fn destroy_keys(tx: &mut Tx, org: &str, now: Timestamp) -> Result<u64, Failed> {
    let mut names = Vec::new();
    let stored = sql("SELECT body FROM authorities WHERE name = $1").bind(org);
    if let Some(row) = tx.fetch_optional(stored).await? {
        let state: OrgState = json(&row, "body")?;
        names.extend([state.agents.key, state.users.key]);
    }
    if let Some(state) = hierarchy(tx).await? {
        for (_, rotation) in state.rotations.into_iter().filter(|(name, _)| is_of(name, org)) {
            names.push(rotation.standby.key);
            names.extend(rotation.signer.map(|signer| signer.key));
        }
    }
    names.sort_unstable();
    names.dedup();
    for name in &names {
        enqueue(tx, JobKind::DestroyKey, name, now).await?;
    }
    Ok(u64::try_from(names.len()).unwrap_or(u64::MAX))
}

async fn hierarchy(tx: &mut Tx) -> Result<Option<HierarchyState>, Failed> {
    let row = tx.fetch_optional(sql("SELECT body FROM authorities WHERE name = '.hierarchy'")).await?;
    row.as_ref().map(|row| json(row, "body")).transpose()
}

fn is_of(name: &AuthorityName, org: &str) -> bool {
    matches!(name, AuthorityName::Org(_, of) if of.as_str() == org)
}

/// Rotations of an organisation's authorities end with them.
async fn forget_rotations(tx: &mut Tx, org: &str) -> Result<(), Failed> {
    // As a change of the hierarchy has it: nobody comes between reading and writing.
    let hold = sql("UPDATE versions SET version = version WHERE org = $1").bind(org_or_empty(None));
    tx.execute(hold).await?;
    let Some(mut state) = hierarchy(tx).await? else { return Ok(()) };
    let before = state.rotations.len();
    state.rotations.retain(|name, _| !is_of(name, org));
    if state.rotations.len() < before {
        state.generation += 1;
        let update = sql("UPDATE authorities SET body = $1 WHERE name = '.hierarchy'").bind(to_json(&state)?);
        tx.execute(update).await?;
    }
    Ok(())
}
