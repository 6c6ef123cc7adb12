//! Authorities that somebody else has signed; what must hold is written in ztka-pki's tests.
#![no_main]

#[path = "../../ztka-pki/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::authority::authority_chain(data);
});
