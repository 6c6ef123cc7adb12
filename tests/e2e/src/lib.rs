//! A whole installation for tests: controller, proxies and agents as processes of their own around real clusters, and
//! everything administered by the `ztka` command line, as an operator would.
mod fleet;
mod process;
mod programs;

pub use self::{
    fleet::{Agent, Fleet, Installation, Proxy, User},
    process::{Process, free_port},
    programs::program,
};
