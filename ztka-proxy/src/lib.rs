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
mod news;
mod open;
mod pass_on;
pub mod proxy_protocol;
mod server_certificate;
mod shed;
mod splice;
mod tunnels;
mod users;

pub use self::{
    acceptor::{Acceptor, Arrival, Drain, Handler, Listener},
    authenticate::CertificateAuthenticator,
    buffered::Buffered,
    connection::{Certificate, Connection},
    directory::Directory,
    guard::{FloodLimits, Framing, Guarded, Violation},
    hello::{BadHello, server_name},
    limits::Limits,
    names::{Names, Role},
    news::publish,
    open::{CutLayer, CutService, Open},
    pass_on::{PassOn, Passed},
    proxy_protocol::{Cidr, InvalidCidr},
    server_certificate::ServerCertificate,
    shed::{PerUser, PerUserLayer, Shed, ShedLayer},
    splice::{Splice, SpliceLayer},
    tunnels::Tunnels,
    users::{UserBody, Users},
};
