//! One test for each rule of the agent, and random inputs.

use agent::{Action, Agent, AgentConfig, AttemptPhase, Input, LocalAttempt, StopReason};
use proptest::prelude::*;
use types::{
    AttemptToken, CauseKind, DurationMs, Environment, ExperimentId, ExperimentSpec, Incarnation,
    LogIndex, Policy, QueueName, ResourceRequest, Resources, WantedAttempt, WantedSet,
};

const LEASE: DurationMs = DurationMs(5_000);

fn token(experiment: u64) -> AttemptToken {
    AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(experiment),
        attempt: 1,
        placed_at: LogIndex(experiment),
    }
}

fn wanted(experiment: u64) -> WantedAttempt {
    let spec = ExperimentSpec {
        name: "x".to_owned(),
        command: vec!["true".to_owned()],
        source: None,
        working_directory: String::new(),
        variables: Vec::new(),
        environment: Environment::Host,
        parameters: Vec::new(),
        resources: ResourceRequest::default(),
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy: Policy::default(),
        outputs: types::Outputs::default(),
        origin: None,
    };
    WantedAttempt {
        token: token(experiment),
        rank: 0,
        gang: Vec::new(),
        spec,
        submitted_by: "ann@box1".to_owned(),
        resources: Resources::default(),
        mirror: None,
        lease_ms: LEASE,
        stop_requested_by: None,
    }
}

fn set(index: u64, attempts: Vec<WantedAttempt>) -> WantedSet {
    WantedSet {
        incarnation: Incarnation(1),
        index: LogIndex(index),
        attempts,
    }
}

fn stopped(experiment: u64) -> WantedAttempt {
    WantedAttempt {
        stop_requested_by: Some("ann@box1".to_owned()),
        ..wanted(experiment)
    }
}

fn granted(experiment: u64, sent_at: u64) -> Input {
    Input::LeaseGranted {
        token: token(experiment),
        sent_at_boottime_ms: sent_at,
        length: LEASE,
    }
}

fn refused(experiment: u64) -> Input {
    Input::LeaseRefused {
        token: token(experiment),
        why: "not current".to_owned(),
    }
}

fn local(experiment: u64, phase: AttemptPhase) -> LocalAttempt {
    LocalAttempt {
        token: token(experiment),
        rank: 0,
        phase,
    }
}

fn asks(experiments: &[u64]) -> Action {
    Action::RequestLease {
        tokens: experiments.iter().copied().map(token).collect(),
    }
}

/// An agent whose executor has nothing.
fn idle() -> Agent {
    let mut agent = Agent::new(AgentConfig::default());
    assert!(agent.step(0, Input::Running(Vec::new())).is_empty());
    agent
}

/// An agent that runs attempt 1 under a lease asked for at time 0, its start committed.
fn running() -> Agent {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    agent.step(10, granted(1, 0));
    agent.step(20, Input::Started { token: token(1) });
    agent.step(30, Input::StartCommitted { token: token(1) });
    agent
}

#[test]
fn a_start_needs_a_lease_and_counts_it_from_the_request() {
    let mut agent = idle();
    let first = agent.step(100, Input::Wanted(set(1, vec![wanted(1)]), false));
    assert_eq!(first, [asks(&[1])], "asked for at once");
    let start = agent.step(150, granted(1, 100));
    assert_eq!(
        start,
        [Action::Start(Box::new(wanted(1)), 100 + 5_000 - 200)]
    );
    assert!(agent.step(160, Input::Tick).is_empty(), "started once");
}

#[test]
fn nothing_starts_before_the_executor_has_said_what_it_has() {
    let mut agent = Agent::new(AgentConfig::default());
    let early = agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    assert!(early.is_empty());
    let adopted = agent.step(1, Input::Running(vec![local(1, AttemptPhase::Running)]));
    assert!(adopted.contains(&asks(&[1])));
    assert!(
        !adopted
            .iter()
            .any(|action| matches!(action, Action::Start(..)))
    );
    let extended = agent.step(5, granted(1, 1));
    assert_eq!(
        extended,
        [Action::Extend {
            token: token(1),
            deadline_boottime_ms: 4_801
        }]
    );
}

#[test]
fn a_grant_that_comes_too_late_starts_nothing() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    assert_eq!(agent.step(4_900, granted(1, 0)), [asks(&[1])]);
}

