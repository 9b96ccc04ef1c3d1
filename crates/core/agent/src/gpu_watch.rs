//! Who holds more GPU memory than it was given, and whose GPU has failed: from looks at the GPUs to words and stops.
//!
//! Sharing a GPU is placement plus this watch: nothing keeps a process from memory that it was not given. A job that has
//! a whole GPU may use all of it.

use std::collections::BTreeMap;

use state_machine::VramOveruse;
use types::{AttemptToken, GpuIndex, Overuse, Timestamp};

/// Thousandths of a whole GPU.
const WHOLE: u64 = 1_000;
/// Looks in a row, about a second apart, in which more is held before it counts: one peak of an allocator is no crime.
const OVER_LOOKS: u32 = 2;
/// Looks in a row within its share before over-use counts as over, so that one that comes and goes fills no log.
const WITHIN_LOOKS: u32 = 60;
/// Looks in a row in which a GPU has a problem before what runs on it is ended: a driver may stumble.
const FAILED_LOOKS: u32 = 5;
/// Growth beyond what was told that is told anew: a quarter of what was given, and at least this.
const LEAST_GROWTH_BYTES: u64 = 1 << 30;

/// One look at all attempts of the node and the GPUs that they were given or use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuLook {
    /// Number of the driver's answer; the same answer seen twice counts once.
    pub number: u64,
    /// Wall clock of the node.
    pub at: Timestamp,
    /// Each attempt with each GPU once.
    pub parts: Vec<GpuPart>,
}

/// One attempt on one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuPart {
    /// The attempt.
    pub token: AttemptToken,
    /// Its rank on this node.
    pub rank: u32,
    /// The GPU.
    pub gpu: GpuIndex,
    /// Thousandths that it was given; 0: none of it.
    pub granted_milli: u64,
    /// Bytes that it was given.
    pub granted_bytes: u64,
    /// Bytes that its processes hold.
    pub used_bytes: u64,
    /// Why the GPU cannot be used any more.
    pub problem: Option<String>,
    /// What is to be done if it holds more than it was given.
    pub policy: Overuse,
    /// A node process before this one started it, and may have told of an over-use that is over by now.
    pub is_adopted: bool,
}

/// What the node's loop does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuAction {
    /// Tell the cluster; said at each look until [`GpuWatch::told`].
    Tell {
        /// The attempt.
        token: AttemptToken,
        /// Its rank on this node.
        rank: u32,
        /// What is to be known.
        overuse: VramOveruse,
    },
    /// End the attempt for what it holds; said once.
    Stop {
        /// The attempt.
        token: AttemptToken,
        /// What it holds.
        overuse: VramOveruse,
    },
    /// End the attempt: its GPU is gone; said once.
    GiveUp {
        /// The attempt.
        token: AttemptToken,
        /// The GPU.
        gpu: GpuIndex,
        /// In the node's words.
        problem: String,
    },
}

/// What was seen of one attempt on one GPU so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Watched {
    over_looks: u32,
    within_looks: u32,
    failed_looks: u32,
    /// Since when it holds more, as far as that is not over.
    since: Option<Timestamp>,
    /// What the cluster is to know.
    known: Option<VramOveruse>,
    /// The cluster knows it.
    is_told: bool,
    /// A node process before this one may have told of an over-use that is over by now.
    may_be_open: bool,
    is_stopped: bool,
}

/// Remembers from look to look. Events wake it, the look decides.
#[derive(Clone, Debug, Default)]
pub struct GpuWatch {
    last: Option<u64>,
    watched: BTreeMap<(AttemptToken, GpuIndex), Watched>,
}

