//! Ties something to the life of a reply.

pub(crate) use ztka_core::{Hold, hold};
