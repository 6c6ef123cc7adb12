//! The files of an audit spool; what must hold is written in ztka-audit's tests.
#![no_main]

#[path = "../../ztka-audit/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::segments::spool_segments(data);
});
