//! Private keys in PEM files; what must hold is written in ztka-pki's tests.
#![no_main]

#[path = "../../ztka-pki/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::key::private_key(data);
});
