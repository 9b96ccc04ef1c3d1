//! One test for each rule of the watch over GPUs.

use agent::{GpuAction, GpuLook, GpuPart, GpuWatch};
use proptest::prelude::*;
use state_machine::VramOveruse;
use types::{AttemptToken, ExperimentId, GpuIndex, Incarnation, LogIndex, Overuse, Timestamp};

const GIB: u64 = 1 << 30;

fn token(experiment: u64) -> AttemptToken {
    AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(experiment),
        attempt: 1,
        placed_at: LogIndex(experiment),
    }
}

/// Half of a GPU of 24 GiB, of which so much is used.
fn half(used_bytes: u64) -> GpuPart {
    GpuPart {
        token: token(1),
        rank: 0,
        gpu: GpuIndex(3),
        granted_milli: 500,
        granted_bytes: 12 * GIB,
        used_bytes,
        problem: None,
        policy: Overuse::Warn,
        is_adopted: false,
    }
}

/// A watch with the number of its next look.
#[derive(Default)]
struct Eyes {
    watch: GpuWatch,
    number: u64,
}

impl Eyes {
    fn look(&mut self, parts: &[GpuPart]) -> Vec<GpuAction> {
        self.number += 1;
        self.again(parts)
    }

    /// The same answer of the driver once more.
    fn again(&mut self, parts: &[GpuPart]) -> Vec<GpuAction> {
        self.watch.step(&GpuLook {
            number: self.number,
            at: Timestamp(self.number * 1_000),
            parts: parts.to_vec(),
        })
    }

    /// What is to be told at this look, and tells it.
    fn tell(&mut self, parts: &[GpuPart]) -> Option<VramOveruse> {
        let actions = self.look(parts);
        let told = actions.iter().find_map(|action| match action {
            GpuAction::Tell { token, overuse, .. } => Some((*token, overuse.clone())),
            GpuAction::Stop { .. } | GpuAction::GiveUp { .. } => None,
        });
        let (token, overuse) = told?;
        self.watch.told(token, &overuse);
        Some(overuse)
    }

    /// Looks so often; nothing is said meanwhile.
    fn silent(&mut self, parts: &[GpuPart], times: u32) {
        for _ in 0..times {
            assert_eq!(self.look(parts), []);
        }
    }
}

#[test]
fn more_than_a_share_in_two_looks_in_a_row_is_told_once_with_its_figures() {
    let mut eyes = Eyes::default();
    eyes.silent(&[half(12 * GIB)], 3);
    let over = [half(20 * GIB)];
    eyes.silent(&over, 1);
    assert_eq!(eyes.again(&over), [], "the same answer twice is one look");
    let told = eyes.tell(&over).unwrap();
    let expected = VramOveruse {
        gpu: GpuIndex(3),
        granted_bytes: 12 * GIB,
        used_bytes: 20 * GIB,
        since: Timestamp(4_000),
        until: None,
        is_stopped: false,
    };
    assert_eq!(told, expected);
    eyes.silent(&over, 5);
    eyes.silent(&[half(22 * GIB)], 1);
    let grown = eyes.tell(&[half(24 * GIB)]).unwrap();
    assert_eq!(
        (grown.used_bytes, grown.since),
        (24 * GIB, Timestamp(4_000))
    );
}

#[test]
fn one_peak_is_no_crime_and_a_share_used_whole_is_none() {
    let mut eyes = Eyes::default();
    for _ in 0..100 {
        eyes.silent(&[half(24 * GIB)], 1);
        eyes.silent(&[half(12 * GIB)], 1);
    }
}

#[test]
fn who_has_a_whole_gpu_may_use_all_of_it_whatever_it_asked_for() {
    let mut eyes = Eyes::default();
    let whole = GpuPart {
        granted_milli: 1_000,
        granted_bytes: 4 * GIB,
        policy: Overuse::Stop,
        ..half(24 * GIB)
    };
    eyes.silent(&[whole], 20);
}

#[test]
fn a_gpu_that_it_was_not_given_is_over_used_from_the_first_byte() {
    let mut eyes = Eyes::default();
    let none = GpuPart {
        granted_milli: 0,
        granted_bytes: 0,
        ..half(1)
    };
    eyes.silent(std::slice::from_ref(&none), 1);
    let told = eyes.tell(&[none]).unwrap();
    assert_eq!((told.granted_bytes, told.used_bytes), (0, 1));
}

#[test]
fn what_nobody_has_taken_down_is_told_again_at_each_look() {
    let mut eyes = Eyes::default();
    let over = [half(20 * GIB)];
    eyes.silent(&over, 1);
    let told = eyes.look(&over);
    assert_eq!(told.len(), 1);
    assert_eq!(eyes.look(&over), told);
    assert_eq!(eyes.again(&over), told);
    let GpuAction::Tell { token, overuse, .. } = &told[0] else {
        unreachable!("a warning: {told:?}");
    };
    eyes.watch.told(*token, overuse);
    eyes.silent(&over, 2);
}

