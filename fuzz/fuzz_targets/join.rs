//! What a stranger says at the gate; signed member lists.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    network::fuzzing::join(bytes);
});
