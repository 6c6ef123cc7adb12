//! One HTTP/2 stream as the rest of ZTKA sees it: bodies, and a connection that has changed protocol.

mod channel;
pub(crate) mod memory;
mod pump;
mod received;

pub use self::channel::Channel;
pub(crate) use self::{
    pump::{Unfinished, pump},
    received::Received,
};
