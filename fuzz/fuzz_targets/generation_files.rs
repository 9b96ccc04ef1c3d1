//! The files of a store's generation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    consensus::fuzzing::generations(bytes);
});
