//! What must hold after every step: one file for each invariant of ARCHITECTURE.md, numbered as there.

mod i01_durable;
mod i02_deterministic;
mod i03_stored;
mod i04_repeats;
mod i05_reads;
mod i06_small_log;
mod i07_one_founding;
mod i08_admitted;
mod i09_voters;
mod i10_suspect;
mod i11_one_at_a_time;
mod i12_one_end;
mod i20_grants;

use agent::StopReason;
use state_machine::{Applied, ClusterState, LogEntry, Outcome};
use types::{AttemptToken, LogIndex, RequestId};

use crate::host::Host;

/// Something that happened. Facts are what the world knows and no node does.
#[derive(Clone, Copy, Debug)]
pub enum Fact<'a> {
    /// An entry has a place in the log for good: so many of so many voters have it on disk.
    Committed {
        /// Its place.
        index: u64,
        /// Voters that have it on disk.
        on_disk: usize,
        /// Voters.
        voters: usize,
    },
    /// It was applied, by the first replica and by another one that goes through snapshots.
    Applied {
        /// Its place.
        index: LogIndex,
        /// The entry.
        entry: &'a LogEntry,
        /// What it did.
        applied: &'a Applied,
        /// What it did to the other replica.
        twin: &'a Applied,
    },
    /// A person was told what became of a request.
    Acknowledged {
        /// Which.
        request: RequestId,
        /// Its place in the log.
        index: LogIndex,
        /// What they were told.
        outcome: &'a Outcome,
    },
    /// A read that had to be linearizable was answered.
    Read {
        /// The newest index that anybody had been told when it was asked.
        floor: LogIndex,
        /// The index that it was answered from.
        index: LogIndex,
    },
    /// A node was elected whose log begins with `holds` of the `committed` entries.
    Elected {
        /// Committed entries that it has.
        holds: usize,
        /// Committed entries.
        committed: usize,
    },
    /// The voters change.
    Voters {
        /// Before.
        before: &'a [usize],
        /// After.
        after: &'a [usize],
        /// The change before this one is committed.
        settled: bool,
    },
    /// The process of an attempt runs on a machine from now on.
    Started {
        /// Where.
        host: usize,
        /// Which.
        token: AttemptToken,
    },
    /// Its process tree is gone.
    Over {
        /// Where.
        host: usize,
        /// Which.
        token: AttemptToken,
    },
    /// A node ends an attempt.
    Stopped {
        /// Where.
        host: usize,
        /// Which.
        token: AttemptToken,
        /// Why.
        reason: &'a StopReason,
    },
    /// A leader, confirmed by a majority, granted a lease to the machine.
    Granted {
        /// To whom.
        host: usize,
        /// Of which attempt.
        token: AttemptToken,
    },
    /// An event is over.
    Step,
}

/// The world as it is when something happened.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// True time.
    pub now: u64,
    /// All committed entries applied.
    pub state: &'a ClusterState,
    /// The same, by another way.
    pub twin: &'a ClusterState,
    /// All machines.
    pub hosts: &'a [Host],
}

/// One invariant.
pub trait Invariant: std::fmt::Debug {
    /// Takes a fact in and says what it breaks.
    ///
    /// # Errors
    /// What does not hold, for people.
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String>;

    /// What must hold when everything is over.
    ///
    /// # Errors
    /// What does not hold, for people.
    fn at_the_end(&mut self, _scene: &Scene<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// All of them with their numbers in ARCHITECTURE.md.
#[must_use]
pub fn all() -> Vec<(u32, Box<dyn Invariant>)> {
    vec![
        (1, Box::<i01_durable::Durable>::default()),
        (2, Box::<i02_deterministic::Deterministic>::default()),
        (3, Box::<i03_stored::Stored>::default()),
        (4, Box::<i04_repeats::Repeats>::default()),
        (5, Box::<i05_reads::Reads>::default()),
        (6, Box::<i06_small_log::SmallLog>::default()),
        (7, Box::<i07_one_founding::OneFounding>::default()),
        (8, Box::<i08_admitted::Admitted>::default()),
        (9, Box::<i09_voters::Voters>::default()),
        (10, Box::<i10_suspect::Suspect>::default()),
        (11, Box::<i11_one_at_a_time::OneAtATime>::default()),
        (12, Box::<i12_one_end::OneEnd>::default()),
        (20, Box::<i20_grants::Grants>::default()),
    ]
}
