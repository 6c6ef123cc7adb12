//! A whole installation for tests: controller, proxies and agents as processes of their own around real clusters, and
//! everything administered by the `ztka` command line, as an operator would.
mod both;
mod client;
mod cutter;
mod exec;
mod fleet;
mod haproxy;
mod load;
mod pem;
mod process;
mod programs;
mod raw;
mod squid;

pub use self::{
    both::{Both, DIRECT, THROUGH, seen_of},
    client::{Answer, Client, Connection},
    cutter::{Cut, Cutter},
    exec::Exec,
    fleet::{Agent, Fleet, Installation, Proxy, Upstream, User},
    haproxy::Haproxy,
    load::Load,
    pem::Pem,
    process::{Process, free_port},
    programs::program,
    raw::{Raw, Said},
    squid::Squid,
};
