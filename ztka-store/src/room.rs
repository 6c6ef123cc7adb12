//! How large an organisation's policy is, counted as it changes: what followers could not take is refused where it comes
//! about.
//!
//! The count is a row of `meta`, kept under the organisation's lock by the changes that know by how much they change it. A
//! change of the policy that does not say so removes the row ([`Change::touch`]), and the next one counts anew.

use ztka_controller::store::LARGEST_POLICY;
use ztka_core::OrgId;
use ztka_identity::StoreError;

use crate::{
    Failed,
    change::Change,
    resources::need_room,
    row::{signed, to_json},
    sql::{Tx, sql},
};

const MOST: i64 = LARGEST_POLICY as i64;
/// What a cluster has beside its texts at most: some quotes, and the words for its fields.
const OF_CLUSTER: usize = 64;

/// The bytes that a new cluster takes in a policy.
pub(crate) fn of_cluster(cluster: &ztka_controller::store::Cluster) -> Result<usize, Failed> {
    let labels = to_json(&cluster.labels)?;
    Ok(cluster.id.as_str().len() + cluster.name.as_str().len() + labels.len() + OF_CLUSTER)
}

/// `meta.key` of an organisation.
fn key(org: &str) -> String {
    format!("policy {org}")
}

/// The change has added so many bytes to the policy.
///
/// # Errors
/// [`StoreError::Refused`] if followers could not take it any more.
pub(crate) async fn grow(change: &mut Change, org: &OrgId, by: usize) -> Result<(), StoreError> {
    change.policy_is_counted();
    let by = i64::try_from(by).unwrap_or(i64::MAX);
    let add = sql("UPDATE meta SET value = value + $1 WHERE key = $2 RETURNING value").bind(by).bind(key(org.as_str()));
    match change.fetch_optional(add).await? {
        Some(row) if row.number("value")? <= MOST => Ok(()),
        // Nobody has counted yet; or it looks too large, which is to be certain before anything is refused.
        _ => need_room(change, org).await,
    }
}

/// The change has taken so many bytes from the policy.
pub(crate) async fn shrink(change: &mut Change, org: &OrgId, by: u64) -> Result<(), Failed> {
    change.policy_is_counted();
    let by = i64::try_from(by).unwrap_or(i64::MAX);
    let take = sql("UPDATE meta SET value = value - $1 WHERE key = $2").bind(by).bind(key(org.as_str()));
    change.execute(take).await.map(drop)
}

/// Nobody has counted since.
pub(crate) async fn forget(tx: &mut Tx, org: &str) -> Result<(), Failed> {
    let forget = sql("DELETE FROM meta WHERE key = $1").bind(key(org));
    tx.execute(forget).await.map(drop)
}

/// Everything was counted: so large is it now.
pub(crate) async fn keep(change: &mut Change, org: &OrgId, size: u64) -> Result<(), Failed> {
    change.policy_is_counted();
    let keep = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    change.execute(sql(keep).bind(key(org.as_str())).bind(signed(size))).await.map(drop)
}

#[cfg(test)]
mod tests;
