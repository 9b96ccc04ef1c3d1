//! What a job prints: the same scalars however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    executor::fuzzing::job_output(bytes);
});
