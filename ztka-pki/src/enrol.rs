//! Enrolment by one-time token and renewal by certificate: the service, and the client.
mod client;
mod event;
mod exchange;
mod keep;
mod memory;
mod renewal;
mod renewer;
mod replica;
mod schedule;
mod service;
mod store;
mod token;
mod wire;

pub use self::{
    client::{EnrolError, Enrolled, EnrolmentClient},
    event::{EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal},
    exchange::{Connect, Connection, Exchange, ExchangeError, HttpsExchange, TcpConnect},
    keep::{CredentialDirectory, CredentialStore, CredentialStoreError, MemoryCredentialStore, StoredCredential},
    memory::MemoryEnrolmentStore,
    renewal::RenewalService,
    renewer::{RenewalEnd, RenewalObserver, Renewer},
    replica::{ReplicaService, join_beside},
    schedule::RenewalStatus,
    service::{EnrolmentService, Published, TrustPublisher},
    store::{Admission, Enrollee, EnrolmentStore, Replica, Spent, StoreError, TokenRecord, Verdict},
    token::{EnrolmentToken, InvalidToken, TokenId},
    wire::{ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, INSTANCES_PATH, RENEW_PATH, RenewalRequest, WaitingAnswer},
};
