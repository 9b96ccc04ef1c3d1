//! Ending what was launched, with everything that it left behind.

use std::time::Duration;

use rustix::process::Signal;

use super::process::{self, Target};
use super::stored::StoredInstance;
use crate::Error;

/// Rounds of killing what an instance left behind: each finds what was forked during the one before.
const SWEEP_ROUNDS: usize = 50;
/// Wait for killed processes in one round; the kernel frees even large ones well within it.
const SWEEP_WAIT: Duration = Duration::from_millis(200);

/// Ends the process of an instance and waits for it, with SIGTERM first if there is a grace.
pub(super) fn kill_and_wait(
    instance: &StoredInstance,
    grace: Option<Duration>,
) -> Result<(), Error> {
    let id = &instance.id;
    let Some(process) = &instance.process else {
        return Ok(());
    };
    let signal = |source| Error::Signal {
        id: id.clone(),
        source,
    };
    let Some(target) = Target::open(process)? else {
        return Ok(());
    };
    if let Some(grace) = grace {
        target.signal(Signal::TERM).map_err(signal)?;
        if target.wait(grace).map_err(signal)? {
            return Ok(());
        }
    }
    target.signal(Signal::KILL).map_err(signal)?;
    for _ in 0..SWEEP_ROUNDS {
        if target.wait(SWEEP_WAIT).map_err(signal)? {
            return Ok(());
        }
    }
    Err(Error::StillRuns {
        id: id.clone(),
        pids: vec![process.pid],
    })
}

/// Kills what an instance left behind, until nothing is found.
pub(super) fn sweep(id: &str) -> Result<(), Error> {
    let mut left = process::of_instance(id)?;
    for _ in 0..SWEEP_ROUNDS {
        if left.is_empty() {
            return Ok(());
        }
        let signal = |source| Error::Signal {
            id: id.to_owned(),
            source,
        };
        let mut targets = Vec::new();
        for process in &left {
            targets.extend(Target::open(process)?);
        }
        for target in &targets {
            target.signal(Signal::KILL).map_err(signal)?;
        }
        for target in &targets {
            target.wait(SWEEP_WAIT).map_err(signal)?;
        }
        left = process::of_instance(id)?;
    }
    Err(Error::StillRuns {
        id: id.to_owned(),
        pids: left.iter().map(|process| process.pid).collect(),
    })
}
