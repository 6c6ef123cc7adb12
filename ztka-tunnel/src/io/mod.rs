//! What lies between HTTP/2 and the transport: gathered writes, large reads.

mod gather;
mod read_ahead;

pub(crate) use self::gather::{Wire, gather};
pub use self::read_ahead::ReadAhead;
