//! What a provider process and its asker say to each other.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    provisioner::fuzzing::lines(bytes);
});
