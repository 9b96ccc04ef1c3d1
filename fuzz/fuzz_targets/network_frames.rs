//! The frames of members and strangers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    network::fuzzing::frames(bytes);
});