#[test]
fn a_lower_wanted_set_is_never_acted_on() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(9, Vec::new()), true));
    assert!(
        agent
            .step(1, Input::Wanted(set(8, vec![wanted(1)]), true))
            .is_empty()
    );
    let mut newer = set(1, vec![wanted(1)]);
    newer.incarnation = Incarnation(2);
    assert_eq!(agent.step(2, Input::Wanted(newer, true)), [asks(&[1])]);
    assert!(
        agent
            .step(3, Input::Wanted(set(99, Vec::new()), true))
            .is_empty()
    );
    assert_eq!(agent.seen(), Some((Incarnation(2), LogIndex(1))));
}

#[test]
fn leases_are_renewed_after_a_third_and_asked_again_until_answered() {
    let mut agent = running();
    assert_eq!(agent.next_wake(), Some(1_666));
    assert!(agent.step(1_665, Input::Tick).is_empty());
    assert_eq!(agent.step(1_666, Input::Tick), [asks(&[1])]);
    assert!(agent.step(1_700, Input::Tick).is_empty());
    assert_eq!(agent.step(2_166, Input::Tick), [asks(&[1])]);
    assert_eq!(
        agent.step(2_200, granted(1, 2_166)),
        [Action::Extend {
            token: token(1),
            deadline_boottime_ms: 6_966
        }]
    );
    assert!(
        agent.step(2_300, granted(1, 1_666)).is_empty(),
        "a deadline never moves back"
    );
}

#[test]
fn a_long_lease_is_renewed_so_often_that_four_minutes_are_always_left() {
    let mut agent = running();
    let length = DurationMs::from_secs(300);
    let grant = |sent_at| Input::LeaseGranted {
        token: token(1),
        sent_at_boottime_ms: sent_at,
        length,
    };
    agent.step(1_000, grant(1_000));
    let asked = agent.next_wake().expect("a renewal");
    assert_eq!(agent.step(asked, Input::Tick), [asks(&[1])]);
    // The majority is lost just before the answer, and an election follows its return.
    let left = 1_000 + length.0 - asked;
    assert!(left >= 270_000, "{left} ms are left");
}

#[test]
fn requests_of_several_attempts_travel_together() {
    let mut agent = idle();
    let both = vec![wanted(1), wanted(2)];
    assert_eq!(
        agent.step(0, Input::Wanted(set(1, both), true)),
        [asks(&[1, 2])]
    );
}

#[test]
fn a_lease_that_runs_out_ends_the_attempt_for_good() {
    let mut agent = running();
    let actions = agent.step(4_800, Input::Tick);
    assert_eq!(
        actions,
        [Action::Stop {
            token: token(1),
            reason: StopReason::LeaseExpired,
            grace: DurationMs(0)
        }]
    );
    assert!(
        agent.step(4_810, granted(1, 4_000)).is_empty(),
        "a late grant revives nothing"
    );
    assert_eq!(StopReason::LeaseExpired.cause(), CauseKind::LeaseExpired);
}

#[test]
fn a_refused_lease_stops_at_once() {
    let mut agent = running();
    let actions = agent.step(40, refused(1));
    assert!(matches!(
        &actions[..],
        [Action::Stop {
            reason: StopReason::Stale { .. },
            grace: DurationMs(0),
            ..
        }]
    ));
    assert!(agent.step(50, refused(1)).is_empty(), "said once");
}

#[test]
fn an_attempt_refused_before_its_start_is_not_asked_for_again() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), false));
    assert!(agent.step(10, refused(1)).is_empty());
    assert!(
        agent
            .step(10_000, Input::Wanted(set(2, vec![wanted(1)]), false))
            .is_empty()
    );
    assert_eq!(agent.next_wake(), None);
}

#[test]
fn a_stop_request_is_graceful_and_the_lease_goes_on() {
    let mut agent = running();
    let actions = agent.step(40, Input::Wanted(set(2, vec![stopped(1)]), false));
    assert_eq!(
        actions,
        [Action::Stop {
            token: token(1),
            reason: StopReason::Requested {
                by: "ann@box1".to_owned()
            },
            grace: DurationMs(10_000)
        }]
    );
    assert!(
        agent
            .step(50, Input::Wanted(set(3, vec![stopped(1)]), true))
            .is_empty()
    );
    assert_eq!(agent.step(1_700, Input::Tick), [asks(&[1])]);
    let hard = agent.step(4_800, Input::Tick);
    assert!(hard.iter().any(|action| matches!(
        action,
        Action::Stop {
            reason: StopReason::LeaseExpired,
            ..
        }
    )));
}

