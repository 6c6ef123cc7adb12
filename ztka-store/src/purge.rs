//! Removes what is over, a little at a time.

use jiff::{SignedDuration, Timestamp};
use ztka_controller::store::{Action, JobKind, ResourceKind};
use ztka_core::{OrgId, SpiffeId, Subject};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    jobs::{Done, enqueue},
    row::{micros, text},
    sql::{Statement, Tx, sql},
};

/// Rows of one step.
const AT_ONCE: i64 = 256;
/// Changes of one step, during which nobody else changes the organisation.
const CHANGES: i64 = 32;
/// What is over is kept for so long after its end, to be looked at.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Data keys that another one follows are gone through after this long; see `seal`.
const FOLLOWED: SignedDuration = SignedDuration::from_mins(11);

/// What is removed, in this order: what refers to something comes before it.
const STEPS: &[&str] = &["tokens", "credentials", "replicas", "instances", "said", "keys", "late", "data-keys"];

/// A deletion of at most [`AT_ONCE`] rows that ended before a time.
fn deletion(step: &str) -> Option<Statement> {
    Some(sql(match step {
        "tokens" => "DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE expires < $1 LIMIT $2)",
        "replicas" => {
            "DELETE FROM replicas WHERE id IN (SELECT id FROM replicas WHERE ends < $1 \
             AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = replicas.id AND i.not_after >= $1) LIMIT $2)"
        }
        "instances" => "DELETE FROM instances WHERE id IN (SELECT id FROM instances WHERE not_after < $1 LIMIT $2)",
        _ => return None,
    }))
}

impl Store {
    /// A step of the job `purge`: its state is what is removed, and for some the key after which it goes on.
    pub(crate) async fn purge_step(&self, state: &str, now: Timestamp) -> Result<Done, StoreError> {
        let (step, after) = state.split_once(' ').unwrap_or((state, ""));
        let step = if step.is_empty() { STEPS.first().copied().unwrap_or_default() } else { step };
        let before = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        let next = STEPS.iter().position(|known| *known == step).and_then(|place| STEPS.get(place + 1));
        if step == "credentials"
            && let Some((tx, rows)) = self.forget_credentials(before).await?
        {
            return Ok(Done { tx, next: Some(step.to_owned()), rows });
        }
        let mut tx = self.write().await?;
        let (rows, again) = match (deletion(step), step) {
            (Some(deletion), _) => {
                let rows = tx.execute(deletion.bind(micros(before)).bind(AT_ONCE)).await?;
                (rows, (rows > 0).then(|| step.to_owned()))
            }
            (None, "said") => self.forget_said(&mut tx, after, before).await?,
            (None, "keys") => self.forget_bound(&mut tx, after, before).await?,
            (None, "late") => {
                let rows = self.forget_late(&mut tx).await?;
                (rows, (rows > 0).then(|| step.to_owned()))
            }
            (None, "data-keys") => (retire(&mut tx, now).await?, None),
            (None, _) => (0, None),
        };
        Ok(Done { tx, next: again.or(next.map(|next| (*next).to_owned())), rows })
    }

    /// Credentials of one organisation: each is a change of it, with a version.
    async fn forget_credentials(&self, before: Timestamp) -> Result<Option<(Tx, u64)>, StoreError> {
        let query = "SELECT org, id FROM credentials WHERE not_after < $1 \
                     AND org IN (SELECT org FROM versions WHERE deleted IS NULL) ORDER BY org, id LIMIT $2";
        let over = self.readers().fetch_all(sql(query).bind(micros(before)).bind(CHANGES)).await?;
        let Some(first) = over.first() else { return Ok(None) };
        let org: OrgId = text(first, "org")?;
        let mut change = self.change(Some(&org), Action::Deleted, ResourceKind::Credential, first.str("id")?).await?;
        let mut forgotten = 0;
        for row in over.iter().filter(|row| row.str("org").is_ok_and(|of| of == org.as_str())) {
            let id = row.str("id")?;
            if forgotten > 0 {
                change.also(id).await?;
            }
            change.execute(sql("DELETE FROM sessions WHERE credential = $1").bind(id)).await?;
            let delete = sql("DELETE FROM credentials WHERE id = $1 AND not_after < $2");
            if change.execute(delete.bind(id).bind(micros(before))).await? == 0 {
                // Renewed at the last moment, or gone already: the whole step is left for the next time.
                return Err(StoreError::Refused("a credential that was over is not any more".into()));
            }
            forgotten += 1;
        }
        Ok(Some((change.into_tx(), forgotten)))
    }

