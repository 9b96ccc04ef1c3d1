//! The smallest holder program: what `muster hold-attempt <attempt directory>` does, for tests and benchmarks.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(directory) => executor::hold(&PathBuf::from(directory)),
        None => ExitCode::FAILURE,
    }
}
