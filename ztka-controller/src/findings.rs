//! Receipts held against events, cluster by cluster, a slice of time at a time.

use std::{collections::HashSet, ops::Range};

use jiff::{SignedDuration, Timestamp};
use ztka_audit::{EventQuery, Finding, compare};
use ztka_core::{BoxError, OrgId};

use crate::{Controller, store::Cluster};

/// Time that is looked at in one piece.
const SLICE: SignedDuration = SignedDuration::from_mins(10);
/// Each side is read for this much longer than is judged: clocks differ, and streams last.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// Events read from the store at once.
const PAGE: usize = 1000;
/// Findings of one answer.
pub(crate) const MOST: usize = 1000;

impl Controller {
    /// What does not fit together of an organisation's requests in `window`: at most 1000 findings.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) async fn compare(
        &self,
        org: &OrgId,
        window: &Range<Timestamp>,
    ) -> Result<Vec<(Cluster, Finding)>, BoxError> {
        let mut found = Vec::new();
        for cluster in self.0.stores.resources.clusters(org).await? {
            let mut from = window.start;
            while from < window.end && found.len() < MOST {
                let until = from.checked_add(SLICE).unwrap_or(window.end).min(window.end);
                let findings = self.compare_slice(&cluster, &(from..until)).await?;
                found.extend(findings.into_iter().map(|finding| (cluster.clone(), finding)));
                from = until;
            }
        }
        found.truncate(MOST);
        Ok(found)
    }

    async fn compare_slice(&self, cluster: &Cluster, window: &Range<Timestamp>) -> Result<Vec<Finding>, BoxError> {
        let from = window.start.checked_sub(MARGIN).unwrap_or(Timestamp::MIN);
        let until = window.end.checked_add(MARGIN).unwrap_or(Timestamp::MAX);
        let receipts = self.0.stores.receipts.receipts(&cluster.id, from, until).await?;
        let mut events = Vec::new();
        let mut before = None;
        loop {
            let query = EventQuery {
                org: Some(cluster.org.clone()),
                cluster: Some(cluster.id.clone()),
                since: Some(from),
                until: Some(until),
                before,
                limit: PAGE,
                ..EventQuery::default()
            };
            let page = self.0.stores.events.query(&query).await?;
            before = page.last().map(|last| last.number);
            let is_last = page.len() < PAGE;
            events.extend(page.into_iter().map(|stored| stored.event));
            if is_last {
                break;
            }
        }
        let findings = compare(&events, &receipts, window);
        self.confirm(cluster, findings).await
    }

    /// A receipt without an event in this slice may have one outside of it: a clock may be further off than the margin.
    async fn confirm(&self, cluster: &Cluster, findings: Vec<Finding>) -> Result<Vec<Finding>, BoxError> {
        let mut confirmed = Vec::new();
        let mut asked = HashSet::new();
        for finding in findings {
            if let Finding::ReceiptWithoutEvent { id } = &finding
                && asked.insert(*id)
            {
                let (org, audit_id) = (Some(cluster.org.clone()), Some(*id));
                let query = EventQuery { org, audit_id, limit: 1, ..EventQuery::default() };
                if !self.0.stores.events.query(&query).await?.is_empty() {
                    continue;
                }
            }
            confirmed.push(finding);
        }
        Ok(confirmed)
    }
}
