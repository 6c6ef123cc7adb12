//! Replays the corpora of the fuzz targets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod readings;
#[path = "../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn certificate_signing_requests() {
    replay("csr", 100, readings::csr::csr);
}

#[test]
fn enrolment_tokens() {
    replay("enrolment_token", 200, readings::token::enrolment_token);
}

#[test]
fn enrolment_messages() {
    replay("enrolment_messages", 30, readings::wire::enrolment_messages);
}

#[test]
fn stored_credentials() {
    replay("stored_credential", 20, readings::stored::stored_credential);
}

#[test]
fn certificates_of_peers() {
    replay("peer_certificate", 30, readings::peer::peer_certificate);
}

#[test]
fn what_somebody_elses_root_has_signed() {
    replay::replay("authority_chain", 30, readings::authority::authority_chain);
}

#[test]
fn private_keys() {
    replay::replay("private_key", 40, readings::key::private_key);
}
