//! One HTTP/2 stream as the rest of ZTKA sees it: bodies, and a connection that has changed protocol.

mod channel;
mod inflow;
mod last_words;
pub(crate) mod memory;
mod overdrawn;
mod pump;
mod received;

pub use self::{channel::Channel, last_words::LastWords};
pub(crate) use self::{
    inflow::{Broken, Inflow},
    pump::{Unfinished, pump},
    received::Received,
};
