//! The rows, marks and records of a stored log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    consensus::fuzzing::stored_log(bytes);
});
