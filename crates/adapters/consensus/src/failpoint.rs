//! Named places before and after each durable step at which a test can have the process killed, as by a power cut.
//! Debug builds only: in a release build nothing of it is left.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    /// All places, for a test that goes through them.
    pub const NAMES: &[&str] = &[
        "append.before_write",
        "append.before_sync",
        "append.before_mark",
        "append.after_mark",
        "truncate.before_mark",
        "truncate.before_write",
        "purge.before_write",
        "purge.after_write",
        "apply.before_publish",
        "apply.after_publish",
        "snapshot.before_write",
        "file.before_sync",
        "file.before_rename",
        "file.after_rename",
        "snapshot.before_remove",
        "snapshot.before_adopt",
        "archive.before_write",
        "archive.after_write",
        "generation.after_write",
    ];

    static ARMED: Mutex<Option<(String, u64)>> = Mutex::new(None);

    /// Kills this process the `nth` time (from 1) that it comes to `name`.
    pub fn arm(name: &str, nth: u64) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), nth));
    }

    pub(crate) fn reached(name: &'static str) {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((wanted, left)) = armed.as_mut().filter(|(wanted, _)| wanted == name) else {
            return;
        };
        debug_assert!(NAMES.contains(&name), "{wanted} is missing in NAMES");
        *left = left.saturating_sub(1);
        if *left == 0 {
            // Nothing is caught and nothing is flushed; the lock is kept, so that nobody gets further than this.
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(debug_assertions)]
pub(crate) use armed::reached;
#[cfg(debug_assertions)]
pub use armed::{NAMES, arm};

#[cfg(not(debug_assertions))]
pub(crate) const fn reached(_name: &'static str) {}
