//! What is around the messages of replicas, and is read first.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    consensus::fuzzing::envelope(bytes);
});
