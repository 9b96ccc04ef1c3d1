//! Running git.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// Settings that keep git from running other programs.
const SETTINGS: [&str; 6] = [
    "-c",
    "core.quotepath=off",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
];
/// Variables that would point git at another repository, as they do in a hook.
const MISLEADING: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
];
/// Bytes of git's complaints that are kept: the first lines say what is wrong.
const COMPLAINT_BYTES: u64 = 4 << 10;

/// Runs git in `directory` and returns what it prints.
///
/// # Errors
/// git cannot be started, fails, or prints more than `limit` bytes.
pub(super) fn git<S: AsRef<OsStr>>(
    directory: &Path,
    arguments: &[S],
    limit: u64,
) -> Result<Vec<u8>, Error> {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(directory)
        .args(SETTINGS)
        .args(arguments);
    for name in MISLEADING {
        command.env_remove(name);
    }
    command
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |source| Error::GitStart {
        path: directory.to_owned(),
        source,
    };
    let mut child = command.spawn().map_err(failed)?;
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let (output, complaint) = std::thread::scope(|scope| {
        let complaint = scope.spawn(move || read_up_to(&mut stderr, COMPLAINT_BYTES, true));
        let output = read_up_to(&mut stdout, limit + 1, false);
        drop(stdout); // git ends by SIGPIPE if it has more to say
        (output, complaint.join().expect("reading does not panic"))
    });
    let status = child.wait().map_err(failed)?;
    let (output, complaint) = (output.map_err(failed)?, complaint.map_err(failed)?);
    if output.len() as u64 > limit {
        return Err(Error::GitOutput {
            arguments: spoken(arguments),
            limit,
        });
    }
    if !status.success() {
        return Err(Error::Git {
            arguments: spoken(arguments),
            message: String::from_utf8_lossy(&complaint).trim().to_owned(),
        });
    }
    Ok(output)
}

/// Reads at most `limit` bytes; with `drain` the rest is read too, and dropped.
fn read_up_to(reader: &mut impl Read, limit: u64, drain: bool) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(limit).read_to_end(&mut bytes)?;
    if drain {
        std::io::copy(reader, &mut std::io::sink())?;
    }
    Ok(bytes)
}

/// The first words of the arguments.
fn spoken<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let words = arguments
        .iter()
        .take(3)
        .map(|word| word.as_ref().to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}
