//! A snapshot file, header and state.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    consensus::fuzzing::snapshot(bytes);
});