    /// Who has confirmed something, and is not there any more.
    async fn forget_said(&self, tx: &mut Tx, after: &str, before: Timestamp) -> Result<(u64, Option<String>), Failed> {
        let query = sql("SELECT member, at FROM acknowledgements WHERE member > $1 ORDER BY member LIMIT $2");
        let rows = tx.fetch_all(query.bind(after).bind(AT_ONCE)).await?;
        let (mut forgotten, mut last) = (0, None);
        for row in &rows {
            let member = row.str("member")?;
            last = Some(format!("said {member}"));
            if row.number("at")? < micros(before) && !is_there(tx, member).await? {
                forgotten += tx.execute(sql("DELETE FROM acknowledgements WHERE member = $1").bind(member)).await?;
            }
        }
        Ok((forgotten, last))
    }

    /// Keys that are bound to a name that nobody has any more, and will never have again, since ids are never used twice.
    async fn forget_bound(&self, tx: &mut Tx, after: &str, before: Timestamp) -> Result<(u64, Option<String>), Failed> {
        let query = sql("SELECT key, subject, at FROM bound_keys WHERE key > $1 ORDER BY key LIMIT $2");
        let rows = tx.fetch_all(query.bind(after).bind(AT_ONCE)).await?;
        let (mut forgotten, mut last) = (0, None);
        for row in &rows {
            let (key, subject) = (row.str("key")?, row.str("subject")?);
            last = Some(format!("keys {key}"));
            let used = sql("SELECT 1 FROM certificates WHERE subject = $1 AND not_after >= $2 LIMIT 1");
            let token = sql("SELECT 1 FROM tokens WHERE spent_key = $1 LIMIT 1").bind(key);
            // One that is about to join is bound before it is written down.
            let is_used = row.number("at")? >= micros(before)
                || is_there(tx, subject).await?
                || tx.fetch_optional(used.bind(subject).bind(micros(before))).await?.is_some()
                || tx.fetch_optional(token).await?.is_some();
            if !is_used {
                forgotten += tx.execute(sql("DELETE FROM bound_keys WHERE key = $1").bind(key)).await?;
            }
        }
        Ok((forgotten, last))
    }
}

/// Whether whom a path names is still known: an agent, a proxy, a credential. Whatever cannot be read is.
async fn is_there(tx: &mut Tx, path: &str) -> Result<bool, Failed> {
    let Ok(id) = format!("spiffe://stored/{path}").parse::<SpiffeId>() else { return Ok(true) };
    let query = match &id.subject {
        Subject::Agent { instance, .. } => sql("SELECT 1 FROM instances WHERE id = $1").bind(instance.as_str()),
        Subject::Proxy(proxy) => sql("SELECT 1 FROM proxies WHERE id = $1").bind(proxy.as_str()),
        Subject::User { credential, .. } => sql("SELECT 1 FROM credentials WHERE id = $1").bind(credential.as_str()),
        Subject::Controller(_) => return Ok(false),
    };
    Ok(tx.fetch_optional(query).await?.is_some())
}

/// Asks for what is under a data key that another one follows to be gone through once more, after which it goes.
async fn retire(tx: &mut Tx, now: Timestamp) -> Result<u64, Failed> {
    let query = "SELECT org FROM data_keys WHERE kind = 'data' AND org <> '' GROUP BY org \
                 HAVING count(*) > 1 AND max(created) < $1 ORDER BY org LIMIT $2";
    let before = now.checked_sub(FOLLOWED).unwrap_or(Timestamp::MIN);
    let rows = tx.fetch_all(sql(query).bind(micros(before)).bind(AT_ONCE)).await?;
    for row in &rows {
        enqueue(tx, JobKind::Seal, row.str("org")?, now).await?;
    }
    Ok(0)
}
