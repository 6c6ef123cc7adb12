//! A document from the wire; what must hold is written in ztka-core's tests.
#![no_main]

#[path = "../../ztka-core/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::signed_document(data);
});
