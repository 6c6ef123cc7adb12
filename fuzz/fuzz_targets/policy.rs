//! A policy, and questions to it; what must hold is written in ztka-authz's tests.
#![no_main]

#[path = "../../ztka-authz/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::policy(data);
});
