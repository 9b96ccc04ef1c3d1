//! Nobody waits for ever: the bound that [`scheduler::place_next`] promises, over random streams of work.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scheduler::{SchedulerConfig, place_next};
use state_machine::{Command, ExperimentPhase, Outcome};
use types::{AttemptToken, DurationMs, ExperimentId, Policy, ResourceRequest, Timestamp};

use crate::leader::{Leader, ask, report};

const MINUTE: DurationMs = DurationMs::from_secs(60);
/// No attempt of these streams runs for longer.
const LONGEST: DurationMs = DurationMs(60 * MINUTE.0);
/// Age at which shares stop to count in these streams.
const SERVE_AFTER: DurationMs = DurationMs(120 * MINUTE.0);

/// One experiment of a stream.
#[derive(Clone, Debug)]
struct Job {
    /// Minutes after the one before it.
    after: u64,
    user: u8,
    request: ResourceRequest,
    /// Within one class.
    priority: i32,
    /// Minutes that it runs.
    runs: u64,
    /// Minutes that its owner says it runs at most; none: nobody says.
    says: Option<u64>,
}

impl Job {
    fn policy(&self) -> Policy {
        Policy {
            time_limit_ms: DurationMs(self.says.unwrap_or(0) * MINUTE.0),
            priority: self.priority,
            ..Policy::default()
        }
    }
}

/// A cluster on which what is placed runs for a time and ends, minute by minute.
struct Stream {
    leader: Leader,
    config: SchedulerConfig,
    /// Minutes that each experiment runs.
    runs: BTreeMap<ExperimentId, u64>,
    ends: BTreeSet<(Timestamp, AttemptToken)>,
    queued: BTreeMap<ExperimentId, Timestamp>,
    started: BTreeMap<ExperimentId, Timestamp>,
}

impl Stream {
    fn on(cores: &[u64]) -> Self {
        let reports = "abcd".chars().zip(cores);
        let reports = reports.map(|(name, cores)| report(&name.to_string(), *cores, 64, &[]));
        Self {
            leader: Leader::of(reports.collect()),
            config: SchedulerConfig {
                serve_after: SERVE_AFTER,
                ..SchedulerConfig::default()
            },
            runs: BTreeMap::new(),
            ends: BTreeSet::new(),
            queued: BTreeMap::new(),
            started: BTreeMap::new(),
        }
    }

    fn submit(&mut self, user: &str, job: &Job) -> ExperimentId {
        let id = self
            .leader
            .submit_by(user, job.request.clone(), job.policy());
        self.runs.insert(id, job.runs);
        self.queued.insert(id, self.leader.now);
        id
    }

    /// Ends what is over and places what fits.
    fn look(&mut self) {
        while let Some((_, token)) = self.ends.first().filter(|end| end.0 <= self.leader.now) {
            self.leader.finish(*token);
            self.ends.pop_first();
        }
        self.config.clock = self.leader.now;
        let (state, view) = (&self.leader.state, &self.leader.view);
        for placement in place_next(state, view, self.leader.now, &self.config) {
            let Outcome::Placed(token) = self.leader.apply(Command::PlaceAttempt(placement)) else {
                unreachable!("a round is accepted whole");
            };
            let runs = DurationMs(self.runs[&token.experiment] * MINUTE.0);
            self.ends.insert((self.leader.now + runs, token));
            self.started.insert(token.experiment, self.leader.now);
        }
    }

    fn pass_minutes(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.leader.pass(MINUTE);
            self.look();
        }
    }

    /// Lets all that was submitted start, or time pass in which all of it should have.
    fn drain(&mut self) {
        let most = SERVE_AFTER.0 + 2 * LONGEST.0 * (self.queued.len() as u64 + 1);
        for _ in 0..most / MINUTE.0 {
            if self.started.len() == self.queued.len() {
                return;
            }
            self.pass_minutes(1);
        }
    }

    /// How many older ones waited when this one came.
    fn before(&self, id: ExperimentId) -> u64 {
        let came = self.queued[&id];
        let place = |other: &ExperimentId| {
            let known = self.leader.state.experiment(*other).expect("it is hot");
            (self.queued[other], known.submitted_index)
        };
        let waited = |other: &&ExperimentId| {
            place(other) < place(&id) && self.started.get(*other).is_none_or(|at| *at >= came)
        };
        self.queued.keys().filter(waited).count() as u64
    }
}

fn job(most_cores: u64) -> impl Strategy<Value = Job> {
    let says = prop_oneof![Just(None), (0_u64..30).prop_map(Some)];
    (
        0_u64..12,
        0_u8..4,
        1..=most_cores,
        0_i32..100,
        1_u64..31,
        says,
    )
        .prop_map(|(after, user, cores, priority, runs, more)| Job {
            after,
            user,
            request: ask(cores, 1),
            priority,
            runs,
            says: more.map(|more| runs + more),
        })
}

