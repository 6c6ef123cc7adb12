//! The place that a consumer of an audit spool has come to; what must hold is written in ztka-audit's tests.
#![no_main]

#[path = "../../ztka-audit/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::cursor::spool_cursor(data);
});
