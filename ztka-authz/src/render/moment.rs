//! What a binding may give at a moment, before anybody has asked for anything; and when that changes.

use jiff::{SignedDuration, Timestamp};
use ztka_core::{ClusterId, Principal};

use crate::{Cluster, Conditions, Hours, PolicySet, compile::Bound, condition::Terms, document::carries};

/// Hours come again every week at the latest.
const WEEK: i64 = 7;

impl Terms {
    /// False if no request whatever of `who` can fulfil them at `now` on `cluster`.
    fn may_hold(&self, who: &Principal, now: Timestamp, cluster: &Cluster) -> bool {
        let may = |when: &Conditions| {
            when.hours.as_ref().is_none_or(|hours| hours.contain(now)) && carries(&cluster.labels, &when.cluster_labels)
        };
        self.out_of_term(now).is_none() && self.are_for(who) && self.when.known().is_some_and(may)
    }

    /// False if they are for users with other attributes.
    pub(super) fn are_for(&self, who: &Principal) -> bool {
        self.when.known().is_none_or(|when| when.is_for(who.attributes()))
    }

    /// When the answer of [`Self::may_hold`] may be another one.
    fn changes_after(&self, now: Timestamp) -> Option<Timestamp> {
        let terms = [self.from, self.until].into_iter().flatten().filter(|moment| now < *moment);
        let hours = self.when.known().and_then(|when| when.hours.as_ref()?.changes_after(now));
        terms.chain(hours).min()
    }
}

impl Hours {
    /// When they begin or end next.
    pub fn changes_after(&self, now: Timestamp) -> Option<Timestamp> {
        let offset = self.utc_offset.offset();
        let today = offset.to_datetime(now).date();
        let moments = (0..=WEEK).filter_map(|days| {
            let date = today.checked_add(SignedDuration::from_hours(24 * days)).ok()?;
            let moment = |time| offset.to_timestamp(date.to_datetime(time)).ok();
            // A moment before and after: it counts where something changes.
            let change = |moment: &Timestamp| {
                let before = moment.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(*moment);
                now < *moment && self.contain(before) != self.contain(*moment)
            };
            [moment(self.from), moment(self.until)].into_iter().flatten().filter(change).min()
        });
        moments.min()
    }
}

impl Bound {
    /// True if it is within its term: whoever it names may ask what there is.
    pub(crate) fn is_in_term(&self, now: Timestamp) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.out_of_term(now).is_none())
    }

    /// False if it gives `who` nothing at `now` on `cluster`, whatever is asked.
    pub(super) fn may_give(&self, who: &Principal, now: Timestamp, cluster: &Cluster) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.may_hold(who, now, cluster))
    }

    /// False if it gives `who` nothing ever: it is for users with other attributes.
    pub(super) fn is_for(&self, who: &Principal) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.are_for(who))
    }
}

impl PolicySet {
    /// When [`Self::render_at`] may say something else than at `now`, though the policy is the same, and so is `who` with groups
    /// and attributes.
    pub fn rendering_changes_after(&self, who: &Principal, cluster: &ClusterId, now: Timestamp) -> Option<Timestamp> {
        let terms = self.bound(who, cluster).filter_map(|bound| bound.terms.as_ref());
        terms.filter_map(|terms| terms.changes_after(now)).min()
    }
}
