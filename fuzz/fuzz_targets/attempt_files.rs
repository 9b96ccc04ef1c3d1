//! The order, the status and the end of an attempt, as a disk could return them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    executor::fuzzing::stored(bytes);
});
