//! Virtual time and everything in it. One thread runs all; each draw of chance comes from one seed.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::host::Host;
use crate::invariants::Invariants;
use crate::network::Links;
use crate::plant::{Plant, Point, Setup};
use crate::random::Random;
use crate::runtime::lock;
use crate::seen::{Seen, Trace};

/// Chance of a crash at each point of a durable step, in a million, while faults happen.
const CRASH_PER_MILLION: u64 = 1_500;
/// The same where the history is told to crash, at a step that happens all the time.
const FOCUSED_CRASH_PER_MILLION: u64 = 30_000;
/// The same at a rare step.
const FOCUSED_RARE_CRASH_PER_MILLION: u64 = 300_000;
/// A sync on a good disk, at most.
const SYNC_MS: u64 = 6;

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Faults of the adversary.
    pub faults: u64,
    /// Crashes at an await inside a durable step.
    pub crashes_inside: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// Messages delivered long after they were sent.
    pub late_messages: u64,
    /// Writes that clients were told of.
    pub writes: u64,
    /// Reads that clients got.
    pub reads: u64,
    /// Requests that clients had to repeat.
    pub retries: u64,
    /// Snapshots taken.
    pub snapshots_built: u64,
    /// Snapshots taken over, from a leader or at a start.
    pub snapshots_installed: u64,
    /// Changes of voters or learners that were made.
    pub membership_changes: u64,
    /// Processes of attempts.
    pub processes: u64,
    /// Attempts given up because their lease ran out.
    pub given_up: u64,
    /// From the end of the faults to the first write that was served.
    pub healed_after_ms: u64,
}

/// What changes.
pub(crate) struct Inner {
    pub(crate) random: Random,
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: Links,
    pub(crate) invariants: Invariants,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    pub(crate) wrong: Option<String>,
    /// Faults happen now.
    pub(crate) storms: bool,
    /// Where nodes crashed.
    pub(crate) crashed_at: BTreeSet<Point>,
    /// Highest index that any client was told of or shown.
    pub(crate) shown: u64,
}

/// Everything.
pub(crate) struct World {
    pub(crate) plant: Plant,
    crash_at: Option<Point>,
    /// Entries between two snapshots.
    pub(crate) snapshot_every: u64,
    verbose: bool,
    started: Instant,
    inner: Mutex<Inner>,
    /// Something that must never be, was.
    pub(crate) stop: Notify,
}

impl World {
    pub(crate) fn new(mut random: Random, setup: &Setup) -> Arc<Self> {
        // Six and more have workers, which hold no replica.
        let count = [3, 4, 5, 6, 6, 7, 8, 9][random.index(8)];
        let hosts = (0..count)
            .map(|number| Host::new(number, &mut random))
            .collect();
        let snapshot_every = random.range(15..150);
        let inner = Inner {
            random,
            hosts,
            links: Links::default(),
            invariants: Invariants::default(),
            trace: Trace::default(),
            counts: Counts::default(),
            wrong: None,
            storms: false,
            crashed_at: BTreeSet::new(),
            shown: 0,
        };
        Arc::new(Self {
            plant: setup.plant,
            crash_at: setup.crash_at,
            snapshot_every,
            verbose: setup.verbose,
            started: Instant::now(),
            inner: Mutex::new(inner),
            stop: Notify::new(),
        })
    }

    /// Virtual milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks or changes; never across an await.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut lock(&self.inner))
    }

    pub(crate) fn size(&self) -> u64 {
        self.with(|inner| inner.hosts.len() as u64)
    }

    pub(crate) fn range(&self, range: std::ops::Range<u64>) -> u64 {
        self.with(|inner| inner.random.range(range))
    }

    pub(crate) fn chance(&self, permille: u64) -> bool {
        self.with(|inner| inner.random.chance(permille))
    }

    /// Writes the event into the trace and checks all invariants.
    pub(crate) fn see(&self, seen: &Seen<'_>) {
        let now = self.now();
        let result = self.with(|inner| {
            let mut words = seen.words();
            words.push(now);
            inner.trace.add(&words);
            inner.invariants.see(seen)
        });
        if self.verbose {
            self.say(&seen.line());
        }
        if let Err(what) = result {
            self.fail(&what);
        }
    }

    /// The first thing that is wrong ends the history.
    pub(crate) fn fail(&self, what: &str) {
        let now = self.now();
        self.with(|inner| {
            inner
                .wrong
                .get_or_insert(format!("at {now} ms: {what}"))
                .len()
        });
        self.stop.notify_one();
    }

    /// A line for people who watch a replay; it is part of the trace.
    pub(crate) fn note(&self, line: impl FnOnce() -> String, words: &[u64]) {
        let now = self.now();
        self.with(|inner| {
            inner.trace.add(&[99, now]);
            inner.trace.add(words);
        });
        if self.verbose {
            self.say(&line());
        }
    }

    fn say(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        // A closed pipe ends nothing: whoever reads has seen enough.
        drop(writeln!(out, "{:>8} ms  {line}", self.now()));
    }

    /// A step that must survive a crash right here.
    pub(crate) async fn crash_point(self: &Arc<Self>, node: u64, point: Point) {
        let often = match point {
            _ if self.crash_at != Some(point) => CRASH_PER_MILLION,
            Point::BeforeSync | Point::AfterSync | Point::Applied => FOCUSED_CRASH_PER_MILLION,
            _ => FOCUSED_RARE_CRASH_PER_MILLION,
        };
        let hit = self.with(|inner| inner.storms && inner.random.range(0..1_000_000) < often);
        if hit {
            self.with(|inner| {
                inner.counts.crashes_inside += 1;
                inner.crashed_at.insert(point);
            });
            self.note(|| format!("n{node} crashes at {point:?}"), &[node]);
            let (power, down) =
                self.with(|inner| (inner.random.chance(400), inner.random.range(20..8_000)));
            self.crash(node, power);
            self.restart_after(node, down);
            // The task was dropped with all others of its process.
            std::future::pending().await
        }
    }

    /// The time that a sync takes.
    pub(crate) async fn sync_time(&self, node: u64) {
        let time = self.with(|inner| {
            let is_slow = inner.hosts[index(node)].slow_disk;
            let longest = if is_slow { 2_500 } else { SYNC_MS };
            inner.random.range(0..longest)
        });
        if time > 0 {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
    }

    /// Who has this entry durably, and which quorums may have committed it as `node` knows them: those of the newest
    /// membership in its log and of the one before.
    pub(crate) fn durability(
        &self,
        node: u64,
        term: u64,
        at: u64,
    ) -> (BTreeSet<u64>, Vec<Vec<BTreeSet<u64>>>) {
        self.with(|inner| {
            if at <= inner.invariants.reference.applied().0 {
                return Default::default(); // Asked for the first time only.
            }
            let has = |host: &&Host| host.disk.synced(|image| image.holds(term, at));
            let durable = inner.hosts.iter().filter(has).map(|host| host.number);
            let durable: BTreeSet<u64> = durable.collect();
            let newest = |image: &crate::disk::Image| -> Vec<_> {
                image.memberships.values().rev().take(2).cloned().collect()
            };
            (durable, inner.hosts[index(node)].disk.view(newest))
        })
    }
}

/// Place of a machine in the list.
pub(crate) fn index(node: u64) -> usize {
    usize::try_from(node).expect("a few machines")
}
