//! Bodies that go past the record; what must hold is written in ztka-audit's tests.
#![no_main]

#[path = "../../ztka-audit/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::body::audit_body(data);
});
