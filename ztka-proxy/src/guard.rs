//! Framing guard: a byte-level check between TLS and the HTTP server.
//!
//! It lets one well-formed message after the other through and counts what costs a server more than it costs a client.
//! Of a body only lengths are followed, so that its bytes go straight through.
mod http1;
mod io;
mod violation;

pub(crate) use self::io::REFUSED;
pub use self::{
    io::{Framing, Guarded},
    violation::Violation,
};
