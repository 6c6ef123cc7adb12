//! Which streams end where a user holds more unread than a user may.
//!
//! A window is one for all streams of a connection (RFC 9113 §6.5.2), and h2 gives no stream another one. So a user is held
//! to a part by ending streams: beyond the user's limit at once, and where others are held up, what was not read for a good
//! while. Of those the first is the one that was not read for longest; streams that hold next to nothing are left alone.

use std::{cmp::Reverse, collections::HashMap};

use h2::StreamId;

use super::memory::{Accounts, FLOOR, Payer, Waiting};

/// Of what was not read for a while a user may hold this part of a tunnel's share where windows are not full. It leaves full
/// ones to others: a window is no more than a quarter of what is left.
const UNREAD: usize = 4;

/// Those that make up for what each user holds `beyond` the limit.
pub(super) fn beyond(streams: &HashMap<StreamId, Waiting>, beyond: Accounts) -> Vec<StreamId> {
    beyond.into_iter().flat_map(|(payer, much)| longest(streams, &payer, much, |_| true)).collect()
}

/// Those that bring users down who hold too much of a tunnel's share in streams that are `unread`.
pub(super) fn unread(
    streams: &HashMap<StreamId, Waiting>,
    accounts: &Accounts,
    share: usize,
    unread: impl Fn(&Waiting) -> bool,
) -> Vec<StreamId> {
    let mut ended = Vec::new();
    for (payer, _) in accounts.iter().filter(|(_, held)| **held > share / UNREAD) {
        let theirs = streams.values().filter(|waiting| waiting.payer.as_ref() == Some(payer) && unread(waiting));
        let held: usize = theirs.map(|waiting| waiting.held).sum();
        if held > share / UNREAD {
            ended.extend(longest(streams, payer, held - share / UNREAD, &unread));
        }
    }
    ended
}

/// Streams of `payer` that hold so `much` together, or all of them.
fn longest(
    streams: &HashMap<StreamId, Waiting>,
    payer: &Payer,
    much: usize,
    counts: impl Fn(&Waiting) -> bool,
) -> Vec<StreamId> {
    let is = |waiting: &Waiting| waiting.payer.as_ref() == Some(payer) && waiting.held > FLOOR as usize;
    let mut theirs: Vec<_> = streams.iter().filter(|(_, waiting)| is(waiting) && counts(waiting)).collect();
    theirs.sort_by_key(|(_, waiting)| (waiting.since, Reverse(waiting.held)));
    let mut found = 0;
    let enough = |(_, waiting): &(&StreamId, &Waiting)| {
        let more = found < much;
        found += waiting.held;
        more
    };
    theirs.into_iter().take_while(enough).map(|(id, _)| *id).collect()
}
