//! What a node and a holder say to each other.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    executor::fuzzing::holder_messages(bytes);
});
