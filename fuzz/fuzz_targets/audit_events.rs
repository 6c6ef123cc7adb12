//! Audit events that requests are decided on again from; what must hold is written in ztka-authz's tests.
#![no_main]

#[path = "../../ztka-authz/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::audit_events(data);
});
