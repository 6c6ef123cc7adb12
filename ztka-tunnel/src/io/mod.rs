//! What lies between HTTP/2 and the transport: gathered writes, large reads, and a guard over what comes.

mod frames;
mod gather;
mod read_ahead;
mod unacknowledged;

pub(crate) use self::gather::{Wire, gather};
pub use self::{
    frames::{BadFrames, FloodLimits, FrameGuard},
    read_ahead::ReadAhead,
    unacknowledged::give_up_unacknowledged,
};
