//! Both directions of a port-forward, bare or inside a WebSocket; what must hold is written in ztka-core's tests.
#![no_main]

#[path = "../../ztka-core/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::port_forward(data);
});
