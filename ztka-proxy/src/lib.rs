//! The proxy as a library.
mod acceptor;
mod address;
mod authenticate;
mod buffered;
mod connection;
mod directory;
mod guard;
mod hello;
mod hold;
mod limits;
mod names;
mod open;
mod pass_on;
pub mod proxy_protocol;
mod shed;
mod splice;
mod users;

pub use self::{
    acceptor::{Acceptor, Arrival, Drain, Handler, Listener},
    authenticate::CertificateAuthenticator,
    buffered::Buffered,
    connection::{Certificate, Connection},
    directory::{Directory, Unusable},
    guard::{FloodLimits, Framing, Guarded, Violation},
    hello::{BadHello, server_name},
    limits::Limits,
    names::{Names, Role},
    open::{CutLayer, CutService, Open},
    pass_on::{PassOn, Passed},
    proxy_protocol::{Cidr, InvalidCidr},
    shed::{PerUser, PerUserLayer, Shed, ShedLayer},
    splice::{Splice, SpliceLayer},
    users::{UserBody, Users},
};
