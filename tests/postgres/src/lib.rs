//! A real PostgreSQL server for tests: Debian's programs, a data directory of its own, a Unix socket, gone afterwards.
//!
//! ```no_run
//! # fn example() -> anyhow::Result<()> {
//! let Some(server) = ztka_test_postgres::Server::shared_or_skip()? else { return Ok(()) };
//! let url = server.database()?; // postgres:///test_0?host=/tmp/…&user=postgres
//! # Ok(()) }
//! ```
//!
//! A shell watches each server: it ends the server and removes its folder when the [`Server`] is dropped, and also when
//! the test process ends in any other way. `fsync` is on, as in production.

mod programs;
mod server;

pub use self::{
    programs::{PACKAGE, missing},
    server::Server,
};
