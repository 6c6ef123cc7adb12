//! Frames of an upgraded SPDY/3.1 connection; what must hold is written in ztka-core's tests.
#![no_main]

#[path = "../../ztka-core/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::spdy_frames(data);
});
