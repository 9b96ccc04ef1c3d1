//! File descriptors kept for the log: a node that has run out of them by connections and jobs still writes its
//! snapshots and archives, since it gives up a few that it holds for that moment.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Descriptors held back: a snapshot, an archive and their directories at a time, and some that others snatch.
const HELD: usize = 8;

static SPARE: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// `EMFILE` and `ENFILE`: this process, or the whole system, has none left.
fn is_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let none_left = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    none_left
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Takes what is to be held back; what cannot be had is not held.
pub(crate) fn hold() {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    while spare.len() < HELD {
        match File::open("/dev/null") {
            Ok(file) => spare.push(file),
            Err(_none_left) => return,
        }
    }
}

/// Runs `open`, and once more with the spare descriptors given up if there is none left.
pub(crate) fn opened<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match open() {
        Err(error) if is_exhausted(&error) => {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            let given_up = spare.len();
            spare.clear();
            let second = open();
            drop(spare);
            tracing::warn!(
                given_up,
                worked = second.is_ok(),
                "no file descriptors are left"
            );
            second
        }
        first => {
            hold();
            first
        }
    }
}
