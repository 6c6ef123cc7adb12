//! A kubeconfig; what must hold is written in the command line's tests.
#![no_main]

#[path = "../../bins/ztka/tests/readings/kubeconfig.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::read(data);
});