fn streams() -> impl Strategy<Value = (Vec<u64>, Vec<Job>)> {
    let cores = prop::collection::vec(1_u64..9, 1..4);
    cores.prop_flat_map(|cores| {
        let most = cores.iter().max().copied().unwrap_or(1);
        (Just(cores), prop::collection::vec(job(most), 1..60))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Users of any shares, priorities within a class, known and unknown times.
    #[test]
    fn everybody_starts_within_the_bound((cores, jobs) in streams()) {
        let mut stream = Stream::on(&cores);
        for job in &jobs {
            stream.pass_minutes(job.after);
            stream.submit(&format!("user{}", job.user), job);
            stream.look();
        }
        stream.drain();
        for (id, came) in &stream.queued {
            let before = stream.before(*id);
            let most = SERVE_AFTER.0 + 2 * (before + 1) * LONGEST.0 + MINUTE.0;
            let Some(start) = stream.started.get(id) else {
                return Err(TestCaseError::fail(format!("{id} never started")));
            };
            prop_assert!(start.since(*came).0 <= most, "{id} behind {before} waited {}", start.since(*came));
        }
    }

    /// One user, equal priorities, known times: who is first stays first, and what passes it does not delay it.
    #[test]
    fn backfill_never_delays_the_first_in_line((cores, jobs) in streams()) {
        let mut stream = Stream::on(&cores);
        let mut promised: BTreeMap<ExperimentId, Timestamp> = BTreeMap::new();
        let promise = |stream: &Stream, promised: &mut BTreeMap<_, _>| {
            let first = stream.leader.state.waiting().next().map(|one| one.id);
            if let Some(first) = first {
                let ready = ready_at(stream, &cores, first);
                promised.entry(first).or_insert(ready);
            }
        };
        for job in &jobs {
            let job = Job { priority: 0, says: Some(job.says.unwrap_or(job.runs)), ..job.clone() };
            for _ in 0..job.after {
                stream.pass_minutes(1);
                promise(&stream, &mut promised);
            }
            stream.submit("ann", &job);
            stream.look();
            promise(&stream, &mut promised);
        }
        stream.drain();
        for (id, ready) in promised {
            let start = stream.started.get(&id);
            prop_assert!(start.is_some_and(|start| *start <= ready), "{id}: {start:?} after {ready:?}");
        }
    }
}

/// When the node that is ready first has room if all runs as long as was said and nothing else is placed.
fn ready_at(stream: &Stream, cores: &[u64], id: ExperimentId) -> Timestamp {
    let state = &stream.leader.state;
    let need = state
        .experiment(id)
        .expect("it is hot")
        .spec
        .resources
        .cpu_milli;
    let nodes = "abcd".chars().map(|name| name.to_string()).zip(cores);
    let ready = nodes
        .filter(|(_, cores)| *cores * 1_000 >= need)
        .map(|(name, cores)| {
            let running = state
                .active()
                .filter(|(_, attempt)| attempt.ranks[0].placement.node.to_string() == name);
            let mut ends: Vec<_> = running
                .map(|(one, attempt)| {
                    let says = one.spec.policy.duration().expect("all times are said");
                    let cpu_milli = attempt.ranks[0].placement.resources.cpu_milli;
                    (attempt.placed_at + says, cpu_milli)
                })
                .collect();
            ends.sort_unstable();
            let taken: u64 = ends.iter().map(|(_, cpu_milli)| cpu_milli).sum();
            let mut free = cores * 1_000 - taken;
            let mut at = stream.leader.now;
            for (end, freed) in ends {
                if free >= need {
                    break;
                }
                free += freed;
                at = at.max(end);
            }
            at
        });
    ready.min().expect("it fits some node")
}

/// Somebody who has had much waits for a whole machine, while ever new people come for a part of it.
fn behind_new_people(serve_after: DurationMs) -> Option<DurationMs> {
    let mut stream = Stream::on(&[4]);
    stream.config.serve_after = serve_after;
    let small = Job {
        after: 0,
        user: 0,
        request: ask(2, 1),
        priority: 0,
        runs: 30,
        says: None,
    };
    let whole = Job {
        request: ask(4, 1),
        ..small.clone()
    };
    stream.submit("ann", &whole);
    stream.look();
    let waits = stream.submit("ann", &whole);
    for number in 0..60 {
        // Two wait at any time, so that one of them is always first.
        stream.submit(&format!("new{number}"), &small);
        stream.submit(&format!("newer{number}"), &small);
        stream.pass_minutes(20);
        if let Some(start) = stream.started.get(&waits) {
            return Some(start.since(stream.queued[&waits]));
        }
    }
    let phase = &stream.leader.state.experiment(waits)?.phase;
    assert!(matches!(phase, ExperimentPhase::Queued { .. }));
    None
}

#[test]
fn who_has_waited_for_long_goes_before_ever_new_people_with_no_share() {
    assert_eq!(behind_new_people(DurationMs(u64::MAX)), None);
    let waited = behind_new_people(SERVE_AFTER).expect("it starts");
    assert!(waited >= SERVE_AFTER, "{waited}");
    assert!(waited.0 <= SERVE_AFTER.0 + LONGEST.0, "{waited}");
}