#[test]
fn a_stop_before_the_start_is_reported_and_starts_nothing() {
    let mut agent = idle();
    let never = Action::ReportNeverStarted {
        token: token(1),
        rank: 0,
        by: "ann@box1".to_owned(),
    };
    let first = agent.step(0, Input::Wanted(set(1, vec![stopped(1)]), true));
    assert_eq!(first, std::slice::from_ref(&never));
    assert_eq!(agent.next_wake(), Some(2_000));
    assert_eq!(agent.step(2_000, Input::Tick), [never]);
    assert!(
        agent
            .step(2_100, Input::ReportCommitted { token: token(1) })
            .is_empty()
    );
    assert!(agent.step(9_000, Input::Tick).is_empty());
}

#[test]
fn unconfirmed_absence_only_asks_and_confirmed_absence_stops() {
    let mut agent = running();
    let asked = agent.step(40, Input::Wanted(set(2, Vec::new()), false));
    assert_eq!(asked, [asks(&[1])], "the leader's answer is the proof");
    let stopped = agent.step(50, Input::Wanted(set(3, Vec::new()), true));
    assert!(matches!(
        &stopped[..],
        [Action::Stop {
            reason: StopReason::Stale { .. },
            ..
        }]
    ));
}

#[test]
fn a_set_from_before_the_placement_says_nothing_of_it() {
    let mut agent = Agent::new(AgentConfig::default());
    agent.step(0, Input::Running(vec![local(5, AttemptPhase::Running)]));
    let before = agent.step(1, Input::Wanted(set(4, Vec::new()), true));
    assert!(before.is_empty(), "found by the simulation, seed 2664");
    let after = agent.step(2, Input::Wanted(set(5, Vec::new()), true));
    assert!(matches!(
        &after[..],
        [Action::Stop {
            reason: StopReason::Stale { .. },
            ..
        }]
    ));
}

#[test]
fn an_end_is_reported_until_it_is_committed_then_released() {
    let mut agent = running();
    let report = Action::ReportEnded {
        token: token(1),
        rank: 0,
    };
    assert_eq!(
        agent.step(100, Input::Ended { token: token(1) }),
        std::slice::from_ref(&report)
    );
    // Absence from the wanted set does not hush it: the report may be a late success.
    assert!(
        agent
            .step(200, Input::Wanted(set(2, Vec::new()), true))
            .is_empty()
    );
    // Until then its lease is kept: given up and run again, its success would come too late.
    let lease = Action::RequestLease {
        tokens: vec![token(1)],
    };
    assert_eq!(agent.step(2_100, Input::Tick), [lease, report]);
    assert_eq!(
        agent.step(2_200, Input::ReportCommitted { token: token(1) }),
        [Action::Release { token: token(1) }]
    );
    assert_eq!(agent.next_wake(), None);
}

#[test]
fn a_finished_attempt_in_an_old_set_is_not_started_again() {
    let mut agent = running();
    agent.step(100, Input::Ended { token: token(1) });
    agent.step(110, Input::ReportCommitted { token: token(1) });
    assert!(
        agent
            .step(120, Input::Wanted(set(1, vec![wanted(1)]), true))
            .is_empty()
    );
    assert!(
        agent
            .step(10_000, Input::Wanted(set(2, vec![wanted(1)]), true))
            .is_empty()
    );
}

#[test]
fn a_start_is_reported_until_it_is_committed() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    agent.step(10, granted(1, 0));
    let report = Action::ReportStarted {
        token: token(1),
        rank: 0,
    };
    assert_eq!(
        agent.step(20, Input::Started { token: token(1) }),
        std::slice::from_ref(&report)
    );
    assert!(agent.step(2_020, Input::Tick).contains(&report));
    agent.step(2_030, Input::StartCommitted { token: token(1) });
    assert!(!agent.step(4_100, Input::Tick).contains(&report));
}

#[test]
fn what_was_said_during_preparation_is_said_again_when_it_runs() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    agent.step(10, granted(1, 0));
    agent.step(1_700, granted(1, 1_690));
    agent.step(1_800, Input::Wanted(set(2, vec![stopped(1)]), true));
    let actions = agent.step(1_900, Input::Started { token: token(1) });
    let extend = Action::Extend {
        token: token(1),
        deadline_boottime_ms: 6_490,
    };
    assert!(actions.contains(&extend), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(
        action,
        Action::Stop {
            reason: StopReason::Requested { .. },
            ..
        }
    )));
    assert!(agent.step(1_910, Input::Tick).is_empty());
}

