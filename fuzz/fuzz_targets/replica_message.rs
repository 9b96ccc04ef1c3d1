//! What replicas say to each other.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    consensus::fuzzing::replica_message(bytes);
});
