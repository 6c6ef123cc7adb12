//! The agent's credential in a Secret; what must hold is written in ztka-agent's tests.
#![no_main]

#[path = "../../ztka-agent/tests/readings/mod.rs"]
mod readings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    readings::secret::credential_secret(data);
});
