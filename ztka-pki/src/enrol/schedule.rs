//! When a certificate is renewed, how failed tries are spread, and when it is time to tell somebody.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::select;
use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom as _, SystemRandom};
use ztka_core::{BoxError, Clock};

use crate::credential::{Credential, CredentialSource};

/// The clock is looked at this often, in case it is set.
const LOOK: SignedDuration = SignedDuration::from_secs(30);

/// Between two renewals that nothing has kept from succeeding.
const SETTLE: Duration = Duration::from_secs(3);

/// How a certificate stands that ought to be renewed at two thirds of its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RenewalStatus {
    /// When it was issued: the last renewal.
    pub issued: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// Renewal has failed for a third of what was left when it was due, at seven ninths of the certificate's life: an
    /// alarm.
    pub overdue: bool,
}

impl RenewalStatus {
    /// Of a certificate issued at `issued`.
    pub fn new(issued: Timestamp, not_after: Timestamp, now: Timestamp) -> Self {
        let life = not_after.duration_since(issued);
        let alarm = issued.checked_add(life.mul_f64(7.0 / 9.0)).unwrap_or(not_after);
        Self { issued, not_after, overdue: now >= alarm }
    }

    /// Of a credential.
    pub fn of(credential: &Credential, now: Timestamp) -> Self {
        Self::new(credential.issued(), credential.not_after(), now)
    }
}

/// At 60 to 66.7 % of its life, so that a fleet that was enrolled at once does not come back at once.
pub(super) fn due(issued: Timestamp, not_after: Timestamp) -> Timestamp {
    let share = 0.60 + random() * (2.0 / 3.0 - 0.60);
    let wait = not_after.duration_since(issued).mul_f64(share);
    issued.checked_add(wait).unwrap_or(not_after)
}

pub(super) fn due_of(credential: &Credential) -> Timestamp {
    due(credential.issued(), credential.not_after())
}

/// Full jitter over 2, 4, 8, … seconds, up to five minutes and to a tenth of what is left; at least half a second.
pub(super) fn backoff(failures: u32, left: SignedDuration) -> SignedDuration {
    let longest = SignedDuration::from_secs(2_i64 << failures.min(10)).min(SignedDuration::from_mins(5)).min(left / 10);
    longest.mul_f64(random()).max(SignedDuration::from_millis(500))
}

/// From 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all members come at once, which is no reason not to come at all.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// Sleeps by `clock`, however it is set meanwhile.
pub(super) async fn sleep_until(clock: &dyn Clock, at: Timestamp) {
    loop {
        let left = at.duration_since(clock.now());
        if left <= SignedDuration::ZERO {
            return;
        }
        tokio::time::sleep(left.min(LOOK).unsigned_abs()).await;
    }
}

impl CredentialSource {
    /// Replaces the credential by one of `renew` when two thirds of its life are over, a little earlier at random, or as
    /// soon as `superseded` returns for it; what fails is tried again with backoff, told to `failed`, with how long it
    /// waits and how the certificate stands.
    ///
    /// For servers and controllers, whose certificates are issued anew; members have a [`Renewer`](crate::Renewer). Never
    /// returns; dropping the future stops it.
    pub async fn keep_fresh<F, N>(
        &self,
        clock: &dyn Clock,
        renew: impl Fn() -> F,
        superseded: impl Fn(Arc<Credential>) -> N,
        failed: impl Fn(&BoxError, Duration, RenewalStatus),
    ) where
        F: Future<Output = Result<Credential, BoxError>>,
        N: Future<Output = ()>,
    {
        let (mut failures, mut next) = (0, due_of(&self.current()));
        loop {
            let due = pin!(sleep_until(clock, next));
            if failures == 0 {
                let _either = select(due, pin!(superseded(self.current()))).await;
            } else {
                due.await;
            }
            match renew().await {
                Ok(credential) => {
                    next = due_of(&credential);
                    failures = 0;
                    self.rotate(credential);
                    // Whoever has issued it may have yet to hear of what has superseded the one before.
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => {
                    let (now, current) = (clock.now(), self.current());
                    let left = current.not_after().duration_since(now).max(SignedDuration::from_secs(10));
                    let again = backoff(failures, left);
                    failures += 1;
                    failed(&error, again.unsigned_abs(), RenewalStatus::of(&current, now));
                    next = now.checked_add(again).unwrap_or(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn ten_thousand_agents_of_one_minute_do_not_renew_in_one_minute() {
        let life = SignedDuration::from_hours(72);
        let mut minutes: BTreeMap<i64, u32> = BTreeMap::new();
        for agent in 0..10_000 {
            let issued = at(agent % 60);
            let due = due(issued, issued + life);
            let share = due.duration_since(issued).as_secs_f64() / life.as_secs_f64();
            assert!((0.6..=2.0 / 3.0 + 1e-9).contains(&share), "{share}");
            *minutes.entry(due.as_second() / 60).or_default() += 1;
        }
        // 4.8 hours have 288 minutes: 35 in each, and hardly ever twice as many.
        assert!(minutes.len() > 250, "{} minutes", minutes.len());
        let most = minutes.values().max().unwrap();
        assert!(*most < 90, "{most} in one minute");
    }

    #[test]
    fn tries_come_ever_less_often_at_random_and_the_more_often_the_less_is_left() {
        let plenty = SignedDuration::from_hours(24);
        for failures in 0..40 {
            let longest = SignedDuration::from_secs(2_i64 << failures.min(10)).min(SignedDuration::from_mins(5));
            let waits: Vec<_> = (0..100).map(|_| backoff(failures, plenty)).collect();
            assert!(
                waits.iter().all(|wait| *wait <= longest && *wait >= SignedDuration::from_millis(500)),
                "{waits:?}"
            );
            let mut sorted = waits.clone();
            sorted.sort();
            sorted.dedup();
            assert!(sorted.len() > 20, "not at random: {waits:?}");
        }
        let hurry = (0..100).map(|_| backoff(30, SignedDuration::from_secs(30))).max().unwrap();
        assert!(hurry <= SignedDuration::from_secs(3), "{hurry:?}");
    }

    #[test]
    fn the_alarm_comes_after_a_third_of_what_is_left_when_renewal_is_due() {
        let status = |now| RenewalStatus::new(at(0), at(900), at(now)).overdue;
        assert_eq!([599, 601, 699, 700, 900, 1_000].map(status), [false, false, false, true, true, true]);
    }
}
