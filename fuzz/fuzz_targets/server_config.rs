//! A configuration file of proxy, agent or controller; what must hold is written in the tests of bins/ztka.
#![no_main]

#[path = "../../bins/ztka/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::server_config(data);
});