#[test]
fn an_end_is_told_after_a_minute_within_the_share_and_not_before() {
    let mut eyes = Eyes::default();
    let (over, within) = ([half(20 * GIB)], [half(GIB)]);
    eyes.silent(&over, 1);
    eyes.tell(&over).unwrap();
    eyes.silent(&within, 59);
    eyes.silent(&over, 1);
    eyes.silent(&within, 59);
    let told = eyes.tell(&within).unwrap();
    assert_eq!((told.since, told.used_bytes), (Timestamp(1_000), 20 * GIB));
    assert_eq!(told.until, Some(Timestamp(122_000)));
    eyes.silent(&within, 100);
    eyes.silent(&over, 1);
    assert_eq!(eyes.tell(&over).unwrap().until, None, "a new one");
}

#[test]
fn an_end_that_could_not_be_told_is_not_forgotten() {
    let mut eyes = Eyes::default();
    let (over, within) = ([half(20 * GIB)], [half(GIB)]);
    eyes.silent(&over, 1);
    eyes.tell(&over).unwrap();
    eyes.silent(&within, 59);
    for _ in 0..100 {
        assert_eq!(eyes.look(&within).len(), 1);
    }
    assert!(eyes.tell(&within).unwrap().until.is_some());
    eyes.silent(&within, 10);
}

#[test]
fn a_new_node_process_ends_what_the_one_before_may_have_told_of() {
    let mut eyes = Eyes::default();
    // Whoever is adopted is found some looks after the start.
    eyes.silent(&[], 3);
    let there = [GpuPart {
        is_adopted: true,
        ..half(GIB)
    }];
    eyes.silent(&there, 59);
    let told = eyes.tell(&there).unwrap();
    assert!(told.until.is_some());
    eyes.silent(&there, 100);
    // What this process has started needs no such word.
    let newcomer = GpuPart {
        token: token(2),
        ..half(GIB)
    };
    eyes.silent(&[newcomer], 100);
}

#[test]
fn the_policy_stops_the_offender_once_and_no_neighbour() {
    let mut eyes = Eyes::default();
    let strict = |used| GpuPart {
        policy: Overuse::Stop,
        ..half(used)
    };
    let neighbour = GpuPart {
        token: token(2),
        ..strict(3 * GIB)
    };
    let parts = [strict(20 * GIB), neighbour];
    eyes.silent(&parts, 1);
    let actions = eyes.look(&parts);
    let of_offender = |action: &GpuAction| match action {
        GpuAction::Tell {
            token: of, overuse, ..
        }
        | GpuAction::Stop { token: of, overuse } => *of == token(1) && overuse.is_stopped,
        GpuAction::GiveUp { .. } => false,
    };
    assert_eq!(actions.len(), 2, "{actions:?}");
    assert!(actions.iter().all(of_offender), "{actions:?}");
    let stops = |actions: &[GpuAction]| {
        let is_stop = |action: &&GpuAction| matches!(action, GpuAction::Stop { .. });
        actions.iter().filter(is_stop).count()
    };
    assert_eq!(stops(&actions), 1);
    for _ in 0..10 {
        assert_eq!(stops(&eyes.look(&parts)), 0);
    }
}

#[test]
fn an_attempt_is_given_up_when_its_gpu_has_had_a_problem_in_five_looks_in_a_row() {
    let mut eyes = Eyes::default();
    let sick = |problem: Option<&str>| GpuPart {
        problem: problem.map(ToOwned::to_owned),
        ..half(GIB)
    };
    eyes.silent(&[sick(Some("no answer"))], 4);
    eyes.silent(&[sick(None)], 1);
    eyes.silent(&[sick(Some("XID 79"))], 4);
    assert_eq!(eyes.again(&[sick(Some("XID 79"))]), []);
    let expected = GpuAction::GiveUp {
        token: token(1),
        gpu: GpuIndex(3),
        problem: "XID 79".to_owned(),
    };
    assert_eq!(eyes.look(&[sick(Some("XID 79"))]), [expected]);
    eyes.silent(&[sick(Some("XID 79"))], 20);
}

#[test]
fn a_gpu_that_was_not_given_may_fail() {
    let mut eyes = Eyes::default();
    let other = GpuPart {
        granted_milli: 0,
        granted_bytes: 0,
        problem: Some("XID 79".to_owned()),
        ..half(0)
    };
    eyes.silent(&[other], 20);
}

proptest! {
    #[test]
    fn who_stays_within_its_share_is_never_named(
        used in prop::collection::vec((0..=12 * GIB, 0..=24 * GIB, any::<bool>()), 1..200),
    ) {
        let mut eyes = Eyes::default();
        for (good, bad, is_strict) in used {
            let policy = if is_strict { Overuse::Stop } else { Overuse::Warn };
            let greedy = GpuPart { token: token(2), policy, ..half(bad) };
            let actions = eyes.look(&[GpuPart { policy, ..half(good) }, greedy]);
            for action in actions {
                let (GpuAction::Tell { token: of, .. }
                | GpuAction::Stop { token: of, .. }
                | GpuAction::GiveUp { token: of, .. }) = action;
                prop_assert_eq!(of, token(2));
            }
        }
    }
}
