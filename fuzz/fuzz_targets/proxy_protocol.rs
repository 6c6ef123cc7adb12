//! What a balancer sends before a connection; what must hold is written in ztka-proxy's tests.
#![no_main]

#[path = "../../ztka-proxy/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::proxy_protocol::proxy_protocol(data);
});
