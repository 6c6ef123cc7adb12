//! Exports and proofs of the transparency log; what must hold is written in ztka-audit's tests.
#![no_main]

#[path = "../../ztka-audit/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::export::audit_export(data);
});
