//! A policy file, and one of expectations; what must hold is written in ztka-authz's tests.
#![no_main]

#[path = "../../ztka-authz/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::policy_file(data);
});
