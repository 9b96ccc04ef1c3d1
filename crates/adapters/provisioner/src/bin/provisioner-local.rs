//! The local provider as a process: launches PROGRAM on this machine, remembers in DIRECTORY, and speaks the
//! provider protocol on its standard input and output.

use std::path::PathBuf;
use std::process::ExitCode;

use provisioner::{LocalProcess, serve};
use tokio::io::{AsyncWriteExt as _, stderr, stdin, stdout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(program), Some(directory), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return fail("usage: provisioner-local PROGRAM DIRECTORY").await;
    };
    let served = match LocalProcess::new(program, directory) {
        Ok(local) => serve(&local, stdin(), stdout()).await,
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            fail(&format!("{error} ({})", cause.unwrap_or_default())).await
        }
    }
}

async fn fail(text: &str) -> ExitCode {
    // Nobody may be listening; the exit code says it too.
    drop(stderr().write_all(format!("{text}\n").as_bytes()).await);
    ExitCode::FAILURE
}
