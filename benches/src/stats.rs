//! Percentiles of one run, medians of several.

use std::time::Duration;

/// The value that `share` (0 to 1) of `sorted` do not exceed, by nearest rank; zero of nothing.
#[must_use]
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize - 1;
    sorted.get(rank.min(last)).copied().unwrap_or_default()
}

/// The middle value, the mean of the two in the middle of an even number; `None` of nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    match values.len() % 2 {
        0 => values.get(middle - 1).map(|lower| f64::midpoint(*lower, upper)),
        _ => Some(upper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        for (share, micros) in [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)] {
            assert_eq!(percentile(&hundred, share), Duration::from_micros(micros), "{share}");
        }
        assert_eq!(percentile(&[Duration::from_secs(3)], 0.99), Duration::from_secs(3));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(median([]), None);
        assert_eq!(median([4.0]), Some(4.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!(median([1e9, 5.0, 5.0, 5.0, 0.1]), Some(5.0));
    }
}