#[test]
fn an_attempt_that_could_not_be_prepared_is_released_when_its_report_is_committed() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    agent.step(10, granted(1, 0));
    assert_eq!(
        agent.step(20, Input::ReportCommitted { token: token(1) }),
        [Action::Release { token: token(1) }]
    );
    assert!(agent.step(9_000, Input::Tick).is_empty());
}

#[test]
fn the_commit_of_the_start_does_not_hide_the_end() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    agent.step(10, granted(1, 0));
    agent.step(20, Input::Started { token: token(1) });
    agent.step(30, Input::Ended { token: token(1) });
    assert!(
        agent
            .step(40, Input::StartCommitted { token: token(1) })
            .is_empty()
    );
    assert!(
        agent
            .step(2_100, Input::Tick)
            .contains(&Action::ReportEnded {
                token: token(1),
                rank: 0
            })
    );
}

#[test]
fn an_attempt_that_vanishes_from_the_executor_has_ended() {
    let mut agent = running();
    let actions = agent.step(100, Input::Running(Vec::new()));
    assert_eq!(
        actions,
        [Action::ReportEnded {
            token: token(1),
            rank: 0
        }]
    );
}

#[test]
fn a_list_taken_before_the_start_ends_nothing() {
    let mut agent = idle();
    agent.step(0, Input::Wanted(set(1, vec![wanted(1)]), true));
    agent.step(10, granted(1, 0));
    assert!(agent.step(11, Input::Running(Vec::new())).is_empty());
}

/// The wanted set at `index`: attempt n from 2n on, stopped by a person after six, gone after twelve.
fn history(index: u64) -> WantedSet {
    let age = |at: u64| index.checked_sub(2 * at).filter(|age| *age < 12);
    let attempts = (1..4).filter_map(|at| {
        let wanted = if age(at)? < 6 {
            wanted(at)
        } else {
            stopped(at)
        };
        Some(wanted)
    });
    set(index, attempts.collect())
}

fn input() -> impl Strategy<Value = (u64, u8, u64, u64, bool)> {
    (0_u64..3_000, 0_u8..9, 1_u64..4, 0_u64..8, any::<bool>())
}

proptest! {
    #[test]
    fn any_inputs_start_each_attempt_once_under_a_live_lease_and_never_spin(
        inputs in prop::collection::vec(input(), 1..80),
    ) {
        let mut agent = idle();
        let mut now = 0_u64;
        let mut started = Vec::new();
        let mut hard_stopped = Vec::new();
        for (delay, kind, experiment, number, flag) in inputs {
            now += delay;
            let index = now / 1_000;
            if kind == 5 {
                hard_stopped.retain(|stopped| *stopped != token(experiment)); // Said again once it runs.
            }
            let input = match kind {
                // Old and new sets of one history: an attempt is wanted for twelve indexes, once.
                0 | 1 => Input::Wanted(history(index.saturating_sub(number % 4)), flag),
                2 | 3 => granted(experiment, now.saturating_sub(number * 700)),
                4 => refused(experiment),
                5 => Input::Started { token: token(experiment) },
                6 => Input::Ended { token: token(experiment) },
                7 => Input::ReportCommitted { token: token(experiment) },
                _ => Input::Tick,
            };
            for action in agent.step(now, input) {
                match action {
                    Action::Start(wanted, deadline) => {
                        prop_assert!(deadline > now, "started under a dead lease");
                        prop_assert!(!started.contains(&wanted.token), "started twice");
                        started.push(wanted.token);
                    }
                    Action::Extend { token, deadline_boottime_ms } => {
                        prop_assert!(deadline_boottime_ms > now);
                        prop_assert!(!hard_stopped.contains(&token), "extended after its end");
                    }
                    Action::Stop { token, grace: DurationMs(0), .. } => {
                        prop_assert!(!hard_stopped.contains(&token), "stopped hard twice");
                        hard_stopped.push(token);
                    }
                    Action::RequestLease { .. } | Action::Stop { .. } | Action::ReportStarted { .. }
                    | Action::ReportEnded { .. } | Action::ReportNeverStarted { .. } | Action::Release { .. } => {}
                }
            }
            prop_assert!(agent.next_wake().is_none_or(|wake| wake > now), "wakes at {:?}, now {now}", agent.next_wake());
            let again = agent.clone().step(now, Input::Tick);
            prop_assert!(again.is_empty(), "nothing left to do at {now}: {again:?}");
        }
    }
}
