//! Who is let in by an agent, what is on record of those who are not, and when what is open ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod evidence;
mod obligations;
mod open;
mod ports;
mod stale;
mod support;
