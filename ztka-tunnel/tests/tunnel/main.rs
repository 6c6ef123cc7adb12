//! Both ends of the tunnel together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod attacks;
mod beside;
mod budget;
mod deaf;
mod farewell;
mod figures;
mod last_words;
mod leaving;
mod life;
mod news;
mod pair;
mod peers;
mod raw;
mod requests;
mod retries;
mod storms;
mod tls;
mod trace;
mod unsent;
mod upgrades;
mod ways;
mod windows;
