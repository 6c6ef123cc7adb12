//! A question about oneself, in protobuf and in JSON; what must hold is written in ztka-agent's tests.
#![no_main]

#[path = "../../ztka-agent/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::self_review(data);
});