impl GpuWatch {
    /// Takes a look in and says what to do.
    pub fn step(&mut self, look: &GpuLook) -> Vec<GpuAction> {
        let is_new = self.last != Some(look.number);
        self.last = Some(look.number);
        let there = |key: &(AttemptToken, GpuIndex)| {
            let mut parts = look.parts.iter();
            parts.any(|part| (part.token, part.gpu) == *key)
        };
        self.watched.retain(|key, _| there(key));
        let mut actions = Vec::new();
        for part in &look.parts {
            let key = (part.token, part.gpu);
            let watched = self.watched.entry(key).or_insert_with(|| Watched {
                may_be_open: part.is_adopted,
                ..Watched::default()
            });
            if is_new {
                actions.extend(watched.fail(part));
                actions.extend(watched.weigh(part, look.at));
            }
            actions.extend(watched.tell(part));
        }
        actions
    }

    /// The cluster knows this now.
    pub fn told(&mut self, token: AttemptToken, overuse: &VramOveruse) {
        let Some(watched) = self.watched.get_mut(&(token, overuse.gpu)) else {
            return;
        };
        if watched.known.as_ref() == Some(overuse) {
            watched.is_told = true;
            if overuse.until.is_some() {
                watched.known = None;
            }
        }
    }
}

impl Watched {
    /// Counts looks at a failed GPU.
    fn fail(&mut self, part: &GpuPart) -> Option<GpuAction> {
        let Some(problem) = part.problem.as_ref().filter(|_| part.granted_milli > 0) else {
            self.failed_looks = 0;
            return None;
        };
        self.failed_looks = self.failed_looks.saturating_add(1);
        if self.failed_looks != FAILED_LOOKS {
            return None;
        }
        Some(GpuAction::GiveUp {
            token: part.token,
            gpu: part.gpu,
            problem: problem.clone(),
        })
    }

    /// Compares what it holds with what it was given.
    fn weigh(&mut self, part: &GpuPart, at: Timestamp) -> Option<GpuAction> {
        let is_over = part.granted_milli < WHOLE && part.used_bytes > part.granted_bytes;
        if !is_over {
            self.over_looks = 0;
            self.within_looks = self.within_looks.saturating_add(1);
            if self.open().is_none() {
                self.since = None;
            }
            if self.within_looks == WITHIN_LOOKS {
                self.close(part, at);
            }
            return None;
        }
        self.within_looks = 0;
        self.over_looks = self.over_looks.saturating_add(1);
        let since = *self.since.get_or_insert(at);
        if self.over_looks < OVER_LOOKS && self.open().is_none() {
            return None;
        }
        self.may_be_open = false;
        let is_stopped = part.policy == Overuse::Stop;
        let growth = (part.granted_bytes / 4).max(LEAST_GROWTH_BYTES);
        if self
            .open()
            .is_none_or(|known| part.used_bytes >= known.used_bytes.saturating_add(growth))
        {
            self.known = Some(VramOveruse {
                gpu: part.gpu,
                granted_bytes: part.granted_bytes,
                used_bytes: part.used_bytes,
                since,
                until: None,
                is_stopped,
            });
            self.is_told = false;
        }
        if !is_stopped || self.is_stopped {
            return None;
        }
        self.is_stopped = true;
        Some(GpuAction::Stop {
            token: part.token,
            overuse: self.known.clone()?,
        })
    }

    /// It has kept to its share for long enough.
    fn close(&mut self, part: &GpuPart, at: Timestamp) {
        let since = self.since.take().unwrap_or(at);
        let open = self.open().cloned();
        let doubtful = self.may_be_open.then_some(VramOveruse {
            gpu: part.gpu,
            granted_bytes: part.granted_bytes,
            used_bytes: 0,
            since,
            until: None,
            is_stopped: false,
        });
        self.may_be_open = false;
        let Some(known) = open.or(doubtful) else {
            return;
        };
        self.known = Some(VramOveruse {
            until: Some(at),
            ..known
        });
        self.is_told = false;
    }

    /// What the cluster is to know of an over-use that is not over.
    fn open(&self) -> Option<&VramOveruse> {
        self.known.as_ref().filter(|known| known.until.is_none())
    }

    fn tell(&self, part: &GpuPart) -> Option<GpuAction> {
        let overuse = self.known.clone().filter(|_| !self.is_told)?;
        Some(GpuAction::Tell {
            token: part.token,
            rank: part.rank,
            overuse,
        })
    }
}
