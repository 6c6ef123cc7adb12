//! A connection of HTTP/2; what must hold is written in ztka-proxy's tests.
#![no_main]

#[path = "../../ztka-proxy/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::http2::http2_guard(data);
});
