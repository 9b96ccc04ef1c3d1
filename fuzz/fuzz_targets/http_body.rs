//! A body of each HTTP route.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    rest::fuzzing::body(bytes);
});
