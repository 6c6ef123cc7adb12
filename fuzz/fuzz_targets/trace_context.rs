//! What a client says of its trace; what must hold is written in ztka-core's tests.
#![no_main]

#[path = "../../ztka-core/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::trace::trace_context(data);
});
