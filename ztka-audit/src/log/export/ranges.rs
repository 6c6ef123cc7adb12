//! Ranges of leaves that are missing, gone or covered, in bounded memory.

use std::ops::Range;

/// Ranges that may still come, or be covered: of so many the memory is bounded.
pub(super) const MOST: usize = 100_000;

/// Adds a range to those that grow at their end.
pub(super) fn push(ranges: &mut Vec<Range<u64>>, more: Range<u64>) {
    let has_room = ranges.len() < MOST;
    match ranges.last_mut() {
        Some(last) if last.end == more.start => last.end = more.end,
        // What does not fit in here is told as missing, or as gone: never as fine.
        _ if has_room => ranges.push(more),
        Some(last) => last.end = last.end.max(more.end),
        None => {}
    }
}

/// Takes a leaf out of the ranges, if it is in one.
pub(super) fn take(ranges: &mut Vec<Range<u64>>, leaf: u64) -> bool {
    let Some(at) = ranges.iter().position(|range| range.contains(&leaf)) else { return false };
    let Range { start, end } = ranges.remove(at);
    for part in [leaf + 1..end, start..leaf] {
        if !part.is_empty() {
            ranges.insert(at, part);
        }
    }
    true
}

/// Sorted, and without overlaps.
pub(super) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}
